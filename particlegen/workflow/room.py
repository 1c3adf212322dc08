"""Whether the machine has the memory and the disk that a run is planned to take."""

from pathlib import Path
from typing import Any

import torch

from particlegen import machine
from particlegen.settings import InputError
from particlegen.workflow.base import WorkflowBase
from particlegen.workflow.plans import Need, Outline
from particlegen.workflow.resources import InlineSettings, ParslSettings, Resources, SlurmNodes

__all__ = ["BASE_MEMORY", "check_disk", "check_memory", "memory_needs"]

BASE_MEMORY = 7e8
"""Bytes that the interpreter, the libraries and compiled kernels take."""

WORKER_MEMORY = 4.5e8
"""Bytes of a worker process."""


def memory_needs(outline: Outline, resources: Resources, workers: int) -> tuple[Need, ...]:
    """What a run holds on this machine: of the workflow, of the interpreter and of its workers.

    Args:
        outline: of the workflow.
        resources: of this machine.
        workers: that the workflow asks for itself.
    """
    executor, key = resources.executor_for(workers), "reference.workers"
    if resources.executor is not None:
        key = "executor.workers"
    count = 0
    if not isinstance(executor, InlineSettings):
        elsewhere = isinstance(executor, ParslSettings) and isinstance(executor.nodes, SlurmNodes)
        count = 0 if elsewhere else executor.slots
    base = Need("Python and its libraries", BASE_MEMORY, ())
    return (base, *outline.memory, *((Need("worker processes", count * WORKER_MEMORY, (key,)),) if count else ()))


def check_memory(needs: tuple[Need, ...], workflow: WorkflowBase, device: torch.device) -> None:
    """That this machine, and its device, have the memory.

    Raises:
        InputError: names what takes most, the keys that drive it, and a value that would fit.
    """
    own = tuple(need for need in needs if need.on_device) if device.type == "cuda" else ()
    _check(tuple(need for need in needs if need not in own), workflow, machine.total_memory(), "memory", "this machine")
    if own:
        total = torch.cuda.get_device_properties(device).total_memory
        _check(own, workflow, total, "memory", f"the device {device}")


def check_disk(needs: tuple[Need, ...], workflow: WorkflowBase, folder: Path) -> None:
    """That the file system of a folder has the room. Raises InputError as `check_memory`."""
    _check(needs, workflow, machine.free_disk(folder), "free disk", str(folder))


def _check(needs: tuple[Need, ...], workflow: WorkflowBase, has: int, what: str, where: str) -> None:
    total = sum(need.size for need in needs)
    if total <= has:
        return
    worst = max(needs, key=lambda need: need.size if need.keys else 0.0)
    key, *others = worst.keys
    value, left = _value(workflow, key), has - (total - worst.size)
    fits = int(value * left / worst.size) if isinstance(value, int | float) and left > 0 else 0
    less = f"lower {key}" + (f" from {value} to {fits} or less" if fits >= 1 else "")
    raise InputError(
        f"key {key!r}: about {_gigabytes(total)} of {what} are planned, {_gigabytes(worst.size)} of them for "
        f"{worst.what}, but {where} has {_gigabytes(has)}; {less}{''.join(f', or {other}' for other in others)}"
        + (", or choose another place with --out" if what == "free disk" else "")
    )


def _value(workflow: Any, key: str) -> Any:
    """Of a dotted key; None where the workflow leaves it to a card or has no such key."""
    for step in key.split("."):
        workflow = getattr(workflow, step, None)
    return workflow


def _gigabytes(size: float) -> str:
    """
    >>> _gigabytes(16.4e9), _gigabytes(3e5), _gigabytes(4e21)
    ('16.4 GB', '0.0003 GB', '4e+12 GB')
    """
    return f"{size / 1e9:.3g} GB"
