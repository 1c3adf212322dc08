"""Runs that nothing disturbs, to compare with."""

from collections.abc import Callable
from pathlib import Path

import pytest

import particlegen
from faults.cases import CASES
from faults.injection import WORKFLOWS, FullDisk, quick, written
from faults.kills import finished


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Callable[[str], Path]:
    """By a case's name, its run that was left alone; made when it is first asked for."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = finished(CASES[name], tmp_path_factory.mktemp(name) / "run")
        return made[name]

    return of


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Callable[[str], tuple[Path, int]]:
    """By workflow: the folder of a run that nothing disturbed, and how many writes it took."""
    known: dict[str, tuple[Path, int]] = {}

    def of(name: str) -> tuple[Path, int]:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            with pytest.MonkeyPatch.context() as patch:
                quick(patch)
                disk = FullDisk(folder / "run", patch)
                particlegen.run(written(folder, WORKFLOWS[name]), out=folder / "run")
                disk.free = True
            known[name] = folder / "run", disk.writes
        return known[name]

    return of
