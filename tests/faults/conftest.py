"""The runs that nothing interrupts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from faults.cases import CASES
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
