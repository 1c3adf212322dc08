"""Faults on purpose: a disk that fills up at a chosen write, small workflows to inject them into, and how each has to
be told."""

import errno
import os
import re
import sqlite3
import sys
from pathlib import Path

import jaxtyping
import yaml
from typer.testing import CliRunner

import particlegen
from particlegen.cli import app
from particlegen.workflow.folder import Journal

TESTS = Path(__file__).parents[1]
GLASS = yaml.safe_load((TESTS / "workflows" / "tiny.yaml").read_text()) | {
    "reference": {
        "sampler": "displacement",
        "chains": 4,
        "sweeps_between_frames": 5,
        "frames": 60,
        "equilibration_sweeps": 100,
        "block_frames": 20,
    },
    "training": {"steps": 10, "batch": 16, "learning_rate": 2e-3, "ema": 0.9, "validate_every": 5},
    "generation": {"samples": 30, "solver": "rk4", "steps": 2, "likelihood": "exact", "chunk": 10},
    "estimates": {"observables": ["energy"], "free_energy": True, "held_out_frames": 8},
}
"""Three chunks of each ensemble."""

_TRAINING = {"steps": 4, "batch": 16, "learning_rate": 2e-3, "warm_up": 2, "ema": 0.9}
ISOMERS = yaml.safe_load((TESTS / "workflows" / "tiny_isomers.yaml").read_text()) | {
    "flow": {"layers": 2, "hidden": [8], "training": _TRAINING | {"validation": 16, "validate_every": 2}},
    "chains": {"count": 8, "leaps": 2, "local_steps": 2, "candidates": 2, "warm_up": 24},
    "adaptation": {"rounds": 2, "sweeps": 5, "kept": 64},
    "production": {"samples": 64, "draws": 64, "discard": 0, "quenches": 1, "block": 4},
    "stop": dict.fromkeys(("r_hat", "pareto_k", "acceptance", "sigmas", "correction_pareto_k")),
}
LEARNED = ISOMERS | {
    "system": {"card": "lj6", "temperature": 0.1, "isomers": ["octahedron"]},
    "energy": {"budget": 400, "chunk": 4},
    "learned": {"first": 4, "rounds": 1, "per_round": 4, "potential": {"iterations": 3, "fitted_on": 20}},
    "correction": {"labels": 8, "chains": 2, "decisions": 1, "sweeps": 1},
}
WORKFLOWS = {"glass": GLASS, "isomers": ISOMERS, "learned": LEARNED}

ARRAYS = {
    "reference": ("position", "energy", "chain"),
    "production": ("position", "energy", "chain", "isomer", "log_q"),
    "generated": ("position", "energy", "log_q", "log_q_error", "log_weight", "failed"),
}


def written(folder, workflow, name="workflow"):
    """A workflow as a file of a user's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(workflow), encoding="utf-8")
    return path


def call(*arguments):
    """(exit code, all that was said) of a command."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def told(outcome, code, *words):
    """The command ended with this code (or one of these), and said why once, in one message and without traceback."""
    codes = code if isinstance(code, tuple) else (code,)
    assert outcome[0] in codes, outcome
    said = outcome[1]
    assert "Traceback" not in said and "this is a bug" not in said, said
    assert said.count("error:") == (outcome[0] in (2, 3)), said
    for text in words:
        assert re.search(text, said, re.I), (text, said)
    return said


def quick(monkeypatch):
    """Runs without what takes most of the time of so small ones and is no part of a fault: figures of the report, whose
    file is written all the same, and shapes checked at every call."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr("particlegen.workflow.glass.report.render_glass", lambda data: f"<html>{data.title}</html>")
    monkeypatch.setattr("particlegen.workflow.isomers.report.render_isomers", lambda data: f"<html>{data.title}</html>")


def same(one, other):
    """Two run folders hold the same answer, and the same arrays byte by byte."""
    one, other = particlegen.open_run(one), particlegen.open_run(other)
    ours, theirs = ({key: value for key, value in run.results.items() if key != "spent"} for run in (one, other))
    assert ours == theirs
    for ensemble, names in ARRAYS.items():
        held = set(one.store.names(ensemble)) if one.store.length(ensemble) else set()
        assert held == (set(other.store.names(ensemble)) if other.store.length(ensemble) else set())
        for name in held.intersection(names):
            assert one.read(ensemble, name).tobytes() == other.read(ensemble, name).tobytes(), (ensemble, name)


class FullDisk:
    """Every change under a folder counts as a write; from the `at`-th on there is no space, until `free`.

    Counted are opening to write, renames and new folders (by Python's audit events), `fsync` and reservations, lines of
    the journal, and statements of SQLite that change or commit. Removing is always possible.
    """

    def __init__(self, folder, monkeypatch, at=10**9):
        self.folder, self.at, self.writes, self.free = str(folder), at, 0, False
        _watching.append(self)
        if not _hooked:
            sys.addaudithook(_audited)
            _hooked.append(True)
        for name in ("fsync", "posix_fallocate"):
            monkeypatch.setattr(os, name, self._guarded(getattr(os, name)))
        opened = Journal.__init__

        def journal(this, folder):
            opened(this, folder)
            this._file = _Lines(this._file, self)

        monkeypatch.setattr(Journal, "__init__", journal)
        disk, connect = self, sqlite3.connect

        class Connection(sqlite3.Connection):
            def execute(self, statement, *arguments):
                if statement.lstrip().startswith(("BEGIN", "INSERT", "COMMIT", "CREATE")):
                    disk.write(sqlite=True)
                return super().execute(statement, *arguments)

        monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, factory=Connection, **k))

    def write(self, sqlite=False):
        if self.free:
            return
        self.writes += 1
        if self.writes < self.at:
            return
        if not sqlite:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    def _guarded(self, function):
        def guarded(*arguments):
            self.write()
            return function(*arguments)

        return guarded


class _Lines:
    """The journal's file, on that disk."""

    def __init__(self, file, disk):
        self._file, self._disk = file, disk

    def write(self, text):
        self._disk.write()
        return self._file.write(text)

    def __getattr__(self, name):
        return getattr(self._file, name)


_watching: list[FullDisk] = []
_hooked: list[bool] = []


def _audited(event, arguments):
    if event not in ("open", "os.rename", "os.mkdir") or not _watching:
        return
    path, disk = arguments[0], _watching[-1]
    if not isinstance(path, str) or not path.startswith(disk.folder):
        return
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        return
    disk.write()
