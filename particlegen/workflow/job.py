"""What every stage of every kind of workflow is handed: the workflow, what was built from it, where to put things."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from particlegen.energy import Cached, Counted, EnergyProvider, EnergyResult, LabelStore, Ledger, LedgerEntry
from particlegen.energy.provider import Wrapper
from particlegen.events import Event, EventSink
from particlegen.geometry import Positions
from particlegen.io.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from particlegen.io.store import RunStore
from particlegen.settings import InputError
from particlegen.tasks import TaskLimits
from particlegen.training import TrainingSettings
from particlegen.workflow.folder import Journal, RunFolder

__all__ = ["Interrupted", "Job", "StopSignal", "stop_on_signals"]


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to end; what was finished is on disk; the message says how to go on (exit code 130)."""


class StopSignal:
    """Whether SIGINT or SIGTERM came; a second one ends the run at once."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def stop_on_signals() -> Iterator[StopSignal]:
    """Within the block, the first signal lets the current piece of work finish; only the main thread can catch one."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stoppable(Wrapper):
    """An engine whose answers are stored as they come: a signal may end the run before any call, and loses none."""

    def __init__(self, provider: EnergyProvider, check: Callable[[], None]):
        super().__init__(provider)
        self._check = check

    @property
    def differentiable(self) -> bool:
        return self._provider.differentiable

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        self._check()
        return self._provider.evaluate(positions, want)


@dataclass(kw_only=True)
class Job:
    """One session of a run; a kind of workflow opens its engine in `__post_init__`.

    Args:
        workflow: the canonical workflow.
        folder: the run folder.
        built: what the kind made of the workflow's cards.
        device: where networks run.
        journal: the run's event log.
        stop: asked between pieces of work.
        listener: hears every event, e.g. a progress bar.
        executor: does the tasks, such as those of the reference chains.
        limits: attempts and seconds of a task.
        slots: tasks that run at a time.
        checkpoint_seconds: see `due`.
        relative_to: the folder that a user's own cards are cited from.
        resumed: whether an earlier session began this run; what failed in it is asked for once more.
        provider: the engine that answers energies.
        labels: where its answers are kept, if they are.
    """

    workflow: Any
    folder: RunFolder
    built: Any
    device: torch.device
    journal: Journal
    stop: StopSignal
    listener: EventSink
    executor: Executor
    limits: TaskLimits
    slots: int
    checkpoint_seconds: float
    relative_to: Path
    resumed: bool = False
    provider: EnergyProvider = field(init=False)
    labels: LabelStore | None = field(init=False)
    _mark: float = field(default_factory=time.perf_counter)
    _saved: float = field(default_factory=time.monotonic)
    _ledger: Ledger = field(default_factory=Ledger)

    @property
    def store(self) -> RunStore:
        return self.folder.store

    def emit(self, event: Event) -> None:
        """Write an event to the journal, with the seconds and calls since the last one, and tell the listener."""
        now = time.perf_counter()
        engines = {provider: asdict(entry) for provider, entry in self._ledger.take(event.stage).items()}
        self.journal.write(event, {"seconds": round(now - self._mark, 4), "engines": engines})
        self._mark = now
        self.listener(event)

    def energies(self, stage: str) -> EnergyProvider:
        """The engine, counted for a stage, its answers kept if the workflow says so."""
        if self.labels is None:
            return self.counted(self.provider, stage)
        return self.stored(self.provider, stage, self.labels)

    def stored(self, provider: EnergyProvider, stage: str, store: LabelStore) -> Cached:
        """A provider, counted for a stage, whose answers are kept: those that were paid for are never asked for again.

        What failed in an earlier session is, since its cause may have been mended. A signal may end the run between two
        calls.
        """
        stoppable = _Stoppable(provider, lambda: self.check(stage))
        chunk = self.workflow.energy.chunk * self.slots
        return Cached(self.counted(stoppable, stage), store, chunk=chunk, retry_failed=self.resumed)

    def counted(self, provider: EnergyProvider, stage: str) -> Counted:
        """A provider with what a stage really asks of it counted for `spent`."""
        return Counted(provider, self._ledger, stage)

    def count(self, provider: str, stage: str, calls: float, seconds: float, failures: int = 0) -> None:
        """Calls really made by an engine that is no provider, for `spent`."""
        self._ledger.add(provider, stage, LedgerEntry(calls, seconds, failures))

    def check(self, stage: str) -> None:
        """Raise `Interrupted` if a signal came; call it where everything is on disk."""
        if self.stop.requested:
            said = f"{stage} stopped by a signal; go on with: particlegen resume {self.folder.path}"
            self.emit(Event("interrupted", stage, said))
            raise Interrupted(said)

    def load(self, stage: str) -> Checkpoint | None:
        """The newest intact checkpoint of a stage; damaged ones that were passed over are reported."""
        found = load_checkpoint(self.folder.checkpoints, stage)
        for sentence in found.skipped if found else ():
            self.emit(Event("warning", stage, sentence))
        return found

    def keep(self, ensemble: str, chunk: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Store a chunk. One that `data.h5` holds is left as it is: a stage that goes on from an older checkpoint, the
        newer being damaged, makes the same again."""
        if chunk >= self.store.consolidated(ensemble):
            self.store.append(ensemble, chunk, arrays)

    def lost(self, stage: str, ensemble: str, chunks: int) -> bool:
        """Whether one of the first so many chunks is gone, though a checkpoint says that they were made; it is told."""
        missing = sorted({*range(chunks)}.difference(self.store.segments(ensemble)))
        if missing:
            said = f"chunk {missing[0]} of {ensemble} is not there any more; what is missing is made again"
            self.emit(Event("warning", stage, said))
        return bool(missing)

    def check_repeatable(self, stage: str, training: TrainingSettings, ensemble: str) -> None:
        """Refuse to train anew by the clock, which would not end the same, once something was sampled from the result.

        Raises:
            InputError: `minutes` and no `steps` are stated, and the ensemble has begun.
        """
        if training.steps is None and self.store.length(ensemble):
            raise InputError(
                f"{self.folder.checkpoints}: {stage} would have to be done again, but by the clock (`minutes`) it does "
                f"not end the same, and {ensemble} configurations rest on it; restore the files, or start a new run"
            )

    def save(self, stage: str, step: int, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
        save_checkpoint(self.folder.checkpoints, stage, step, dict(tensors), dict(metadata), keep=2)
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether a stage that may be cut anywhere saves what it has: a signal came, or the last checkpoint is
        `checkpoint_seconds` old."""
        return self.stop.requested or time.monotonic() - self._saved >= self.checkpoint_seconds
