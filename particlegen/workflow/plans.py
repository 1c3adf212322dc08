"""The parts of a plan."""

from dataclasses import dataclass

__all__ = ["Need", "Outline", "PlannedStage"]


@dataclass(frozen=True)
class Need:
    """Memory or disk that a part of a run takes.

    Args:
        what: takes it.
        size: in bytes, at its peak.
        keys: of the workflow or the resources that drive it; it is in proportion to the first.
        on_device: whether it lies where the networks run.
    """

    what: str
    size: float
    keys: tuple[str, ...]
    on_device: bool = False


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a plan.

    Args:
        name: the stage.
        description: what it does.
        energy_calls: full-energy equivalents of the engine; 0 where it makes none.
        learned_calls: energies of learned potentials in the place of the engine.
    """

    name: str
    description: str
    energy_calls: float = 0.0
    learned_calls: float = 0.0


@dataclass(frozen=True)
class Outline:
    """What a workflow would do, on any machine.

    Args:
        system: in one line.
        stages: in order.
        memory: what is held at a time, beyond the interpreter, its libraries and workers.
        disk: what the run folder will hold.
    """

    system: str
    stages: tuple[PlannedStage, ...]
    memory: tuple[Need, ...]
    disk: tuple[Need, ...]
