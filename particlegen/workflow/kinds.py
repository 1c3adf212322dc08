"""The kinds of workflow that there are."""

from pathlib import Path

from particlegen.workflow.folder import RunFolder
from particlegen.workflow.glass.kind import GLASS
from particlegen.workflow.isomers.kind import ISOMERS
from particlegen.workflow.kind import Kind
from particlegen.workflow.opened import Run
from particlegen.workflow.schema import load_run

__all__ = ["KINDS", "open_run"]

KINDS: dict[str, Kind] = {"glass": GLASS, "isomers": ISOMERS}


def open_run(path: str | Path) -> Run:
    """An existing run. Raises InputError if there is none."""
    return KINDS[load_run(RunFolder.open(path)).kind].open(path)
