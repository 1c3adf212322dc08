"""What the tests let workers do: importable, and quick to import."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from particlegen.settings import InputError


class OddError(Exception):
    """An exception that does not survive pickling: it is made from two arguments and keeps one."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@dataclass(frozen=True)
class Task:
    """Squares its number, after so many attempts that fail in one way."""

    number: int
    folder: str
    trouble: str = ""
    times: int = 0

    @property
    def attempts(self) -> int:
        path = Path(self.folder, str(self.number))
        return len(path.read_text()) if path.exists() else 0


def square(task: Task) -> int:
    with Path(task.folder, str(task.number)).open("a") as file:
        file.write("x")
    if task.attempts <= task.times:
        if task.trouble == "raise":
            raise OddError("one", "other")
        if task.trouble == "input":
            raise InputError("key 'x': found 1, expected 2")
        if task.trouble == "exit":
            raise SystemExit(7)
        if task.trouble == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if task.trouble == "hang":
            time.sleep(600)
    time.sleep(0.03 * (-task.number % 3))  # later tasks end before earlier ones
    return task.number**2


def where(task: int) -> tuple[int, dict[str, str]]:
    """The worker's process, and its environment."""
    time.sleep(0.05)
    return os.getpid(), dict(os.environ)
