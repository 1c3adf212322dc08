"""What the runner has to know about a kind of workflow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from particlegen.catalogue import Card
from particlegen.workflow.job import Job
from particlegen.workflow.opened import Run
from particlegen.workflow.plans import Outline

__all__ = ["Kind", "Provenance"]


@dataclass(frozen=True)
class Provenance:
    """What a run depends on beside its workflow file.

    Args:
        system_hash: of the system that is sampled.
        cards: that the workflow names.
        engines: digest by card, of what may not change while the run goes on.
        citations: of systems, potentials and methods, most important first.
    """

    system_hash: str
    cards: tuple[Card, ...]
    engines: Mapping[str, str]
    citations: list[str]


class Kind(Protocol):
    """A kind of workflow."""

    @property
    def stages(self) -> Mapping[str, Callable[[Any], None]]:
        """By name, in order; each asks what is on disk and does what is missing."""
        ...

    @property
    def job(self) -> Callable[..., Job]:
        """Makes the session of a run from what every kind has in common."""
        ...

    @property
    def open(self) -> Callable[[str | Path], Run]:
        """Opens a run folder that exists."""
        ...

    def build(self, workflow: Any, relative_to: Path) -> Any:
        """What the workflow's cards mean.

        Raises:
            InputError: anything that can be known to be wrong before the first computation.
        """
        ...

    def provenance(self, workflow: Any, built: Any, relative_to: Path) -> Provenance: ...

    def origin(self, workflow: Any, built: Any, provenance: Provenance, relative_to: Path) -> Mapping[str, Any]:
        """The run that this one goes on from, for the manifest; empty where it starts from nothing.

        Raises:
            InputError: there is none, or what it has cannot be taken over.
        """
        ...

    def outline(self, workflow: Any, built: Any) -> Outline: ...

    def workers(self, workflow: Any) -> int:
        """Processes that the workflow asks for where the resources name no executor."""
        ...
