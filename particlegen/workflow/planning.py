"""What a workflow would do: stages, energy calls, memory and disk, known before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from particlegen import machine
from particlegen.workflow.plans import Need, PlannedStage
from particlegen.workflow.resources import InlineSettings, ParslSettings, ProcessSettings, Resources
from particlegen.workflow.runner import prepare, prepare_machine

__all__ = ["Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """What a workflow would do.

    Args:
        system: the system in one line.
        machine: device and executor in one line.
        stages: in order.
        memory: what is held at a time.
        memory_there: bytes that this machine has.
        disk: what the run folder holds.
        disk_free: bytes that are free where it would be.
    """

    system: str
    machine: str
    stages: tuple[PlannedStage, ...]
    memory: tuple[Need, ...]
    memory_there: int
    disk: tuple[Need, ...]
    disk_free: int

    @property
    def memory_bytes(self) -> float:
        """Rough resident memory at the peak, workers of this machine and its device among it."""
        return sum(need.size for need in self.memory)

    @property
    def disk_bytes(self) -> float:
        """Rough size of the run folder at its largest."""
        return sum(need.size for need in self.disk)


def plan(
    workflow: str | Path | Mapping[str, Any],
    set: Mapping[str, Any] | list[str] | None = None,
    resources: str | Path | Resources | None = None,
    out: str | Path | None = None,
) -> Plan:
    """The plan of a workflow; arguments and errors as `run`, nothing is written."""
    prepared = prepare(workflow, set)
    prepared.origin()
    offered, device = prepare_machine(resources)
    folder = prepared.place(out)
    room = prepared.check_room(offered, device, folder)
    return Plan(
        system=room.outline.system,
        machine=f"{device}; {_workers(offered.executor_for(prepared.kind.workers(prepared.workflow)))}",
        stages=room.outline.stages,
        memory=room.memory,
        memory_there=machine.total_memory(),
        disk=room.outline.disk,
        disk_free=machine.free_disk(folder),
    )


def _workers(executor: InlineSettings | ProcessSettings | ParslSettings) -> str:
    if isinstance(executor, InlineSettings):
        return "tasks in this process"
    each = f"{executor.workers} processes of {executor.threads} thread{'s' if executor.threads > 1 else ''}"
    if isinstance(executor, ProcessSettings):
        return each
    return f"{each} per node, {executor.blocks.fewest} to {executor.blocks.most} {executor.nodes.kind} blocks by Parsl"
