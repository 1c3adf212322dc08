"""Network cards: trained weights and what they are valid for, so that other workflows start from them."""

from collections.abc import Mapping
from pathlib import Path

import torch

from particlegen.energy import BuiltSystem, build_system
from particlegen.io.trained_card import save_trained_card
from particlegen.settings import InputError
from particlegen.workflow.glass.citations import citations
from particlegen.workflow.glass.schema import GlassWorkflow
from particlegen.workflow.glass.training import filled_network, system_hash, weights_metadata
from particlegen.workflow.schema import load_workflow

__all__ = ["save_network", "write_card"]


def save_network(output: str | Path, workflow: str | Path, weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Write weights that were trained outside a run folder as a network card; arguments as `write_card`.

    Args:
        output: the card, `NAME.yaml`; the weights go to `NAME.safetensors` beside it.
        workflow: the workflow that they were trained by, a file or a catalogue name.
        weights: by parameter name, of the network that the workflow describes.

    Raises:
        InputError: a file exists, the workflow is wrong, or the weights are not those of its network.
    """
    loaded, relative_to, _ = load_workflow(workflow)
    if not isinstance(loaded, GlassWorkflow):
        raise InputError(f"{workflow}: kind: {loaded.kind} trains no network of this sort; a glass workflow is needed")
    return write_card(Path(output), loaded, build_system(loaded.system, relative_to=relative_to), weights)


def write_card(
    output: Path, workflow: GlassWorkflow, built: BuiltSystem, weights: Mapping[str, torch.Tensor]
) -> list[str]:
    """Write `NAME.yaml` and `NAME.safetensors`; `training: {pretrained: NAME.yaml}` uses them.

    Returns:
        Sentences that say what was written.

    Raises:
        InputError: a file exists, the name does not end in .yaml, or the weights do not fit the network.
        RunError: the disk is full.
    """
    filled_network(weights, workflow.network, built, output)
    system, state = built.system, built.state
    card = {
        "version": 1,
        "kind": "network",
        "title": f"{system.name}, N = {system.n_particles}, T = {state.temperature:g}",
        "system": workflow.system.model_dump(mode="json", exclude_none=True),
        "temperature": state.temperature,
        "system_hash": system_hash(built),
        "network": workflow.network.model_dump(mode="json"),
        "trained_with": {
            "seed": workflow.seed,
            "energy": workflow.energy.model_dump(mode="json"),
            "reference": workflow.reference.model_dump(mode="json"),
            "interpolant": workflow.interpolant.model_dump(mode="json"),
            "training": workflow.training.model_dump(mode="json"),
        },
        "citations": citations(workflow, built, ()),
    }
    target = save_trained_card(output, card, weights, weights_metadata(workflow, built))
    return [f"wrote {output} and {target}", f"use it with: training: {{pretrained: {output.name}}}"]
