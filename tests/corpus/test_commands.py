"""Every command with wrong arguments, and with folders that are no runs or damaged ones: exit code 2, one message."""

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from particlegen.cli import app
from particlegen.io.store import RunStore

WORKFLOWS = Path(__file__).parents[1] / "workflows"
TINY, TINY_ISOMERS = WORKFLOWS / "tiny.yaml", WORKFLOWS / "tiny_isomers.yaml"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("precious\n")
    return tmp_path


def refused(*arguments) -> str:
    """What a command says that has to be refused, leaving everything as it was."""
    folder = Path.cwd()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    said = " ".join(result.stderr.split())
    assert result.exit_code == 2 and "Traceback" not in said, (arguments, result.exit_code, said[-400:])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return said


def run_folder(workflow: Path, **manifest) -> Path:
    """A run that has begun and done nothing, with keys of its manifest changed or (...) removed."""
    folder = Path("made")
    folder.mkdir()
    (folder / "workflow.yaml").write_bytes(workflow.read_bytes())
    content = {"name": "tiny", "relative_to": str(Path.cwd()), "citations": [], "engines": {}}
    content |= {"workflow_sha256": hashlib.sha256((folder / "workflow.yaml").read_bytes()).hexdigest()} | manifest
    content = {key: value for key, value in content.items() if value is not ...}
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "key=value"),
        ("a", "key=value"),
        ("=", "key=value"),
        (".=3", "unknown key ''"),
        ("a..b=3", "unknown key 'a'"),
        ("seed.=1", "'seed' is 3"),
        (".seed=1", "unknown key ''"),
        ("seed=\x00", "--set seed: line 1: special characters"),
        ("seed='\x1b[31m'", "--set seed: line 1: special characters"),
        ("seed=\ud800", "--set seed: line 1: special characters"),
        ("seed=&a [1]", "--set seed: line 1: anchors"),
        ("seed=*a", "--set seed: line 1: anchors"),
        ("seed=!!python/name:os.system", "--set seed: line 1: the tag"),
        ("seed=!!binary aGk=", "--set seed: line 1: the tag"),
        ("seed=2026-01-01", "'seed': found '2026-01-01'"),
        ("seed=" + "9" * 5000, "--set seed: line 1: "),
        ("seed=" + "9" * 300, "key 'seed'"),
        ("seed=" + "[" * 500, "--set seed: line 1: nested"),
        ("seed={a: 1, a: 2}", "--set seed: line 1: the key 'a' is given twice"),
        ("seed='7'", "key 'seed': found '7'"),
        ("estimates.free_energy=1", "key 'estimates.free_energy': found 1"),
        ("reference.frames=true", "key 'reference.frames': found True"),
        ("reference.frames=1e30", "key 'reference.frames'"),
        ("system=null", "key 'system'"),
        ("system=[1]", "key 'system'"),
        ("system.lengths=[1e300, 1e300]", "key 'lengths'"),
        ("system.temperature=5e-324", "key 'temperature'"),
        ("system.temperature=1e308", "key 'temperature'"),
        ("a" * 100_000 + "=3", "unknown key"),
        ("ключ=3", "unknown key 'ключ'"),
        ("training=5", "key 'training'"),
        ("kind=", "key 'kind' is missing"),
    ],
    ids=range(32),
)
def test_odd_overrides(text, said):
    assert said in refused("validate", TINY, "--set", text) == refused("run", TINY, "--set", text)


@pytest.mark.parametrize("command", ["status", "free-energy", "report", "cite", "resume", "extend"])
@pytest.mark.parametrize("folder", ["", ".", "text", "nowhere", "a" * 5000, "/dev/null"])
def test_what_is_no_run(command, folder):
    assert "no run folder" in (said := refused(command, folder)) or "no such folder" in said or "too long" in said


@pytest.mark.parametrize("command", ["status", "free-energy", "report", "cite", "resume", "extend", "export"])
@pytest.mark.parametrize(
    "damage",
    [{"name": None}, {"relative_to": 3}, {"citations": ...}, {"engines": [1]}, {"relative_to": ...}],
    ids=str,
)
def test_a_damaged_manifest(command, damage):
    folder = run_folder(TINY_ISOMERS, **damage)
    more = ("--to", "extxyz", "-o", "x.xyz") if command == "export" else ()
    assert f"manifest.json: key '{next(iter(damage))}'" in refused(command, folder, *more)


@pytest.mark.parametrize("file", ["workflow.yaml", "manifest.json"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"[1]", b"{", b"3"])
def test_damaged_files_of_a_run(file, content):
    folder = run_folder(TINY)
    (folder / file).write_bytes(content)
    for command in ("status", "cite", "resume", "report"):
        assert f"{folder / file}: " in refused(command, folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"status": 3}', b'{"status": {"converged": true, "reasons": []}, "free_energy": {"a": 3}}'],
)
def test_damaged_results(content):
    folder = run_folder(TINY)
    (folder / "results.json").write_bytes(content)
    assert "results.json: " in refused("free-energy", folder)


def test_exports():
    folder = run_folder(TINY)
    x = np.random.default_rng(0).random((3, 4, 2))
    RunStore(folder).append("generated", 0, {"position": x, "energy": np.zeros(3), "log_weight": np.zeros(3)})
    export = ("export", folder, "--to")
    assert "no folder" in refused(*export, "extxyz", "-o", "nowhere/x.xyz") or True
    assert "precious" not in refused(*export, "extxyz", "-o", "text")
    for output in ("", "nowhere/x.xyz", "x.bad", "/dev/null", "a" * 400 + ".xyz"):
        refused(*export, "extxyz", "-o", output)
    assert "--resample: 99999999999" in refused(*export, "extxyz", "-o", "x.xyz", "--resample", 99999999999)
    refused(*export, "extxyz", "-o", "x.xyz", "--resample", -3)
    refused(*export, "csv", "-o", "x.csv")
    assert "no production" in refused(*export, "extxyz", "-o", "x.xyz", "--ensemble", "production")
    assert "no trained network" in refused(*export, "network", "-o", "x.yaml")


def test_trained_weights_go_into_a_folder_that_is_there(here):
    from particlegen.io.trained_card import save_trained_card
    from particlegen.settings import InputError

    with pytest.raises(InputError, match=r"nowhere.*make it first"):
        save_trained_card(Path("nowhere/n.yaml"), {}, {}, {})


@pytest.mark.parametrize("command", ["list", "export", "import"])
@pytest.mark.parametrize("file", ["nowhere", "text", ".", ""])
def test_labels(command, file):
    arguments = {"list": (file,), "export": (file, "-o", "x.extxyz"), "import": ("new.db", file)}
    refused("labels", command, *arguments[command])


@pytest.mark.parametrize("system", ["nowhere", "", "x.yaml", "../lj6", "a" * 5000, "a" * 5000 + ".yaml", "quickstart"])
def test_energy_of_an_unknown_system(system):
    refused("energy", "--system", system, "text")


@pytest.mark.parametrize("engine", ["nowhere", "", "gfn2_xtb", "pyscf_pbe_lanl2dz", "openmm_reference", str(TINY)])
def test_energy_by_an_engine_that_does_not_fit(engine):
    Path("x.xyz").write_text("2\n\nA 0 0 0\nA 0 0 1.1\n")
    assert "x.xyz: frame 1: " in refused("energy", "--system", "lj6", "x.xyz", "--engine", engine)


@pytest.mark.parametrize("file", ["nowhere.xyz", "text", ".", "", "/dev/zero", "a" * 5000 + ".xyz"])
def test_energy_of_no_structure_file(file):
    refused("energy", "--system", "lj6", file)


def test_other_commands():
    for name in ("nowhere", "", "../quickstart", "text", "quickstart\n"):
        refused("init", name)
        refused("list", name)
        refused("schema", name)
    for output in ("nowhere/x", "."):
        refused("schema", "-o", output)
    for workflow in (".", "", "text", "nowhere.yaml", "/dev/zero", "\udcff", "a" * 5000):
        assert refused("validate", workflow) == refused("run", workflow)
    for resources in ("nowhere", ".", "", "text"):
        said = refused("validate", TINY, "--resources", resources)
        assert said == refused("run", TINY, "--resources", resources)


@pytest.mark.parametrize("out", ["text", "text/deeper", "", ".", "/dev/null", "a" * 5000])
def test_validate_refuses_the_output_folder_that_run_would(out):
    said = refused("validate", TINY, "--out", out)
    assert "output folder" in said and said == refused("run", TINY, "--out", out)


def test_an_output_folder_that_is_not_writable(monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    said = refused("validate", TINY)
    assert "output folder runs/tiny-001 cannot be made" in said and "is not writable" in said
    assert said == refused("run", TINY)


def test_an_engine_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    said = refused("validate", TINY_ISOMERS, "--set", "system.card=ag5", "--set", "energy.engine=gfn2_xtb")
    assert "particlegen[xtb]" in said
