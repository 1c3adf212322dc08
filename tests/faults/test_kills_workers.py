"""One worker or two: the same bytes, killed or not; and no worker outlives its run for long."""

import random
import signal
import time
from pathlib import Path

import pytest

from faults.cases import CASES, GLASS, LEARNED
from faults.comparison import compare
from faults.kills import Session, finished, killed_by_stage, stages

MARK = "RUN_WITH_WORKERS"


def test_a_glass_on_two_workers_has_the_same_bytes(whole, tmp_path):
    compare(finished(GLASS.by_workers(2), tmp_path / "run"), whole("glass"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_runs_that_are_killed_on_two_workers_have_the_same_bytes(whole, tmp_path, name):
    case = CASES[name].by_workers(2).often()
    kills = killed_by_stage(case, tmp_path / "run", stages(whole(name)), random.Random(2), most=3)
    compare(finished(case, tmp_path / "run"), whole(name))
    assert kills


def marked(value: str) -> list[int]:
    """Processes that were started with `MARK` in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={value}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("signals", [(signal.SIGKILL,), (signal.SIGTERM, signal.SIGTERM)])
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_workers_go_with_their_run(whole, tmp_path, monkeypatch, signals):
    """Also a run that is asked twice to end, in the middle of a task."""
    monkeypatch.setenv(MARK, str(tmp_path))
    session = Session(LEARNED.by_workers(2), tmp_path / "run", command=True)
    assert session.wait(["adaptation"]) and len(marked(str(tmp_path))) >= 3
    began = time.monotonic()
    assert session.end(*signals)
    while marked(str(tmp_path)) and time.monotonic() - began < 60:
        time.sleep(0.1)
    assert marked(str(tmp_path)) == []
    compare(finished(LEARNED, tmp_path / "run"), whole("learned"))
