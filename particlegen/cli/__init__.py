"""The command line: `particlegen --help`."""

import sys
from io import TextIOWrapper

import typer

from particlegen.cli import catalogues, inspection, labels, runs

__all__ = ["app", "main"]

app = typer.Typer(
    name="particlegen",
    help="Sample equilibrium particle systems with generative models, and prove it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
runs.register(app)
inspection.register(app)
labels.register(app)
catalogues.register(app)


def main() -> None:
    """Entry point of the `particlegen` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that knows no ± or β gets a question mark, not a traceback
            stream.reconfigure(errors="replace")
    app()
