"""What workflows of every kind have in common."""

from typing import Any, Literal

from pydantic import Field, field_validator

from particlegen.settings import Section

__all__ = ["WorkflowBase"]


class WorkflowBase(Section):
    """The keys of every workflow file: its version, what kind it is, and the seed of all random streams."""

    version: Literal[1]
    kind: str
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("version", "seed", mode="before")
    @classmethod
    def _plain_integer(cls, value: Any) -> Any:
        """`version: true` and `seed: "7"` are slips, not numbers."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("expected an integer")
        return value
