"""The parts of a plan."""

from dataclasses import dataclass

__all__ = ["PlannedStage"]


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
