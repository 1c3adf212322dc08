"""What every command shares: consoles, one place where errors become sentences and exit codes, the progress display."""

import errno
import functools
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable
from types import TracebackType
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from particlegen.events import Event
from particlegen.settings import InputError, RunError

__all__ = [
    "EXIT_INPUT",
    "EXIT_INTERRUPTED",
    "EXIT_NOT_CONVERGED",
    "EXIT_RUN",
    "ProgressDisplay",
    "err",
    "guarded",
    "out",
    "print_json",
    "printable",
    "say",
]

EXIT_INPUT, EXIT_RUN, EXIT_NOT_CONVERGED, EXIT_INTERRUPTED = 2, 3, 4, 130


def printable(text: str) -> str:
    """A text that a terminal shows and does not obey: control characters, direction marks and lone surrogates written
    out; line ends stay.

    >>> printable("a" + chr(27) + "[31mb" + chr(0x202E))
    'a\\\\x1b[31mb\\\\u202e'
    """
    unsafe = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        c if c == "\n" or unicodedata.category(c) not in unsafe else c.encode("unicode_escape").decode() for c in text
    )


class PlainConsole(Console):
    """A console for texts that may come from files: in strings there is no markup, no emoji code, no control character,
    in tables as elsewhere. Colours come as `rich.text.Text`, whose content has to pass `printable`."""

    def render_str(self, text: str, **options: Any) -> Text:
        options.update(markup=False, emoji=False)
        return super().render_str(printable(text), **options)


out = PlainConsole(highlight=False, soft_wrap=True)
err = PlainConsole(stderr=True, highlight=False, soft_wrap=True)


def say(head: str, style: str, text: str) -> None:
    """A line on standard error with a coloured head."""
    err.print(Text.assemble((f"{head}:", style), " ", printable(text)))


def _fail(message: str, code: int) -> typer.Exit:
    say("error", "bold red", message)
    return typer.Exit(code)


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the exit codes: 2 wrong input, 3 engine or run failed, 130 interrupted; no traceback for those.

    Anything else is a bug in this package: it ends with 3 too, and its traceback is shown so that it can be reported.
    """

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except InputError as error:
            raise _fail(str(error), EXIT_INPUT) from None
        except RunError as error:
            raise _fail(str(error), EXIT_RUN) from None
        except KeyboardInterrupt as error:
            said = str(error) or "what was finished is on disk: particlegen resume DIR goes on from there"
            say("interrupted", "yellow", said)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            raise typer.Exit(0) from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _fail(f"no space left: {error}; free some and resume", EXIT_RUN) from None
            where = f"{error.filename}: " if error.filename else ""
            raise _fail(f"{where}{error.strerror or error}", EXIT_INPUT) from None
        except (typer.Exit, typer.TyperException, typer.Abort):
            raise
        except Exception as error:
            err.print(traceback.format_exc(), style="dim")
            message = (
                f"unexpected {type(error).__name__}: {error}; this is a bug, please report it with the lines above"
            )
            raise _fail(message, EXIT_RUN) from None

    return wrapper


def _duration(seconds: float) -> str:
    """
    >>> _duration(75.2), _duration(4000)
    ('1:15', '1:06:40')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"


class ProgressDisplay:
    """An event listener: progress bars with the time left on a terminal, a line per stage elsewhere."""

    def __init__(self, quiet: bool = False):
        self._quiet = quiet
        self._live = err.is_terminal and not quiet
        self._progress = Progress(
            TextColumn("{task.description:<11}", markup=False),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[said]}", style="dim", markup=False),
            console=err,
        )
        self._tasks: dict[str, TaskID] = {}
        self._tenth: dict[str, int] = {}
        self._first: dict[str, tuple[float, float]] = {}

    def __enter__(self) -> "ProgressDisplay":
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        if self._quiet:
            return
        if event.kind == "warning":
            say("warning", "yellow", f"{event.stage}: {event.message}")
        elif event.kind == "progress" and "done" in event.fields:
            self._advance(event)
        elif event.kind == "finished":
            self._finish(event)
        elif event.kind == "started" and not self._live:
            err.print(f"{event.stage}: {event.message}")

    def _advance(self, event: Event) -> None:
        done, total = float(event.fields["done"]), float(event.fields.get("total") or 0)
        left = event.fields.get("seconds_left", self._seconds_left(event.stage, done, total))
        shown = f"{_duration(left)} left" if left is not None else ""
        if self._live:
            task = self._task(event.stage)
            said = printable(event.message)
            self._progress.update(task, completed=int(done), total=int(total) or None, left=shown, said=said)
            return
        tenth = int(10 * done / total) if total else 0
        if tenth > self._tenth.get(event.stage, 0):
            self._tenth[event.stage] = tenth
            err.print(f"{event.stage}: {10 * tenth} %  {shown}  {event.message}")

    def _seconds_left(self, stage: str, done: float, total: float) -> float | None:
        """By the pace since the stage's first report; what a resumed run had done before counts for nothing."""
        now = time.monotonic()
        first, began = self._first.setdefault(stage, (done, now))
        return (now - began) * (total - done) / (done - first) if done > first else None

    def _task(self, stage: str) -> TaskID:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=None, left="", said="")
        return self._tasks[stage]

    def _finish(self, event: Event) -> None:
        if self._live:
            task = self._task(event.stage)
            total = self._progress.tasks[self._progress.task_ids.index(task)].total or 1
            said = printable(event.message)
            self._progress.update(task, completed=int(total), total=int(total), left="", said=said)
        else:
            err.print(f"{event.stage}: done  {event.message}")


def print_json(content: Any) -> None:
    """Plain JSON on standard output, never wrapped or coloured."""
    import json

    sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")
