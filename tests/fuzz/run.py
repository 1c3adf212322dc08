"""Executions of a target, in a process that may die: what else than InputError and RunError came, where, how often."""

import ctypes
import multiprocessing
import os
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.mutate import mutated
from fuzz.targets import TARGETS, scratch
from particlegen.settings import InputError, RunError

__all__ = ["add", "run_target", "run_target_apart"]

PACKAGE = "particlegen"


class Hang(BaseException):
    """An execution took longer than it may."""


def _alarm(number: int, frame: Any) -> None:
    raise Hang


def run_target(
    name: str, executions: int, limit: float = 5.0, first: int = 0, told: Callable[[int], None] = lambda number: None
) -> dict[str, dict[str, Any]]:
    """Findings of executions `first` to `executions` − 1: what came → how often, the first number, its traceback.

    Args:
        limit: seconds of the processor that one execution may take; a busy machine is no hang.
        told: hears the number of every execution before it begins.
    """
    before = signal.signal(signal.SIGPROF, _alarm)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _findings(name, range(first, executions), limit, told)
    finally:
        signal.signal(signal.SIGPROF, before)


def _findings(name: str, numbers: range, limit: float, told: Callable[[int], None]) -> dict[str, dict[str, Any]]:
    target, findings = TARGETS[name], {}
    seeds = target.seeds()
    for number in numbers:
        content = mutated(seeds, number)
        told(number)
        signal.setitimer(signal.ITIMER_PROF, limit)
        try:
            target.run(content)
        except (InputError, RunError):
            continue
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            entry = findings.setdefault(_signature(error), {"count": 0, "first": number})
            entry["count"] += 1
            entry.setdefault("traceback", traceback.format_exc(limit=-6))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
    return findings


def _signature(error: BaseException) -> str:
    """Kind of error, and the last line of this package on the way to it."""
    places = [
        frame for frame in traceback.extract_tb(error.__traceback__) if f"{os.sep}{PACKAGE}{os.sep}" in frame.filename
    ]
    where = f"{Path(places[-1].filename).name}:{places[-1].lineno}" if places else "?"
    return f"{type(error).__name__} at {where}"


def _child(name: str, executions: int, limit: float, first: int, memory: int, reached: Any, answers: Any) -> None:
    if memory:
        here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (here + memory, here + memory))

    def told(number: int) -> None:
        reached.value = number

    answers.put(run_target(name, executions, limit, first, told))


def run_target_apart(
    name: str, executions: int, limit: float = 5.0, first: int = 0, memory: int = 2 * 2**30
) -> dict[str, Any]:
    """As `run_target`, each stretch in a process of its own with a bound on memory; a death or a hang in compiled code
    is a finding too, and the next execution goes on in a new process.

    Returns:
        `executions`, `seconds`, `findings`.
    """
    context = multiprocessing.get_context("fork")
    reached, findings, began = context.Value(ctypes.c_long, -1), {}, time.monotonic()
    count = executions - first
    TARGETS[name].seeds()
    scratch()
    while first < executions:
        answers = context.SimpleQueue()
        reached.value = first
        child = context.Process(target=_child, args=(name, executions, limit, first, memory, reached, answers))
        child.start()
        last, since = first, time.monotonic()
        while child.is_alive() and answers.empty():
            child.join(0.2)
            if reached.value != last:
                last, since = reached.value, time.monotonic()
            elif time.monotonic() - since > 60 * limit:  # compiled code that hears no signal
                child.kill()
                child.join()
        if answers.empty():
            number = int(reached.value)
            add(findings, {f"process ended with {child.exitcode}": {"count": 1, "first": number}})
            first = number + 1
        else:
            add(findings, answers.get())
            child.join()
            first = executions
    return {"executions": count, "seconds": round(time.monotonic() - began, 2), "findings": findings}


def add(findings: dict[str, dict[str, Any]], more: dict[str, dict[str, Any]]) -> None:
    """More findings, to those of before."""
    for key, entry in more.items():
        held = findings.setdefault(key, {**entry, "count": 0})
        held["count"] += entry["count"]
