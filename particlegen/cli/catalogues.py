"""Commands about what is there: list, init, doctor, schema."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from particlegen.cli.console import guarded, out, print_json

__all__ = ["doctor", "register"]

ENGINES = (
    ("torch pair", "torch", None),
    ("compiled Monte Carlo", "numba", None),
    ("ASE", "ase", None),
    ("OpenMM", "openmm", "openmm"),
    ("tblite", "tblite", "xtb"),
    ("torch-sim", "torch_sim", "torchsim"),
    ("PySCF", "pyscf", "dft"),
    ("e3nn", "e3nn", "learned"),
    ("torch-geometric", "torch_geometric", "learned"),
    ("zuko", "zuko", "flows"),
    ("MDTraj", "mdtraj", "mdtraj"),
    ("Parsl", "parsl", "cluster"),
)
"""(name, import name, extra that installs it)."""

LIBRARIES = ("torch", "numpy", "numba", "scipy", "pydantic", "h5py", "safetensors", "freud-analysis", "pymbar", "ase")


@guarded
def list_cards(
    kind: Annotated[
        Literal["systems", "potentials", "workflows"] | None, typer.Argument(help="One catalogue; default: all three.")
    ] = None,
) -> None:
    """Show the cards of the catalogues."""
    from particlegen import catalogue
    from particlegen.workflow import network_cards

    for shown in (kind,) if kind else catalogue.KINDS:
        out.print(shown, style="bold")
        table = Table(box=None, pad_edge=False, show_header=False)
        for name in catalogue.names(shown):
            table.add_row(f"  {name}", _title(shown, name))
        for card in network_cards() if shown == "potentials" else ():
            table.add_row(f"  {card.name}", f"trained network: {card.data.get('title', '')}")
        out.print(table)


def _title(kind: str, name: str) -> str:
    """A card's title, or the comment on the first line of a workflow."""
    from particlegen import catalogue

    card = catalogue.load(kind, name)
    if "title" in card.data:
        return str(card.data["title"])
    first = card.path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


@guarded
def init(name: Annotated[str, typer.Argument(help="A workflow of `particlegen list workflows`.")]) -> None:
    """Copy a catalogue workflow to the current folder, to be edited; nothing is overwritten."""
    from particlegen import catalogue
    from particlegen.settings import InputError

    card = catalogue.load("workflows", name)
    target = Path(f"{card.name}.yaml")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(card.path.read_text(encoding="utf-8"))
    except FileExistsError:
        raise InputError(f"{target} exists already; rename it or work in another folder") from None
    out.print(f"wrote {target}; edit it, then: particlegen run {target}")


@guarded
def doctor() -> None:
    """Versions, devices, threads and engines found on this machine."""
    import torch

    from particlegen import __version__, catalogue

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("particlegen", __version__)
    table.add_row("python", f"{platform.python_version()} ({sys.executable})")
    table.add_row("platform", platform.platform())
    for library in LIBRARIES:
        table.add_row(library, _version(library))
    cuda = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    table.add_row("devices", ", ".join(["cpu", *(f"cuda:{i} {name}" for i, name in enumerate(cuda))]))
    table.add_row("threads", f"torch {torch.get_num_threads()}, cores {os.cpu_count()}")
    table.add_row("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "not set"))
    for name, module, extra in ENGINES:
        found = importlib.util.find_spec(module) is not None
        remedy = f"; pip install 'particlegen[{extra}]'" if extra else ""
        table.add_row(f"engine {name}", "found" if found else f"not found{remedy}")
    plugins = importlib.metadata.entry_points(group="particlegen.energy_providers")
    table.add_row("energy plug-ins", ", ".join(sorted(point.name for point in plugins)) or "none")
    table.add_row("catalogues", str(catalogue.root()))
    out.print(table)


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not found"


@guarded
def schema(
    of: Annotated[Literal["workflow", "resources"], typer.Argument(help="Which kind of file.")] = "workflow",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to a file.")] = None,
) -> None:
    """The JSON schema of workflow or resources files, for completion and checks in an editor."""
    from particlegen.workflow import resources_schema, workflow_schema

    found = workflow_schema() if of == "workflow" else resources_schema()
    if output is None:
        print_json(found)
    else:
        output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for name, command in (("list", list_cards), ("init", init), ("doctor", doctor), ("schema", schema)):
        app.command(name)(command)
