"""The manifest: versions, seeds, hashes and citations of a run."""

import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from particlegen import __version__
from particlegen.settings import InputError
from particlegen.workflow.base import WorkflowBase
from particlegen.workflow.kind import Provenance
from particlegen.workflow.paths import input_digests
from particlegen.workflow.schema import canonical_yaml

__all__ = ["build_manifest", "check_manifest"]

LIBRARIES = ("torch", "numpy", "numba", "scipy", "h5py", "freud-analysis", "pydantic", "safetensors")


def build_manifest(
    workflow: WorkflowBase,
    provenance: Provenance,
    origin: Mapping[str, Any],
    relative_to: Path,
    name: str,
    device: str,
) -> dict[str, Any]:
    """The content of `manifest.json`."""
    manifest = {
        "name": name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "particlegen": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {library: importlib.metadata.version(library) for library in LIBRARIES},
        "device": device,
        "seed": workflow.seed,
        "workflow_sha256": _digest(canonical_yaml(workflow).encode()),
        "system_hash": provenance.system_hash,
        "cards": {card.name: _digest(card.path.read_bytes()) for card in provenance.cards},
        "engines": dict(provenance.engines),
        "inputs": input_digests(workflow.model_dump(mode="json"), relative_to),
        "relative_to": str(relative_to.resolve()),
        "citations": provenance.citations,
    }
    return manifest | ({"start_from": dict(origin)} if origin else {})


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def check_manifest(manifest: dict[str, Any], workflow: WorkflowBase, provenance: Provenance, path: Path) -> None:
    """Refuse to go on with a run whose input changed since it began.

    Raises:
        InputError: the workflow, the system, the potential or an engine's card is not what the run began with.
    """
    if manifest.get("workflow_sha256") != _digest(canonical_yaml(workflow).encode()):
        raise InputError(
            f"{path / 'workflow.yaml'}: changed since the run began; restore it, or start a new run from it"
        )
    if manifest.get("system_hash") != provenance.system_hash:
        raise InputError(f"{path}: the system's cards changed since the run began; restore them, or start a new run")
    for name, digest in provenance.engines.items():
        if manifest.get("engines", {}).get(name) != digest:
            raise InputError(
                f"{name}: changed, or a file that it names, since the run {path} began; restore it, or start anew"
            )
