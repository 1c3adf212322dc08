"""What a workflow would do: stages, energy calls, memory and disk, known before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from particlegen.energy import BuiltSystem
from particlegen.networks import build_network
from particlegen.workflow.resources import InlineSettings, ParslSettings, ProcessSettings, Resources
from particlegen.workflow.runner import prepare, prepare_machine
from particlegen.workflow.schema import PretrainedSettings, Workflow

__all__ = ["Plan", "PlannedStage", "plan"]

BASE_MEMORY = 400e6
"""Bytes that the interpreter and its libraries take."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a plan.

    Args:
        name: the stage.
        description: what it does.
        energy_calls: full-energy equivalents; 0 where it makes none.
    """

    name: str
    description: str
    energy_calls: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What a workflow would do.

    Args:
        system: the system in one line.
        machine: device and executor in one line.
        stages: in order.
        memory_bytes: rough resident memory at the peak.
        disk_bytes: rough size of the run folder.
    """

    system: str
    machine: str
    stages: tuple[PlannedStage, ...]
    memory_bytes: float
    disk_bytes: float


def plan(
    workflow: str | Path | Mapping[str, Any],
    set: Mapping[str, Any] | list[str] | None = None,
    resources: str | Path | Resources | None = None,
) -> Plan:
    """The plan of a workflow; arguments and errors as `run`, nothing is written."""
    loaded, built, _, _ = prepare(workflow, set)
    machine, device = prepare_machine(resources)
    system = built.system
    coordinates = system.n_particles * system.dim
    network = build_network(loaded.network, system)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    frames, samples = loaded.reference.frames, loaded.generation.samples
    pairs = system.n_particles**2 * loaded.network.width
    batch = max(getattr(loaded.training, "batch", 0), loaded.generation.chunk)
    activations = 8 * 4 * batch * pairs * (loaded.network.rounds + 1)
    memory = BASE_MEMORY + 2 * 8 * frames * coordinates + 16 * parameters + activations
    disk = 8 * (frames + samples) * (coordinates + 4) + 60 * parameters
    composition = " ".join(f"{name}{n}" for name, n in zip(system.species_names, system.composition, strict=True))
    box = " x ".join(f"{length:.5g}" for length in system.torus.lengths)
    return Plan(
        system=f"{system.name}: N = {system.n_particles} ({composition}), box {box}, T = {built.state.temperature:g}",
        machine=f"{device}; {_workers(machine.executor_for(loaded.reference.workers))}",
        stages=_stages(loaded, built, parameters),
        memory_bytes=memory,
        disk_bytes=disk,
    )


def _workers(executor: InlineSettings | ProcessSettings | ParslSettings) -> str:
    if isinstance(executor, InlineSettings):
        return "tasks in this process"
    each = f"{executor.workers} processes of {executor.threads} thread{'s' if executor.threads > 1 else ''}"
    if isinstance(executor, ProcessSettings):
        return each
    return f"{each} per node, {executor.blocks.fewest} to {executor.blocks.most} {executor.nodes.kind} blocks by Parsl"


def _stages(workflow: Workflow, built: BuiltSystem, parameters: int) -> tuple[PlannedStage, ...]:
    reference, training, generation = workflow.reference, workflow.training, workflow.generation
    calls = reference.energy_calls(built.system, built.state)
    if isinstance(training, PretrainedSettings):
        learns = f"weights of {training.pretrained}"
    else:
        length = f"{training.minutes:g} minutes, batches" if training.steps is None else f"{training.steps:,} steps"
        learns = f"{parameters:,} parameters, {length} of {training.batch}"
        if training.start_from is not None:
            learns += f", from the weights of {training.start_from}"
    draws = f"{generation.samples:,} samples, {generation.solver}, {generation.likelihood} likelihood"
    shown = ", ".join(workflow.estimates.observables) + (", free energy" if workflow.estimates.free_energy else "")
    return (
        PlannedStage(
            "reference", f"{reference.frames:,} frames, {reference.sampler}, {reference.chains} chains", calls
        ),
        PlannedStage("training", learns),
        PlannedStage("generation", draws, generation.samples),
        PlannedStage("estimates", shown),
        PlannedStage("report", "report.html"),
    )
