"""A corpus of malformed files: each is refused by one message of `validate` and `run` alike, and nothing is written."""

import random
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mutations import Mutant
from sources import Source, sources
from typer.testing import CliRunner

from particlegen.cli import app
from particlegen.workflow import runner

SOURCES = list(sources())

CORPUS, SAMPLE = 40, 5
"""Mutants of each file in all, picked by its name from many more; and in the default run."""


class _Reached(BaseException):
    """A run got to where it would make its folder."""


@dataclass
class Tally:
    refused: int = 0
    valid: int = 0
    defects: list[str] = field(default_factory=list)


@pytest.fixture
def stopped(monkeypatch):
    """Runs end where they would begin to write."""

    def create(path):
        raise _Reached

    monkeypatch.setattr(runner.RunFolder, "create", create)


def call(*arguments: str) -> tuple[int, str]:
    """Exit code and what was said; 0 for a run that got to where it would begin."""
    try:
        result = CliRunner().invoke(app, list(arguments))
    except _Reached:
        return 0, ""
    return result.exit_code, " ".join(result.stderr.split())


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def named(said: str, source: Source, mutant: Mutant) -> bool:
    """Whether a message says where to look: the key, or the file and its line; for a structure, the file."""
    file = Path(source.target).name
    if any(key in said for key in mutant.keys) or re.search("key '[^']+'", said):
        return True
    if file in said and any(re.search(rf"\b{key}\b", said) for key in source.keys):
        return True
    return file in said and (source.kind == "structure" or "line " in said or "larger than" in said)


def tried(source: Source, folder: Path, count: int, tally: Tally) -> None:
    """So many mutants of a file, in the folder; what is wrong goes into the tally."""
    source.write(folder)
    mutants = list(source.mutants())
    random.Random(f"{source.kind} {source.name}").shuffle(mutants)
    for mutant in mutants[:count]:
        (folder / source.target).write_bytes(mutant.made())
        before, where = tree(folder), f"{source.kind} {source.name}: {mutant.what}"
        (code, said), *others = (call(command, *source.arguments) for command in source.commands)
        tally.refused, tally.valid = tally.refused + (code == 2), tally.valid + (code == 0)
        if code not in (0, 2) or "Traceback" in said:
            tally.defects.append(f"{where}: exit code {code}: {said[-300:]}")
        elif code == 0 and mutant.wrong:
            tally.defects.append(f"{where}: taken for valid")
        elif code == 2 and not named(said, source, mutant):
            tally.defects.append(f"{where}: neither key nor line: {said[:300]}")
        if any(other != (code, said) for other in others):
            tally.defects.append(f"{where}: `run` says {others}, `validate` {code}: {said[:300]}")
        if tree(folder) != before:
            tally.defects.append(f"{where}: something was written")


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: f"{source.kind}-{source.name}")
def test_a_sample_of_the_corpus(source, tmp_path, monkeypatch, stopped):
    monkeypatch.chdir(tmp_path)
    source.write(tmp_path)
    assert call(source.commands[0], *source.arguments) == (0, ""), "what is mutated has to be valid as it is"
    tally = Tally()
    tried(source, tmp_path, SAMPLE, tally)
    assert not tally.defects, "\n".join(tally.defects)
    assert tally.refused + tally.valid == SAMPLE


@pytest.mark.slow
def test_the_whole_corpus(tmp_path, monkeypatch, stopped):
    tally = Tally()
    for source in SOURCES:
        folder = tmp_path / f"{source.kind}-{source.name}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        tried(source, folder, CORPUS, tally)
    print(f"{tally.refused} refused, {tally.valid} valid")
    assert not tally.defects, "\n".join(tally.defects)
    assert tally.refused >= 500


def test_as_a_command_of_its_own(tmp_path):
    source = SOURCES[0]
    (mutant,) = (each for each in source.mutants() if each.what == "bomb")
    source.write(tmp_path)
    (tmp_path / source.target).write_bytes(mutant.made())
    command = [sys.executable, "-m", "particlegen.cli", "run", *source.arguments]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 2 and "Traceback" not in found.stderr and "w.yaml: line 1: anchors" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["w.yaml"]
