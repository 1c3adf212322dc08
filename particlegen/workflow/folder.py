"""The run folder: where each file of a run lies, who may write it, and the journal of what happened."""

import fcntl
import json
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from particlegen.energy import Ledger, LedgerEntry
from particlegen.events import Event
from particlegen.io import atomic
from particlegen.io.store import RunStore
from particlegen.settings import InputError, RunError

__all__ = ["Journal", "RunFolder", "next_run_folder"]


class RunFolder:
    """Paths and files of one run; see the docs for what each file holds.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """A new run folder; an empty one may exist.

        Raises:
            InputError: the folder holds something already, or cannot be made; nothing in it is touched.
        """
        try:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                what = "a run" if (path / "workflow.yaml").exists() else "files"
                raise InputError(
                    f"output folder {path} already holds {what}; choose another with --out, "
                    + (f"or continue it: particlegen resume {path}" if what == "a run" else "or empty it first")
                )
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise InputError(f"output folder {path} cannot be made: {error.strerror}") from None
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """An existing run folder.

        Raises:
            InputError: no such folder, or no run in it.
        """
        folder = cls(Path(path))
        if not folder.path.is_dir():
            raise InputError(f"{path}: no such folder; expected a run folder, as `particlegen run` makes it")
        missing = [file.name for file in (folder.workflow_file, folder.manifest_file) if not file.is_file()]
        if missing:
            raise InputError(f"{path}: no run folder: {' and '.join(missing)} missing")
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

    def read_json(self, file: Path) -> dict[str, Any]:
        """A JSON object of this run.

        Raises:
            InputError: missing or damaged.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            hint = f"; the run is not finished: particlegen resume {self.path}" if file == self.results_file else ""
            raise InputError(f"{file}: not there{hint}") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: cannot be read ({error}); restore it or start a new run") from None
        if not isinstance(content, dict):
            raise InputError(f"{file}: expected a JSON object, found {type(content).__name__}")
        return content

    def write_json(self, file: Path, content: Mapping[str, Any]) -> None:
        atomic.write_text(file, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def events(self) -> Iterator[dict[str, Any]]:
        """What the journal holds; a last line that a kill cut short is left out."""
        if not self.events_file.is_file():
            return
        with self.events_file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict):
                    yield entry


class Journal:
    """The open journal of a run: appends one line per event, and keeps a second process out.

    Args:
        folder: the run folder.

    Raises:
        InputError: another process is running this folder.
    """

    def __init__(self, folder: RunFolder):
        self._folder = folder
        self._file: TextIO = folder.events_file.open("a", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InputError(
                f"{folder.path}: another process is running this folder; wait for it, or stop it"
            ) from None
        self._file.seek(0, 2)
        if self._file.tell() > 0 and not folder.events_file.read_bytes().endswith(b"\n"):
            self._file.write("\n")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *failure: object) -> None:
        self._file.close()

    def write(self, event: Event, spent: Mapping[str, Any] | None = None) -> None:
        """One line: time, kind, stage, message, fields, and what was spent since the line before."""
        entry = {"time": round(time.time(), 3), "kind": event.kind, "stage": event.stage}
        entry |= {"message": event.message, "fields": {key: _plain(value) for key, value in event.fields.items()}}
        if spent:
            entry["spent"] = dict(spent)
        try:
            self._file.write(json.dumps(entry, default=str, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(f"{self._folder.events_file}: cannot be written ({error.strerror})") from error

    def spent(self) -> tuple[dict[str, float], Ledger]:
        """Seconds per stage, and the ledger of all engines, added over every line of every session of this run."""
        seconds: dict[str, float] = defaultdict(float)
        ledger = Ledger()
        for entry in self._folder.events():
            used, stage = entry.get("spent") or {}, entry["stage"]
            seconds[stage] += used.get("seconds", 0.0)
            for provider, counts in used.get("engines", {}).items():
                ledger.add(provider, stage, LedgerEntry(**counts))
        return dict(seconds), ledger


def _plain(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def next_run_folder(name: str, parent: Path = Path("runs")) -> Path:
    """`runs/NAME-001`, or the next free number."""
    taken = [0]
    if parent.is_dir():
        pattern = re.compile(re.escape(name) + r"-(\d+)")
        taken += [int(found[1]) for entry in parent.iterdir() if (found := pattern.fullmatch(entry.name))]
    return parent / f"{name}-{max(taken) + 1:03d}"
