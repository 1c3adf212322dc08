"""Tasks over executors: order, retries, failures as data, workers that die or hang."""

import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from threading import Timer

import pytest
from task_functions import Task, square, where

from particlegen.tasks import Done, Failed, InlineExecutor, TaskLimits, map_tasks
from particlegen.workflow import open_executor
from particlegen.workflow.executors import THREAD_VARIABLES, ProcessExecutor
from particlegen.workflow.resources import ParslSettings, ProcessSettings

HERE = Path(__file__).parent
KINDS = ["inline", "threads", "process", pytest.param("parsl", marks=pytest.mark.slow)]


@contextmanager
def opened(kind):
    """An executor of each kind with two workers, which find the tests' own modules."""
    if kind == "inline":
        yield InlineExecutor()
    elif kind == "threads":
        with ThreadPoolExecutor(2) as executor:
            yield executor
    elif kind == "process":
        with open_executor(ProcessSettings(kind="process", workers=2)) as executor:
            yield executor
    else:
        pytest.importorskip("parsl", reason="pip install 'particlegen[cluster]'")
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent), *([before] if before else [])])
        try:
            with open_executor(ParslSettings(kind="parsl", workers=2, heartbeat=1)) as executor:
                yield executor
        finally:
            os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


@pytest.fixture(scope="module", params=KINDS)
def executor(request):
    with opened(request.param) as executor:
        yield executor


@pytest.fixture(scope="module", params=KINDS[2:])
def killable(request):
    """Executors whose workers may die."""
    with opened(request.param) as executor:
        yield executor


def test_answers_come_in_the_order_of_the_tasks(executor, tmp_path):
    tasks = [Task(n, str(tmp_path)) for n in range(10)]
    assert map_tasks(executor, square, tasks) == [Done(n * n) for n in range(10)]
    assert [task.attempts for task in tasks] == [1] * 10
    assert map_tasks(executor, square, []) == []


def test_a_task_that_raises_is_tried_again_and_then_reported(executor, tmp_path):
    tasks = [
        Task(0, str(tmp_path)),
        Task(1, str(tmp_path), "raise", 1),
        Task(2, str(tmp_path), "raise", 9),
        Task(3, str(tmp_path), "input", 9),
        Task(4, str(tmp_path), "exit", 9),
    ]
    told = []
    found = map_tasks(executor, square, tasks, TaskLimits(retries=2), told.append, "labels")
    assert found[:2] == [Done(0), Done(1)]
    assert [task.attempts for task in tasks] == [1, 2, 3, 1, 3]
    raised, ours, left = found[2:]
    assert raised.reasons == ("OddError: one and other",) * 3 and raised.reason.endswith("other (3 attempts)")
    assert "Traceback" in raised.traceback and "in square" in raised.traceback
    assert ours == Failed(("key 'x': found 1, expected 2",))
    assert left.reasons == ("SystemExit: 7",) * 3
    last = [event for event in told if event.fields["failed"]]
    assert {event.kind for event in told} == {"warning"} and {event.stage for event in told} == {"labels"}
    assert sorted((event.fields["task"], event.fields["attempt"]) for event in last) == [(2, 3), (3, 1), (4, 3)]
    for event in told:
        shown = event.fields["failed"] and event.fields["task"] != 3
        assert ("in square" in event.message) == shown and event.fields["reason"] in event.message


def test_workers_that_die_or_hang_cost_their_own_task_alone(killable, tmp_path):
    troubles = [("", 0), ("kill", 1), ("kill", 9), ("hang", 1), ("hang", 9), ("", 0), ("raise", 9)]
    tasks = [Task(n, str(tmp_path), *trouble) for n, trouble in enumerate(troubles)]
    told = []
    began = time.monotonic()
    found = map_tasks(killable, square, tasks, TaskLimits(retries=1, timeout=2.0), told.append)
    assert time.monotonic() - began < 400
    answers = [outcome.value if isinstance(outcome, Done) else None for outcome in found]
    assert answers == [0, 1, None, 9, None, 25, None]
    assert [task.attempts for task in tasks] == [1, 2, 2, 2, 2, 1, 2], [event.message for event in told]
    killed, hung, raised = found[2], found[4], found[6]
    assert all("the worker was lost" in reason for reason in killed.reasons) and killed.traceback == ""
    if isinstance(killable, ProcessExecutor):
        assert "exit code -9" in killed.reason
        assert hung.reasons == ("no answer within 2 s",) * 2
    assert len(hung.reasons) == 2 and hung.traceback == "" and "in square" in raised.traceback
    assert sum(event.fields["failed"] for event in told) == 3 and len(told) == 8
    assert map_tasks(killable, square, [Task(7, str(tmp_path))]) == [Done(49)]


def test_a_pool_that_broke_is_replaced(tmp_path):
    """Idle workers die: pebble has no task to blame for it and gives up."""
    with ProcessExecutor(2) as executor:
        pids = {outcome.value[0] for outcome in map_tasks(executor, where, range(6))}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
        found = map_tasks(executor, square, [Task(n, str(tmp_path)) for n in range(4)])
        assert found == [Done(n * n) for n in range(4)]


def test_tasks_that_waited_for_a_pool_that_broke_do_not_wait_for_ever():
    """More than a pipe holds is on its way to the only worker when it dies."""
    with ProcessExecutor(1) as executor:
        (found,) = map_tasks(executor, where, [0])
        pid = found.value[0]
        os.kill(pid, signal.SIGSTOP)
        Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
        assert map_tasks(executor, len, ["x" * 100_000] * 20) == [Done(100_000)] * 20
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(abs, 1)


def test_a_pool_of_the_standard_library_breaks_and_says_so(tmp_path):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        found = map_tasks(executor, square, [Task(0, str(tmp_path), "kill", 9), Task(1, str(tmp_path))])
    assert all(isinstance(one, Failed) and "BrokenProcessPool" in one.reason for one in found)


def test_workers_get_the_stated_threads_and_this_process_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    with ProcessExecutor(1, threads=3) as executor:
        (found,) = map_tasks(executor, where, [0])
    pid, environment = found.value
    assert pid != os.getpid() and {environment[name] for name in THREAD_VARIABLES} == {"3"}
    assert os.environ["OMP_NUM_THREADS"] == "5" and "NUMBA_NUM_THREADS" not in os.environ


def test_an_interrupt_leaves_no_task_behind(tmp_path):
    def interrupt(event):
        raise KeyboardInterrupt

    began = time.monotonic()
    tasks = [Task(0, str(tmp_path), "raise", 9), *(Task(n, str(tmp_path), "hang", 9) for n in range(1, 5))]
    with ProcessExecutor(2) as executor, pytest.raises(KeyboardInterrupt):
        map_tasks(executor, square, tasks, events=interrupt)
    assert time.monotonic() - began < 60


def test_an_interrupt_does_not_wait_for_tasks_that_workers_are_about_to_begin(tmp_path):
    """Those can no longer be cancelled one by one: each would take its ten minutes."""
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), ProcessExecutor(2) as executor:
        for number in range(4):
            executor.submit(square, Task(number, str(tmp_path), "hang", 9))
        raise KeyboardInterrupt
    assert time.monotonic() - began < 60


def test_limits_are_checked():
    for wrong in ({"retries": -1}, {"timeout": 0.0}, {"timeout": float("nan")}):
        with pytest.raises(ValueError, match="found"):
            TaskLimits(**wrong)
    with pytest.raises(ValueError, match="InlineExecutor cannot end a task after 3 s"):
        map_tasks(InlineExecutor(), abs, [1], TaskLimits(timeout=3.0))
