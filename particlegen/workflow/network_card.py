"""From a run to a network card: trained weights that other workflows start from."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from particlegen.io import atomic
from particlegen.settings import InputError

if TYPE_CHECKING:
    from particlegen.workflow.opened import Run

__all__ = ["write_network_card"]


def write_network_card(run: "Run", output: Path) -> list[str]:
    """Write `NAME.yaml` and `NAME.safetensors` beside it; `training: {pretrained: NAME.yaml}` uses them.

    Returns:
        Sentences that say what was written.

    Raises:
        InputError: the file exists, does not end in .yaml, or the run has no trained network yet.
    """
    source = run.folder.weights_file
    weights = output.with_suffix(".safetensors")
    if output.suffix != ".yaml":
        raise InputError(f"{output}: a network card ends in .yaml")
    for file in (output, weights):
        if file.exists():
            raise InputError(f"{file} exists already; choose another name with -o")
    if not source.is_file():
        raise InputError(f"{run.folder.path}: no trained network there yet; see particlegen status")
    content = source.read_bytes()
    system, state = run.built.system, run.built.state
    card = {
        "version": 1,
        "kind": "network",
        "title": f"{system.name}, N = {system.n_particles}, T = {state.temperature:g}",
        "system": run.workflow.system.model_dump(mode="json", exclude_none=True),
        "temperature": state.temperature,
        "system_hash": run.manifest["system_hash"],
        "weights": weights.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "network": run.workflow.network.model_dump(mode="json"),
        "trained_with": {
            "seed": run.workflow.seed,
            "reference": run.workflow.reference.model_dump(mode="json"),
            "interpolant": run.workflow.interpolant.model_dump(mode="json"),
            "training": run.workflow.training.model_dump(mode="json"),
        },
        "citations": run.citations,
    }
    atomic.write_bytes(weights, content)
    atomic.write_text(output, yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=120))
    return [f"wrote {output} and {weights}", f"use it with: training: {{pretrained: {output.name}}}"]
