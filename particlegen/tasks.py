"""Tasks over any `concurrent.futures.Executor`: answers in the order of the tasks, failures as data.

What a task answers may depend on the task alone (random streams keyed by it, never by a worker), so that it may run
anywhere, twice, and in any order.
"""

import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from particlegen.events import Event, EventSink, ignore
from particlegen.settings import InputError, RunError

__all__ = ["Done", "Failed", "InlineExecutor", "TaskLimits", "TimedExecutor", "map_tasks"]

_Task = TypeVar("_Task")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class TaskLimits:
    """What is borne of a task.

    Args:
        retries: how often a task is tried again after it raised, its worker died, or its time was up.
        timeout: seconds of one attempt, after which its worker is ended; None for no limit.

    Raises:
        ValueError: fewer than no retries, or no time.
    """

    retries: int = 2
    timeout: float | None = None

    def __post_init__(self):
        if self.retries < 0:
            raise ValueError(f"retries has to be 0 or more, found {self.retries}")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout has to be positive, or None, found {self.timeout}")


@dataclass(frozen=True)
class Done(Generic[_Value]):
    """What a task answered."""

    value: _Value


@dataclass(frozen=True)
class Failed:
    """A task without an answer.

    Args:
        reasons: why, one entry per attempt.
        traceback: of the first attempt that raised; empty where the workers died or ran out of time.
    """

    reasons: tuple[str, ...]
    traceback: str = ""

    @property
    def reason(self) -> str:
        """The first attempt's reason, and how many there were."""
        return self.reasons[0] + (f" ({len(self.reasons)} attempts)" if len(self.reasons) > 1 else "")


@dataclass(frozen=True)
class _Raised:
    """What a worker sends home in place of an exception: exceptions of other packages need not survive the journey."""

    reason: str
    traceback: str
    final: bool


@runtime_checkable
class TimedExecutor(Protocol):
    """An executor that can end a task: its worker is killed after `seconds`, and the future holds an exception."""

    def submit_within(self, seconds: float, function: Callable[..., Any], /, *arguments: Any) -> Future: ...


class InlineExecutor(Executor):
    """Runs each task here and now, in `submit`. Nothing could end a task but the process itself, so it has no limit."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Call `fn`; the future is done when this returns."""
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except (Exception, SystemExit) as error:
            future.set_exception(error)
        return future


def map_tasks(
    executor: Executor,
    function: Callable[[_Task], _Value],
    tasks: Sequence[_Task],
    limits: TaskLimits = TaskLimits(),
    events: EventSink = ignore,
    stage: str = "tasks",
) -> list[Done[_Value] | Failed]:
    """`function` of every task, in the order of the tasks, whatever the order in which they end.

    A task that raises, or whose worker dies or is ended after `limits.timeout`, is tried again; after the last attempt
    it is `Failed`, and the others go on. `InputError` and `RunError` are not tried again: they would come back.

    Args:
        executor: where; with processes, `function`, tasks and answers have to be picklable.
        function: what to do; its answer depends on the task alone.
        tasks: what to do it with.
        limits: attempts and seconds.
        events: hears a `warning` about each failed attempt; the last one of a task carries the first traceback.
        stage: whom the events speak for.

    Raises:
        ValueError: a timeout, and an executor that cannot end a task.

    >>> map_tasks(InlineExecutor(), abs, [-1, 2])
    [Done(value=1), Done(value=2)]
    >>> map_tasks(InlineExecutor(), chr, [65, -1], TaskLimits(retries=1))[1].reason
    'ValueError: chr() arg not in range(0x110000) (2 attempts)'
    """
    if limits.timeout is not None and not isinstance(executor, TimedExecutor):
        raise ValueError(f"{type(executor).__name__} cannot end a task after {limits.timeout:g} s; give no timeout")
    outcomes: dict[int, Done[_Value] | Failed] = {}
    failures: list[list[_Raised]] = [[] for _ in tasks]
    running: dict[Future, int] = {}
    ended: SimpleQueue[Future] = SimpleQueue()  # `wait` would look at every future each time one ends

    def start(number: int) -> None:
        future = _submit(executor, function, tasks[number], limits)
        running[future] = number
        future.add_done_callback(ended.put)

    try:
        for number in range(len(tasks)):
            start(number)
        while running:
            future = ended.get()
            number = running.pop(future)
            found = _answer(future, limits)
            if isinstance(found, Done):
                outcomes[number] = found
                continue
            failed = failures[number]
            failed.append(found)
            first_traceback = next((one.traceback for one in failed if one.traceback), "")
            last = found.final or len(failed) > limits.retries
            events(_said(stage, number, [one.reason for one in failed], first_traceback if last else None))
            if last:
                outcomes[number] = Failed(tuple(one.reason for one in failed), first_traceback)
            else:
                start(number)
    finally:
        for future in running:  # after an interrupt; Parsl cannot cancel
            with suppress(NotImplementedError):
                future.cancel()
    return [outcomes[number] for number in range(len(tasks))]


def _submit(executor: Executor, function: Callable[[_Task], _Value], task: _Task, limits: TaskLimits) -> Future:
    try:
        if limits.timeout is not None and isinstance(executor, TimedExecutor):
            return executor.submit_within(limits.timeout, _attempt, function, task)
        return executor.submit(_attempt, function, task)
    except Exception as error:  # a pool that broke refuses whatever comes after
        refused: Future = Future()
        refused.set_exception(error)
        return refused


def _attempt(function: Callable[[_Task], _Value], task: _Task) -> Done[_Value] | _Raised:
    """Runs in the worker."""
    try:
        return Done(function(task))
    except (Exception, SystemExit) as error:
        ours = isinstance(error, InputError | RunError)
        reason = str(error) if ours else f"{type(error).__name__}: {error}".rstrip(": ")
        return _Raised(reason, "" if ours else traceback.format_exc(), ours)


def _answer(future: Future, limits: TaskLimits) -> Done | _Raised:
    """What came home; an exception that did not pass through `_attempt` says that the worker is gone."""
    try:
        return future.result()
    except (Exception, SystemExit) as error:
        if isinstance(error, TimeoutError) and limits.timeout is not None:
            return _Raised(f"no answer within {limits.timeout:g} s", "", False)
        code = getattr(error, "exitcode", None)
        status = f", exit code {code}" if code is not None else ""
        return _Raised(f"the worker was lost ({type(error).__name__}: {error}{status})", "", False)


def _said(stage: str, number: int, reasons: list[str], first_traceback: str | None) -> Event:
    """The warning about an attempt that failed; with a traceback, which may be empty, it was the last one."""
    last = first_traceback is not None
    after = f"given up after {len(reasons)} attempts" if len(reasons) > 1 else "given up"
    message = f"task {number}: {reasons[-1]}; {after if last else 'trying again'}\n{first_traceback or ''}".rstrip()
    fields = {"task": number, "attempt": len(reasons), "reason": reasons[-1], "failed": last}
    return Event("warning", stage, message, fields)
