"""Commands that look at a run or a structure: status, free-energy, export, energy, cite."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from particlegen.cli.console import guarded, out, print_json

__all__ = ["register"]

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@guarded
def status(folder: FolderArgument, json: JsonOption = False) -> None:
    """How far a run is."""
    from particlegen import workflow as engine

    stages = engine.open_run(folder).status()
    if json:
        print_json([stage.as_dict() for stage in stages])
        return
    table = Table("stage", "state", "done", "of", box=None, pad_edge=False)
    for stage in stages:
        done, total = (f"{n:,.0f}" if n else "" for n in (stage.done, stage.total))
        table.add_row(stage.name, stage.state, done, total)
    out.print(table)
    if any(stage.state != "done" for stage in stages):
        out.print(f"go on with: particlegen resume {folder!s}")


@guarded
def free_energy(folder: FolderArgument, json: JsonOption = False) -> None:
    """The free energies of a finished run: absolute ones of a glass, differences of isomers."""
    from particlegen import workflow as engine
    from particlegen.report import format_quantity

    found = engine.open_run(folder).free_energy()
    if json:
        print_json({name: estimate.as_dict() for name, estimate in found.items()})
        return
    width = max(map(len, found))
    for name, estimate in found.items():
        value = format_quantity(estimate.value, estimate.stderr)
        out.print(f"{name:<{width}} {value} {estimate.unit}   ({estimate.method})")


@guarded
def export(
    folder: FolderArgument,
    to: Annotated[
        Literal["extxyz", "traj", "mdtraj-h5", "dcd", "xtc", "network"],
        typer.Option("--to", help="Format; `network` writes the trained weights and their card."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write; never overwritten.")],
    ensemble: Annotated[
        Literal["reference", "generated", "production"] | None,
        typer.Option("--ensemble", help="Default: what the run is about."),
    ] = None,
    resample: Annotated[
        int | None, typer.Option("--resample", metavar="N", min=1, help="Draw N unweighted frames by their weights.")
    ] = None,
) -> None:
    """Write configurations for ASE or MDTraj, or the trained network."""
    from particlegen import workflow as engine

    for line in engine.open_run(folder).export(output, to=to, ensemble=ensemble, resample=resample):
        out.print(line)


@guarded
def energy(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Structures: .xyz, .extxyz, .exyz.")],
    system: Annotated[str, typer.Option("--system", metavar="NAME", help="A system card, or a path to your own.")],
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="CARD", help="Card of an engine; default: the system card's.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Energies of the structures in a file; N, box and species come from the file."""
    from particlegen import catalogue
    from particlegen.energy import energy_of_file
    from particlegen.isomers import cluster_energy_of_file

    cluster = catalogue.load("systems", system).data.get("kind") == "cluster"
    found = (cluster_energy_of_file if cluster else energy_of_file)(system, file, engine=engine)
    if json:
        print_json(found)
        return
    table = Table("frame", "energy", "energy per particle", box=None, pad_edge=False)
    for number, frame in enumerate(found):
        if frame["energy"] is None:
            table.add_row(str(number), "–", frame["reason"])
        else:
            table.add_row(str(number), f"{frame['energy']:.10g}", f"{frame['energy_per_particle']:.10g}")
    out.print(table)


@guarded
def cite(folder: FolderArgument) -> None:
    """What to cite for what this run used."""
    from particlegen import workflow as engine

    for text in engine.open_run(folder).citations:
        out.print(text)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    commands = (
        ("status", status),
        ("free-energy", free_energy),
        ("export", export),
        ("energy", energy),
        ("cite", cite),
    )
    for name, command in commands:
        app.command(name)(command)
