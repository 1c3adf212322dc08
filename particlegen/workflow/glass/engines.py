"""The engine that a workflow names: checked before anything runs, shared over the executor."""

from concurrent.futures import Executor
from pathlib import Path

import torch

from particlegen.energy import BuiltSystem, Distributed, EnergyProvider, TorchPairEnergy
from particlegen.energy.distributed import made
from particlegen.events import EventSink
from particlegen.settings import InputError
from particlegen.tasks import TaskLimits
from particlegen.workflow.engines import engine_recipe
from particlegen.workflow.glass.schema import GlassWorkflow

__all__ = ["check_engine", "open_provider"]


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
    engine = made(engine_recipe(built.system, name, built.potential, relative_to))
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
    recipe = engine_recipe(built.system, workflow.energy.engine, built.potential, relative_to)
    return Distributed(recipe, executor, workflow.energy.chunk, limits, events=events)
