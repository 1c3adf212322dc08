"""The run folder: where each file of a run lies, who may write it, and the journal of what happened."""

import fcntl
import hashlib
import json
import math
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TextIO

from particlegen.energy import Ledger, LedgerEntry
from particlegen.events import Event
from particlegen.io import atomic
from particlegen.io.reading import LARGEST_JSON, Damaged, json_object, read_bytes, stays_inside
from particlegen.io.store import RunStore
from particlegen.settings import InputError, RunError
from particlegen.workflow.checked import is_entry

__all__ = ["Journal", "RunFolder", "free_run_folder", "next_run_folder", "plain_name"]

LONGEST_LINE = 2**20
"""Bytes of a line of the journal that is read; those that are written have some hundred."""

FIRST_FILES = {"events.jsonl", "manifest.json", ".partial-manifest.json", ".partial-workflow.yaml"}
"""What is in a folder before `workflow.yaml`, which makes it a run."""

SEAL = "sha256"
"""Key of the checksum that a JSON file of a run carries of the rest of its content."""

_NEEDED = {"results.json": {"kind", "status"}, "manifest.json": {"name", "relative_to", "workflow_sha256"}}
_UNSEALED = {"results.json": "spent", "manifest.json": "relative_to"}
"""Keys that the checksum leaves out: what differs between two runs of one answer, and what a moved folder may edit."""


class RunFolder:
    """Paths and files of one run; see the docs for what each file holds.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """A new run folder; an empty one may exist, or what a start left that was killed before there was a run.

        Raises:
            InputError: the folder holds something already, cannot be made or not be written to; nothing in it is
                touched.
        """
        folder = cls(path)
        folder.check_vacant()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in atomic.NO_SPACE:
                raise
            raise InputError(f"output folder {path} cannot be made: {error.strerror}") from None
        return folder

    def check_vacant(self) -> None:
        """That a run may begin here, in a new or empty folder or in one that is half made; nothing is written.

        Raises:
            InputError: it holds something else, or could not be made or written to.
        """
        path = self.path
        try:
            if path.exists() and (not path.is_dir() or not (self.half_made or self.empty)):
                raise self.occupied()
            there = next(here for here in (path.absolute(), *path.absolute().parents) if here.exists())
        except OSError as error:
            raise InputError(f"output folder {str(path)[:200]} cannot be made: {error.strerror}") from None
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            why = "is not writable" if there.is_dir() else "is no folder"
            raise InputError(f"output folder {path} cannot be made: {there} {why}; choose another with --out")

    @property
    def empty(self) -> bool:
        return not any(self.path.iterdir())

    @property
    def half_made(self) -> bool:
        """Whether a start of a run ended here before its last step, `workflow.yaml`; no event was written yet."""
        entries = {entry.name: entry for entry in self.path.iterdir()}
        if self.events_file.name not in entries or not entries.keys() <= FIRST_FILES:
            return False
        plain = all(entry.is_file() and not entry.is_symlink() for entry in entries.values())
        return plain and not self.events_file.stat().st_size

    def occupied(self) -> InputError:
        """That another run or other files are here."""
        what, instead = "files", "empty it first"
        if self.workflow_file.exists():
            what, instead = "a run", f"continue it: particlegen resume {self.path}"
        return InputError(f"output folder {self.path} already holds {what}; choose another with --out, or {instead}")

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """An existing run folder.

        Raises:
            InputError: no such folder, no run in it, or a manifest or a workflow that is not what it began with.
        """
        folder = cls(Path(path))
        if not folder.path.is_dir():
            raise InputError(f"{path}: no such folder; expected a run folder, as `particlegen run` makes it")
        if folder.half_made:
            raise InputError(
                f"{path}: no run folder yet: its start was cut off before anything was computed; begin again with the "
                f"same particlegen run, and --out {path}"
            )
        missing = [file.name for file in (folder.workflow_file, folder.manifest_file) if not file.is_file()]
        if missing:
            raise InputError(f"{path}: no run folder: {' and '.join(missing)} missing")
        _check_entries(folder.path)
        digest = folder.read_json(folder.manifest_file)["workflow_sha256"]
        if hashlib.sha256(folder.workflow_file.read_bytes()).hexdigest() != digest:
            raise InputError(
                f"{folder.workflow_file}: changed since the run began; restore it, or start a new run from it"
            )
        return folder

    @property
    def workflow_file(self) -> Path:
        return self.path / "workflow.yaml"

    @property
    def manifest_file(self) -> Path:
        return self.path / "manifest.json"

    @property
    def results_file(self) -> Path:
        return self.path / "results.json"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def labels_file(self) -> Path:
        """What engines answered, where a workflow keeps it."""
        return self.path / "labels.db"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights_file(self) -> Path:
        """The trained network; written once, when training is over."""
        return self.checkpoints / "network.safetensors"

    @property
    def store(self) -> RunStore:
        return RunStore(self.path)

    def remove_partials(self) -> None:
        """Remove what a kill left beside a file that it was writing. Only for whoever holds the journal.

        Files at the top of the folder have one name each, so that the next attempt overwrites what is left of them.
        """
        for folder in (self.checkpoints, *(self.path / "segments").glob("*")):
            for path in folder.glob(".partial-*"):
                path.unlink(missing_ok=True)

    def read_json(self, file: Path) -> dict[str, Any]:
        """A JSON object of this run.

        Raises:
            InputError: missing or damaged.
        """
        try:
            content = json_object(read_bytes(file, LARGEST_JSON))
        except Damaged as problem:
            if not file.is_file():
                hint = f"; the run is not finished: particlegen resume {self.path}" if file == self.results_file else ""
                raise InputError(f"{file}: not there{hint}") from None
            raise InputError(f"{file}: cannot be read ({problem}); {self._instead(file)}") from None
        for key in sorted(_NEEDED[file.name] - content.keys()):
            raise InputError(f"{file}: key {key!r} is missing; {self._instead(file)}")
        seal = _seal(file, content)
        if content.get(SEAL, seal) != seal:  # earlier versions had no seal
            raise InputError(f"{file}: damaged or edited: it does not match its own checksum; {self._instead(file)}")
        return content

    def write_json(self, file: Path, content: Mapping[str, Any]) -> None:
        """Write a JSON object of this run, sealed with a checksum."""
        plain = json.loads(json.dumps(content, allow_nan=False))
        atomic.write_text(file, json.dumps(plain | {SEAL: _seal(file, plain)}, indent=2) + "\n")

    def _instead(self, file: Path) -> str:
        """What to do about a file that cannot be used."""
        if file == self.results_file:
            return f"remove it, and it is made again: particlegen resume {self.path}"
        return "restore it or start a new run"

    def events(self) -> Iterator[dict[str, Any]]:
        """What the journal holds, entries in the form of `Journal.write`.

        What is something else is left out: a last line that a kill cut short, a line of more than 1 MB, an edited one.
        """
        if not self.events_file.is_file():
            return
        with self.events_file.open("rb") as lines:
            while line := lines.readline(LONGEST_LINE):
                if not line.endswith(b"\n") and len(line) == LONGEST_LINE:
                    _skip_line(lines)
                    continue
                try:
                    entry = json_object(line)
                except Damaged:
                    continue
                if is_entry(entry):
                    yield entry

    def progress(self, stage: str) -> Iterator[dict[str, Any]]:
        """The fields of a stage's lines of progress, with the numbers `done` and `total`."""
        for entry in self.events():
            fields = entry["fields"]
            if {"done", "total"} <= fields.keys() and (entry["kind"], entry["stage"]) == ("progress", stage):
                yield fields


def _skip_line(lines: IO[bytes]) -> None:
    """Read on, bounded pieces at a time, to the end of a line."""
    while (piece := lines.readline(LONGEST_LINE)) and not piece.endswith(b"\n"):
        pass


def _check_entries(folder: Path) -> None:
    """Refuse links that lead out of a run folder, and what is neither file nor folder.

    A folder that came from elsewhere could otherwise have this user's other files read, appended to or replaced, or
    have a program wait for ever.

    Raises:
        InputError: names the entry.
    """
    waiting = [folder]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            path = Path(entry.path)
            if entry.is_symlink() and not stays_inside(folder, path.relative_to(folder)):
                raise InputError(f"{path}: a link that leads out of the run folder; put what it points at in its place")
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif not entry.is_symlink() and not entry.is_file(follow_symlinks=False):
                raise InputError(f"{path}: neither a file nor a folder, which no run writes; remove it")


class Journal:
    """The open journal of a run: appends one line per event, and keeps a second process out.

    Args:
        folder: the run folder.

    Raises:
        InputError: another process is running this folder.
        RunError: the journal cannot be written, or the file system has no locks.
    """

    def __init__(self, folder: RunFolder):
        self._folder = folder
        with atomic.failures_named(folder.events_file):
            self._file: TextIO = folder.events_file.open("a", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            if isinstance(error, BlockingIOError):
                text = f"{folder.path}: another process is running this folder; wait for it, or stop it"
                raise InputError(text) from None
            raise RunError(
                f"{folder.events_file}: cannot be locked ({error.strerror}), so nothing would keep a second process "
                "out; use a folder on another file system"
            ) from error
        self._file.seek(0, 2)
        if not _ends_line(folder.events_file):
            self._file.write("\n")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *failure: object) -> None:
        # Every line was flushed when it was written; what a full disk left behind would be tried again here.
        with suppress(OSError):
            self._file.close()

    def write(self, event: Event, spent: Mapping[str, Any] | None = None) -> None:
        """One line: time, kind, stage, message, fields, and what was spent since the line before."""
        entry = {"time": round(time.time(), 3), "kind": event.kind, "stage": event.stage}
        entry |= {"message": event.message, "fields": {key: _plain(value) for key, value in event.fields.items()}}
        if spent:
            entry["spent"] = dict(spent)
        with atomic.failures_named(self._folder.events_file):
            self._file.write(json.dumps(entry, default=str, allow_nan=False) + "\n")
            self._file.flush()

    def spent(self) -> tuple[dict[str, float], Ledger]:
        """Seconds per stage, and the ledger of all engines, added over every line of every session of this run."""
        seconds: dict[str, float] = defaultdict(float)
        ledger = Ledger()
        for entry in self._folder.events():
            used, stage = entry.get("spent", {}), entry["stage"]
            seconds[stage] += used.get("seconds", 0.0)
            for provider, counts in used.get("engines", {}).items():
                ledger.add(provider, stage, LedgerEntry(**counts))
        return dict(seconds), ledger


def _ends_line(file: Path) -> bool:
    with file.open("rb") as content:
        size = content.seek(0, 2)
        content.seek(max(size - 1, 0))
        return content.read(1) in (b"", b"\n")


def _seal(file: Path, content: Mapping[str, Any]) -> str:
    sealed = {key: value for key, value in content.items() if key not in (SEAL, _UNSEALED.get(file.name))}
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain_name(name: str) -> str:
    """A name of letters, digits, `_`, `.` and `-`, for a folder.

    >>> plain_name("../my run")
    'my-run'
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:100] or "workflow"


def free_run_folder(name: str, parent: Path = Path("runs")) -> Path:
    """`runs/NAME-001`, or the next free number; a name may come from a file, so it is made one without separators."""
    safe, taken = plain_name(name), [0]
    if parent.is_dir():
        pattern = re.compile(re.escape(safe) + r"-(\d+)")
        taken += [int(found[1]) for entry in parent.iterdir() if (found := pattern.fullmatch(entry.name))]
    return parent / f"{safe}-{max(taken) + 1:03d}"


def next_run_folder(name: str, parent: Path = Path("runs")) -> Path:
    """`free_run_folder`, made here so that no other process gets the same.

    Raises:
        InputError: it cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            with suppress(FileExistsError):
                path = free_run_folder(name, parent)
                path.mkdir()
                return path
    except OSError as error:
        if error.errno in atomic.NO_SPACE:
            raise
        raise InputError(f"no run folder can be made in {parent}: {error.strerror}; give one with --out") from None
