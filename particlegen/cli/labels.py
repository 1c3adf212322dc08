"""Commands about label stores: labels list, labels export, labels import."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from particlegen.cli.console import guarded, out, print_json

__all__ = ["register"]

StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="A label store, such as labels.db.")]


@guarded
def list_labels(
    store: StoreArgument, json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False
) -> None:
    """What a store holds, per settings of an engine."""
    from dataclasses import asdict

    from particlegen.energy import LabelStore

    found = LabelStore(store, create=False).summaries()
    if json:
        print_json([asdict(summary) for summary in found])
        return
    columns = ("settings", "provider", "labels", "converged", "failed", "with forces", "seconds")
    table = Table(*columns, box=None, pad_edge=False)
    for summary in found:
        counts = (summary.labels, summary.converged, summary.failed, summary.with_forces)
        names = ", ".join(summary.providers)
        table.add_row(summary.settings_hash[:12], names, *(f"{n:,}" for n in counts), f"{summary.seconds:,.1f}")
    out.print(table)


@guarded
def export_labels(
    store: StoreArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write; never overwritten.")],
    settings: Annotated[
        str | None, typer.Option("--settings", metavar="HASH", help="Only these settings; a hash or its beginning.")
    ] = None,
) -> None:
    """Write labels as extended xyz: for ASE, and for `labels import` bit for bit."""
    from particlegen.energy import LabelStore
    from particlegen.energy import export_labels as write

    count = write(LabelStore(store, create=False), output, settings)
    out.print(f"wrote {output}: {count:,} labels")


@guarded
def import_labels(
    store: StoreArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `labels export` wrote.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--settings", metavar="HASH", help="Take these, though the store has others; may be repeated."),
    ] = None,
) -> None:
    """Bring exported labels into a store, all or none; a missing store is made."""
    from particlegen.energy import import_labels as bring

    found = bring(store, file, settings or ())
    out.print(f"{store}: {', '.join(f'{count:,} {name}' for name, count in found.items())}")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    group = typer.Typer(no_args_is_help=True, help="Label stores: list, export, import.")
    for name, command in (("list", list_labels), ("export", export_labels), ("import", import_labels)):
        group.command(name)(command)
    app.add_typer(group, name="labels")
