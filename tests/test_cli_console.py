"""Texts of files on the terminal: shown as they are, never obeyed."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from rich.table import Table
from typer.testing import CliRunner

from particlegen.cli import app
from particlegen.cli.console import PlainConsole, ProgressDisplay, printable
from particlegen.events import Event

TINY = Path(__file__).parent / "workflows" / "tiny.yaml"

EVIL = "[red]x[/] :smile: \x1b]0;title\x07 \x1b[2J\x9b31m\r\b\x7f \u202eexe \ud800 [link=file:///x]y[/link]\\"
SHOWN = (
    "[red]x[/] :smile: \\x1b]0;title\\x07 \\x1b[2J\\x9b31m\\r\\x08\\x7f \\u202eexe \\ud800 [link=file:///x]y[/link]\\"
)


def test_control_characters_are_written_out_and_line_ends_stay():
    assert printable(EVIL) == SHOWN
    assert printable("F(b) − F(a) ± 0.1 Å\n  - β") == "F(b) − F(a) ± 0.1 Å\n  - β"


def test_strings_and_cells_have_no_markup(capsys):
    console = PlainConsole(highlight=False, soft_wrap=True, force_terminal=True, width=400)
    table = Table("head", box=None)
    table.add_row(EVIL)
    console.print(EVIL)
    console.print(table)
    said = capsys.readouterr().out
    assert said.count(SHOWN) == 2
    assert "\x1b]" not in said and "\x07" not in said and "\x1b[31m" not in said


@pytest.fixture
def handed_over(tmp_path):
    """A finished run with a text of its maker's in the place of every name and sentence."""
    folder = tmp_path / "[bold]run"
    folder.mkdir()
    shutil.copy(TINY, folder / "workflow.yaml")
    digest = hashlib.sha256((folder / "workflow.yaml").read_bytes()).hexdigest()
    manifest = {"name": EVIL, "relative_to": ".", "citations": [EVIL], "workflow_sha256": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    number = {"value": 1.0, "stderr": 0.1, "unit": EVIL, "method": EVIL}
    results = {"kind": "glass", "status": {"converged": False, "reasons": [EVIL]}, "free_energy": {EVIL: number}}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.mark.parametrize("command", ["cite", "free-energy", "status"])
def test_a_run_that_was_handed_over_cannot_steer_the_terminal(handed_over, command):
    result = CliRunner().invoke(app, [command, str(handed_over)])
    assert result.exit_code == 0
    assert not set(result.output) & {"\x1b", "\x07", "\r", "\b", "\x9b", "\u202e"}
    assert (SHOWN if command != "status" else "[bold]run") in result.output


def test_messages_of_a_run_and_of_errors_are_plain(capsys, tmp_path):
    with ProgressDisplay() as display:
        for kind in ("started", "warning", "finished"):
            display(Event(kind, "training", EVIL))
        display(Event("progress", "training", EVIL, {"done": 5, "total": 5}))
    assert capsys.readouterr().err.count(SHOWN) == 4
    (tmp_path / "w.yaml").write_text(TINY.read_text() + "'[red]\\x1b[2Jkey[/]': 1\n")
    result = CliRunner().invoke(app, ["validate", str(tmp_path / "w.yaml")])
    assert result.exit_code == 2 and "\x1b" not in result.output and "[red]" in result.output
