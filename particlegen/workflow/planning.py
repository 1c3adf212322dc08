"""What a workflow would do: stages, energy calls, memory and disk, known before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from particlegen.workflow.plans import PlannedStage
from particlegen.workflow.resources import InlineSettings, ParslSettings, ProcessSettings, Resources
from particlegen.workflow.runner import prepare, prepare_machine

__all__ = ["Plan", "plan"]

BASE_MEMORY = 400e6
"""Bytes that the interpreter and its libraries take."""


@dataclass(frozen=True)
class Plan:
    """What a workflow would do.

    Args:
        system: the system in one line.
        machine: device and executor in one line.
        stages: in order.
        memory_bytes: rough resident memory at the peak.
        disk_bytes: rough size of the run folder.
    """

    system: str
    machine: str
    stages: tuple[PlannedStage, ...]
    memory_bytes: float
    disk_bytes: float


def plan(
    workflow: str | Path | Mapping[str, Any],
    set: Mapping[str, Any] | list[str] | None = None,
    resources: str | Path | Resources | None = None,
) -> Plan:
    """The plan of a workflow; arguments and errors as `run`, nothing is written."""
    prepared = prepare(workflow, set)
    machine, device = prepare_machine(resources)
    prepared.origin()
    outline = prepared.kind.outline(prepared.workflow, prepared.built)
    return Plan(
        system=outline.system,
        machine=f"{device}; {_workers(machine.executor_for(prepared.kind.workers(prepared.workflow)))}",
        stages=outline.stages,
        memory_bytes=BASE_MEMORY + outline.memory_bytes,
        disk_bytes=outline.disk_bytes,
    )


def _workers(executor: InlineSettings | ProcessSettings | ParslSettings) -> str:
    if isinstance(executor, InlineSettings):
        return "tasks in this process"
    each = f"{executor.workers} processes of {executor.threads} thread{'s' if executor.threads > 1 else ''}"
    if isinstance(executor, ProcessSettings):
        return each
    return f"{each} per node, {executor.blocks.fewest} to {executor.blocks.most} {executor.nodes.kind} blocks by Parsl"
