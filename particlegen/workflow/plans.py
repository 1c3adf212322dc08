"""The parts of a plan."""

from dataclasses import dataclass

__all__ = ["PlannedStage"]


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
