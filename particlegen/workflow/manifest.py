"""The manifest: versions, seeds, hashes and citations of a run."""

import hashlib
import importlib.metadata
import platform
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from particlegen import __version__, catalogue
from particlegen.catalogue import Card
from particlegen.energy import BuiltSystem
from particlegen.energy.engine_cards import engine_digest
from particlegen.settings import InputError
from particlegen.workflow.schema import PretrainedSettings, Workflow, canonical_yaml
from particlegen.workflow.stage_training import given_weights, pretrained_card, system_hash

__all__ = ["build_manifest", "check_manifest", "citations"]

LIBRARIES = ("torch", "numpy", "numba", "scipy", "h5py", "freud-analysis", "pydantic", "safetensors")

PACKAGE_CITATION = "particlegen, MIT licence; see CITATION.cff"

METHOD_CITATIONS = {
    "interpolant": "L. Grenioux, L. Galliano, L. Berthier, G. Biroli, M. Gabrié, Boltzmann generators for amorphous "
    "particle systems, arXiv:2512.16607 (2025)",
    "flow matching": "R. T. Q. Chen, Y. Lipman, Flow matching on general geometries, arXiv:2302.03660 (2023)",
    "hollow": "J. Gloy, S. Olsson, HollowFlow, arXiv:2510.21542 (2025)",
    "hutchinson": "M. F. Hutchinson, Commun. Stat. Simul. Comput. 19, 433 (1990)",
    "muon": "K. Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024)",
    "hmc": "S. Duane, A. D. Kennedy, B. J. Pendleton, D. Roweth, Phys. Lett. B 195, 216 (1987)",
    "tempering": "K. Hukushima, K. Nemoto, J. Phys. Soc. Jpn. 65, 1604 (1996)",
    "swap": "A. Ninarello, L. Berthier, D. Coslovich, Phys. Rev. X 7, 021039 (2017)",
    "r_hat": "A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Bürkner, Bayesian Anal. 16, 667 (2021)",
    "pareto_k": "A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry, J. Mach. Learn. Res. 25, 1 (2024)",
    "freud": "V. Ramasubramani et al., Comput. Phys. Commun. 254, 107275 (2020)",
}


def _engine_card(workflow: Workflow, relative_to: Path) -> Card | None:
    name = workflow.energy.engine
    return None if name is None else catalogue.load("potentials", name, relative_to)


def _engine_digest(workflow: Workflow, relative_to: Path) -> str | None:
    name = workflow.energy.engine
    return None if name is None else engine_digest(name, relative_to)


def citations(workflow: Workflow, built: BuiltSystem, cards: Sequence[Card]) -> list[str]:
    """What to cite, from what the workflow uses; a work that several parts cite stands once, order kept.

    Args:
        cards: of the engine and of the trained network, where the workflow names them.
    """
    keys = ["interpolant", "flow matching", "r_hat", "pareto_k"]
    keys += [workflow.network.kind] if workflow.network.kind == "hollow" else []
    training = workflow.training
    keys += ["muon"] if not isinstance(training, PretrainedSettings) and training.optimiser == "muon" else []
    keys += ["hutchinson"] if workflow.generation.likelihood == "hutchinson" else []
    keys += [workflow.reference.sampler] if workflow.reference.sampler in METHOD_CITATIONS else []
    keys += ["freud"] if {"rdf", "structure_factor"} & set(workflow.estimates.observables) else []
    theirs = [str(text) for card in cards for text in card.data.get("citations", ())]
    found = [PACKAGE_CITATION, *built.citations, *(METHOD_CITATIONS[key] for key in keys), *theirs]
    by_work = {(match[0] if (match := re.search(r"arXiv:[\d.]+\d", text)) else text): text for text in reversed(found)}
    return list(reversed(by_work.values()))


def build_manifest(workflow: Workflow, built: BuiltSystem, relative_to: Path, name: str, device: str) -> dict[str, Any]:
    """The content of `manifest.json`."""
    given = given_weights(workflow.training)
    engine = _engine_card(workflow, relative_to)
    named = [card for card in (engine, None if given is None else pretrained_card(given, relative_to)) if card]
    return {
        "name": name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "particlegen": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {library: importlib.metadata.version(library) for library in LIBRARIES},
        "device": device,
        "seed": workflow.seed,
        "workflow_sha256": _digest(canonical_yaml(workflow).encode()),
        "system_hash": system_hash(built),
        "cards": {card.name: _digest(card.path.read_bytes()) for card in (built.card, *named)},
        "engine_sha256": _engine_digest(workflow, relative_to),
        "relative_to": str(relative_to.resolve()),
        "citations": citations(workflow, built, named),
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def check_manifest(
    manifest: dict[str, Any], workflow: Workflow, built: BuiltSystem, relative_to: Path, path: Path
) -> None:
    """Refuse to go on with a run whose input changed since it began.

    Raises:
        InputError: the workflow, the system, the potential or the engine's card is not what the run began with.
    """
    if manifest.get("workflow_sha256") != _digest(canonical_yaml(workflow).encode()):
        raise InputError(
            f"{path / 'workflow.yaml'}: changed since the run began; restore it, or start a new run from it"
        )
    if manifest.get("system_hash") != system_hash(built):
        raise InputError(f"{path}: the system's cards changed since the run began; restore them, or start a new run")
    engine = _engine_card(workflow, relative_to)
    if engine is not None and manifest.get("engine_sha256") != _engine_digest(workflow, relative_to):
        raise InputError(
            f"{engine.path}: changed, or a file that it names, since the run {path} began; restore it, or start anew"
        )
