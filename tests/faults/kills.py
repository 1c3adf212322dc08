"""Runs that are killed at random moments, in every stage and between operations on files.

Most sessions are forked from a process that has everything imported, some are the command line in an interpreter of
their own. A session ends by a signal at a random moment of a stage, or kills itself before its n-th operation on files.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import particlegen
from faults.cases import Case

PRELOADED = [
    "particlegen.workflow",
    "particlegen.workflow.glass.report",
    "particlegen.workflow.isomers.report",
    "matplotlib.backends.backend_svg",
    "torch._dynamo",
    "torch.distributions",
    "ase.calculators.emt",
    "freud",
    "scipy.optimize",
]
LONGEST = 2.5
"""Seconds of a stage at most: what the first run on a machine compiles is not repeated."""
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "sqlite3.connect")
"""Events of Python's audit hooks that stand for operations on files."""


@dataclass(frozen=True)
class Kill:
    """The end of a session: which one of its run, in which stage, how, and after how many seconds of it."""

    session: int
    stage: str
    how: str
    seconds: float


def go_on(workflow: Path, folder: Path, resources: Path, operation: int = 0) -> None:
    """Begin the run, or go on with it, as a person would: `run` once more, and `resume` where that finds a run.

    Args:
        operation: before this one of its operations on files, counted from 1, the process kills itself; 0 for never.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job has it ignored
    if operation:
        kill_before(operation, folder)
    try:
        if (folder / "workflow.yaml").is_file():
            particlegen.resume(folder, resources=resources)
        else:
            particlegen.run(workflow, out=folder, resources=resources)
    except KeyboardInterrupt:
        sys.exit(130)


def kill_before(operation: int, folder: Path) -> None:
    """From now on count what this process does to files in `folder`, and kill it before one of them."""
    done, inside = 0, str(folder)

    def hook(event: str, arguments: tuple) -> None:
        nonlocal done
        if event not in OPERATIONS or inside not in os.fsdecode(arguments[0] if _is_path(arguments) else ""):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        done += 1
        if done == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _is_path(arguments: tuple) -> bool:
    return bool(arguments) and isinstance(arguments[0], str | bytes | os.PathLike)


class Session:
    """A process that begins a run or goes on with it.

    Args:
        case: which.
        folder: of the run; the workflow file is written beside it.
        command: whether it is the command line in an interpreter of its own.
        operation: see `go_on`; not by the command line.
    """

    def __init__(self, case: Case, folder: Path, command: bool = False, operation: int = 0):
        workflow, resources = case.written(folder.parent)
        self._journal = folder / "events.jsonl"
        self._seen = self._journal.stat().st_size if self._journal.exists() else 0
        self.began = time.monotonic()
        if command:
            begun = (folder / "workflow.yaml").is_file()
            arguments = ["resume", folder] if begun else ["run", workflow, "--out", folder]
            self._process: Any = subprocess.Popen(
                [sys.executable, "-m", "particlegen.cli", *map(str, arguments), "--resources", resources, "--quiet"],
                cwd=folder.parent,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job has it ignored
            )
        else:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(PRELOADED)
            self._process = context.Process(target=go_on, args=(workflow, folder, resources, operation))
            self._process.start()

    def used(self) -> float:
        """Seconds of processor time so far, which do not depend on what else the machine does; else of the clock."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError):
            return time.monotonic() - self.began

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return self._process.poll() if isinstance(self._process, subprocess.Popen) else self._process.exitcode

    def stage(self) -> str:
        """The latest stage that this session has begun; `start` before the first."""
        if not self._journal.exists():
            return "start"
        with self._journal.open("rb") as file:
            file.seek(self._seen)
            lines = file.read().split(b"\n")[:-1]
        events = [json.loads(line) for line in lines if line.endswith(b"}")]
        return next((event["stage"] for event in reversed(events) if event["kind"] == "started"), "start")

    def wait(self, stages: Iterable[str] = ()) -> bool:
        """Wait until it has begun one of the stages, or until it ends; whether it is still running."""
        wanted = set(stages)
        while self.code is None:
            if wanted and self.stage() in wanted:
                return True
            time.sleep(0.005)
        return False

    def work(self, seconds: float) -> None:
        """Wait until it has used so much more processor time, or ended."""
        start = self.used()
        while self.code is None and self.used() - start < seconds:
            time.sleep(0.002)

    def end(self, *signals: int) -> bool:
        """Send signals, a moment apart, and wait; whether they ended it: SIGKILL at once, others with exit code 130."""
        for place, number in enumerate(signals):
            if place:
                time.sleep(0.02)
            if self.code is None and self._process.pid:
                os.kill(self._process.pid, number)
        self._process.wait() if isinstance(self._process, subprocess.Popen) else self._process.join()
        return self.code == (-signal.SIGKILL if signals[-1] == signal.SIGKILL else 130)

    def finish(self) -> int:
        """Wait for the end; the exit code."""
        if isinstance(self._process, subprocess.Popen):
            _, said = self._process.communicate()
            assert self._process.returncode in (0, 4), said.decode()
        else:
            self._process.join()
            assert self._process.exitcode == 0, self._process.exitcode
        return self.code or 0


def finished(case: Case, folder: Path, command: bool = False) -> Path:
    """The run, begun or gone on with to its end; beside it, which share of the time was the process's own."""
    session, used = Session(case, folder, command), 0.0
    while session.code is None:
        now = session.used()
        used = now if session.code is None else used
        time.sleep(0.01)
    share = used / (time.monotonic() - session.began)
    (folder.parent / "share").write_text(str(min(1.0, share)))
    session.finish()
    return folder


def stages(folder: Path) -> dict[str, float]:
    """Processor time of the stages of a run that nothing interrupted, in their order; `start` is before the first."""
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for line in (folder / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["kind"] == "started":
            first.setdefault(event["stage"], event["time"])
        last[event["stage"]] = event["time"]
    share = float((folder.parent / "share").read_text())
    return {"start": 0.1} | {stage: min(LONGEST, share * (last[stage] - begin)) for stage, begin in first.items()}


def killed_by_stage(
    case: Case,
    folder: Path,
    seconds: Mapping[str, float],
    rng: random.Random,
    most: int,
    signals: Sequence[int] = (signal.SIGKILL,),
    each: int = 2,
    by_command: float = 0.0,
) -> list[Kill]:
    """End sessions of a run, stage after stage: at random moments of the time that each stage takes.

    Now and then the journal's last line is cut short, as by a machine that loses its power. The run is left where the
    last session left it.

    Args:
        seconds: of each stage, see `stages`.
        most: ends of sessions.
        signals: that are sent.
        each: sessions of a stage, at most.
        by_command: share of the sessions that are the command line, whose start takes longer.
    """
    kills: list[Kill] = []
    journal = folder / "events.jsonl"
    names = list(seconds)
    for place, (stage, length) in enumerate(seconds.items()):
        for _ in range(rng.randint(1, each)):
            if len(kills) == most:
                return kills
            command = rng.random() < by_command
            session = Session(case, folder, command)
            if stage != "start" and not session.wait(names[place:]):
                return kills
            session.work(rng.uniform(0.0, 60 * length if command and stage == "start" else length))
            during, after = session.stage(), time.monotonic() - session.began
            if session.end(*signals):
                kills.append(Kill(len(kills) + 1, during, "command line" if command else "forked", round(after, 3)))
            if journal.exists() and journal.stat().st_size and rng.random() < 0.3:
                with journal.open("a") as file:
                    file.write('{"time": 1, "kind": "prog')
    return kills


def killed_by_operation(case: Case, folder: Path, operations: Iterable[int]) -> list[Kill]:
    """Sessions of one run, each of which kills itself before the given one of its operations on files."""
    kills: list[Kill] = []
    for operation in operations:
        session = Session(case, folder, operation=operation)
        session.wait()
        during, after = session.stage(), time.monotonic() - session.began
        if session.code != -signal.SIGKILL:
            break
        kills.append(Kill(len(kills) + 1, during, f"before operation {operation}", round(after, 3)))
    return kills
