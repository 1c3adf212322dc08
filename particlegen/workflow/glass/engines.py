"""The engine that a workflow names: checked before anything runs, shared over the executor."""

from concurrent.futures import Executor
from pathlib import Path

import torch

from particlegen.energy import (
    BuiltSystem,
    Distributed,
    EnergyProvider,
    PairPotential,
    Recipe,
    TorchPairEnergy,
    open_engine,
)
from particlegen.energy.distributed import made
from particlegen.energy.engine_cards import engine_digest
from particlegen.events import EventSink
from particlegen.settings import InputError
from particlegen.system import ParticleSystem
from particlegen.tasks import TaskLimits
from particlegen.workflow.glass.schema import GlassWorkflow

__all__ = ["check_engine", "open_provider"]


def _open(
    system: ParticleSystem, name: str, potential: PairPotential, relative_to: Path, digest: str
) -> EnergyProvider:
    """The engine of a card that is still what it was: a worker may open it long after the run began."""
    if engine_digest(name, relative_to) != digest:
        raise InputError(f"key 'energy.engine': {name!r} changed while the run went on; restore it")
    return open_engine(system, name, potential, relative_to)


def _recipe(name: str, built: BuiltSystem, relative_to: Path) -> Recipe:
    """Equal for equal cards only, so a process that runs two workflows does not take the engine of an older card."""
    return Recipe.of(_open, built.system, name, built.potential, relative_to, engine_digest(name, relative_to))


def check_engine(workflow: GlassWorkflow, built: BuiltSystem, relative_to: Path) -> None:
    """Opens the engine, if one is named.

    Raises:
        InputError: it does not exist, is not installed, does not fit the system, or the sampler does not know it.
    """
    name, sampler = workflow.energy.engine, workflow.reference.sampler
    if name is None:
        return
    if sampler != "hmc":
        raise InputError(
            f"key 'reference.sampler': found {sampler!r}, which knows the pair potential of the system's card alone; "
            f"engine {name!r} needs sampler: hmc"
        )
    engine = made(_recipe(name, built, relative_to))
    if "forces" not in getattr(engine, "quantities", ("forces",)):
        raise InputError(f"key 'energy.engine': {name!r} gives no forces, which sampler: hmc needs")


def open_provider(
    workflow: GlassWorkflow,
    built: BuiltSystem,
    relative_to: Path,
    device: torch.device,
    executor: Executor,
    limits: TaskLimits,
    events: EventSink,
) -> EnergyProvider:
    """Torch pairs on `device`, or the engine that is named, in tasks of `energy.chunk` configurations."""
    if workflow.energy.engine is None:
        return TorchPairEnergy(built.system, built.potential, device=device)
    recipe = _recipe(workflow.energy.engine, built, relative_to)
    return Distributed(recipe, executor, workflow.energy.chunk, limits, events=events)
