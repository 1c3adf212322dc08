"""What workflows of every kind have in common."""

from typing import Literal

from pydantic import Field

from particlegen.settings import Section

__all__ = ["WorkflowBase"]


class WorkflowBase(Section):
    """The keys of every workflow file: its version, what kind it is, and the seed of all random streams."""

    version: Literal[1]
    kind: str
    seed: int = Field(default=0, ge=0, lt=2**63)
