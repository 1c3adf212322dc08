"""Commands over a finished run, and the exit codes of a run."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from typer.testing import CliRunner

import particlegen
from particlegen.cli import app, console
from particlegen.events import Event

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "workflows" / "tiny.yaml"


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "run"
    result = call("run", TINY, "--out", path)
    assert result.exit_code == 0, result.output
    assert "free energy, excess" in result.output and f"report: {path / 'report.html'}" in result.output
    return path


def test_status_and_free_energy_and_citations(folder):
    assert call("status", folder).output.count("done") >= 5
    stages = json.loads(call("status", folder, "--json").stdout)
    assert stages[0] == {"stage": "reference", "state": "done", "done": 400.0, "total": 400.0}
    found = json.loads(call("free-energy", folder, "--json").stdout)
    assert set(found) == {"excess", "excess_bar", "total"}
    assert found == particlegen.open_run(folder).results["free_energy"]
    assert "kT" in call("free-energy", folder).output
    cited = call("cite", folder).output
    assert cited.count("2512.16607") == 1 and "Muon" in cited


def test_the_report_is_written_again(folder):
    before = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    assert call("report", folder).exit_code == 0
    assert (folder / "report.html").read_text() == before


@pytest.mark.parametrize("ensemble", ["reference", "generated"])
def test_export_reads_back_within_the_stated_precision(folder, tmp_path, ensemble):
    target = tmp_path / "frames.extxyz"
    result = call("export", folder, "--to", "extxyz", "--ensemble", ensemble, "-o", target)
    assert result.exit_code == 0 and "1e-8" in result.output
    run = particlegen.open_run(folder)
    frames = ase.io.read(target, index=":")
    assert np.abs(np.stack([atoms.positions[:, :2] for atoms in frames]) - run.positions(ensemble)).max() < 1e-8
    if ensemble == "generated":
        assert np.allclose([atoms.info["weight"] for atoms in frames], run.weights(), atol=1e-12)
    again = call("export", folder, "--to", "extxyz", "-o", target)
    assert again.exit_code == 2 and "exists" in again.output


def test_energies_of_exported_frames_are_those_of_the_run(folder, tmp_path):
    target = tmp_path / "frames.extxyz"
    call("export", folder, "--to", "extxyz", "--ensemble", "reference", "-o", target)
    found = json.loads(call("energy", "--system", "ipl_binary_2d", target, "--json").stdout)
    expected = particlegen.open_run(folder).read("reference", "energy")
    assert np.allclose([frame["energy"] for frame in found], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "extxyz", "--ensemble", "production", "-o", "x.extxyz"], "production"),
        (["--to", "extxyz", "-o", "x.doc"], "ends in"),
        (["--to", "pickle", "-o", "x.extxyz"], "pickle"),
        (["--to", "network", "-o", "x.bin"], ".yaml"),
        (["--to", "extxyz", "--resample", "0", "-o", "x.extxyz"], "resample"),
    ],
)
def test_an_export_that_cannot_be_is_refused(folder, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result = call("export", folder, *arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_missed_criterion_is_exit_code_4_and_the_answer_is_there(tmp_path):
    result = call("run", TINY, "--out", tmp_path / "run", "--set", "stop.pareto_k=0.001", "--quiet")
    assert result.exit_code == 4
    assert "stop.pareto_k" in result.output and "free energy" in result.output
    results = particlegen.open_run(tmp_path / "run").results
    assert results["status"]["converged"] is False and results["status"]["reasons"]
    assert call("resume", tmp_path / "run", "--quiet").exit_code == 4


def test_a_signal_is_exit_code_130_and_the_run_goes_on(folder, tmp_path):
    target = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "particlegen.cli",
        "run",
        str(TINY),
        "--out",
        str(target),
        "--set",
        "training.steps=2000",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (target / "segments" / "reference").is_dir():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert f"particlegen resume {target}" in said and "Traceback" not in said
    assert (target / "manifest.json").is_file() and not (target / "results.json").exists()


def test_the_time_left_of_a_stage_follows_its_pace_since_this_session_began(monkeypatch):
    now, said = [100.0], []
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console.err, "print", lambda text, **_: said.append(text))
    display = console.ProgressDisplay()
    for done, seconds in ((40, 0.0), (50, 30.0), (60, 30.0)):  # of 100, 40 of them before a resumption
        now[0] += seconds
        display(Event("progress", "adaptation", "", {"done": done, "total": 100}))
    assert [line.split("  ")[1] for line in said] == ["", "2:30 left", "2:00 left"]
