"""Commands that compute: run, extend, resume, validate, report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from particlegen.cli.console import EXIT_NOT_CONVERGED, ProgressDisplay, guarded, out, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from particlegen.workflow import Run
    from particlegen.workflow.plans import Need

__all__ = ["register"]

WorkflowArgument = Annotated[str, typer.Argument(metavar="WORKFLOW.yaml", help="A workflow file, or a catalogue name.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace one value, e.g. --set training.minutes=10; repeatable."),
]
ResourcesOption = Annotated[
    Path | None,
    typer.Option("--resources", metavar="FILE", help="YAML: device, threads, executor of this machine."),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="Run folder; default: the next free runs/NAME-NNN."),
]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@guarded
def run(
    workflow: WorkflowArgument,
    to: OutOption = None,
    set_: SetOption = None,
    resources: ResourcesOption = None,
    quiet: QuietOption = False,
) -> None:
    """Run a workflow into a fresh folder."""
    from particlegen import workflow as engine

    with ProgressDisplay(quiet) as display:
        finished = engine.run(workflow, out=to, set=set_, resources=resources, listener=display)
    _conclude(finished)


@guarded
def extend(
    folder: FolderArgument,
    to: OutOption = None,
    set_: SetOption = None,
    resources: ResourcesOption = None,
    quiet: QuietOption = False,
) -> None:
    """Go on from a run on isomers with other settings, into a fresh folder; what it learned is taken over."""
    from particlegen import workflow as engine

    with ProgressDisplay(quiet) as display:
        finished = engine.extend(folder, out=to, set=set_, resources=resources, listener=display)
    _conclude(finished)


@guarded
def resume(folder: FolderArgument, resources: ResourcesOption = None, quiet: QuietOption = False) -> None:
    """Go on with a run that was interrupted; the answer is the same as without the interruption."""
    from particlegen import workflow as engine

    with ProgressDisplay(quiet) as display:
        finished = engine.resume(folder, resources=resources, listener=display)
    _conclude(finished)


@guarded
def validate(
    workflow: WorkflowArgument, to: OutOption = None, set_: SetOption = None, resources: ResourcesOption = None
) -> None:
    """Check a workflow without running it; print the planned stages, energy calls, memory and disk."""
    from particlegen import workflow as engine

    planned = engine.plan(workflow, set=set_, resources=resources, out=to)
    columns, learned = ["stage", "what it does", "energy calls"], any(stage.learned_calls for stage in planned.stages)
    table = Table(*columns, *(["of learned potentials"] if learned else []), box=None, pad_edge=False)
    for stage in planned.stages:
        counts = (stage.energy_calls, stage.learned_calls) if learned else (stage.energy_calls,)
        table.add_row(stage.name, stage.description, *(f"{calls:,.0f}" if calls else "–" for calls in counts))
    out.print(table)
    out.print(f"system    {planned.system}")
    out.print(f"machine   {planned.machine}")
    out.print(f"memory    {_room(planned.memory, planned.memory_there, 'there')}")
    out.print(f"disk      {_room(planned.disk, planned.disk_free, 'free')}")
    out.print("The workflow is valid.")


def _room(needs: "Sequence[Need]", has: int, there: str) -> str:
    """What is planned in all, of what there is, and what takes most of it."""
    total, most = sum(need.size for need in needs), max(needs, key=lambda need: need.size)
    return (
        f"about {total / 1e9:.3g} GB of the {has / 1e9:.3g} GB that are {there}; most for {most.what} "
        f"({most.size / 1e9:.3g} GB)"
    )


@guarded
def report(folder: FolderArgument) -> None:
    """Write report.html again from what the run folder holds."""
    from particlegen import workflow as engine

    out.print(f"report: {engine.open_run(folder).write_report()}")


def _conclude(finished: "Run") -> None:
    """The answer, where the report is, and exit code 4 where a convergence criterion was missed."""
    from particlegen.report import format_quantity, quantity, unit_of

    table = Table(box=None, pad_edge=False, show_header=False)
    results = finished.results
    for key, label in finished.headline:
        found = quantity(results, key)
        if found is not None:
            table.add_row(label, format_quantity(*found), unit_of(results, key))
    out.print(table)
    out.print(f"report: {finished.folder.report_file}")
    if not finished.converged:
        for reason in finished.reasons:
            say("not converged", "yellow", reason)
        raise typer.Exit(EXIT_NOT_CONVERGED)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    commands = ("run", run), ("extend", extend), ("resume", resume), ("validate", validate), ("report", report)
    for name, command in commands:
        app.command(name)(command)
