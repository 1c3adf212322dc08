"""Every example runs, at its small size, and says something true."""

import runpy
from pathlib import Path

import ase.io
import numpy as np
import pytest

import particlegen

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> dict:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The run that the first example makes; the others work on it."""
    folder = tmp_path_factory.mktemp("examples") / "run"
    example("glass_from_python")["main"]([str(folder), "--small"])
    return particlegen.open_run(folder)


def test_glass_from_python(finished):
    assert finished.results["generated"]["n_samples"]["value"] == 400
    assert finished.weights().sum() == pytest.approx(1.0)
    assert finished.free_energy()["excess"].stderr < 1.0
    assert finished.folder.report_file.is_file()


def test_your_own_system(tmp_path, capsys):
    example("your_own_system")["main"]([str(tmp_path / "run"), "--small"])
    said = capsys.readouterr().out
    assert "keeps its contract" in said and "Weeks, Chandler, Andersen" in said
    run = particlegen.open_run(tmp_path / "run")
    assert run.built.card.name == "wca_mixture" and run.built.system.composition == (3, 3)


def test_reweighting_to_another_temperature(finished, capsys):
    module = example("reweight_temperature")
    module["main"]([str(finished.folder.path)])
    assert len(capsys.readouterr().out.splitlines()) == 7
    temperature, n = finished.built.state.temperature, finished.built.system.n_particles
    here = module["at_temperature"](finished, temperature)
    assert here["energy"].value == pytest.approx(finished.results["reweighted"]["energy_per_particle"]["value"])
    assert here["free_energy"].value == pytest.approx(finished.free_energy()["excess"].value)
    # d(F/kT)/dβ = ⟨U⟩ holds for the estimates themselves, sample by sample
    step = 1e-4
    ends = [module["at_temperature"](finished, 1 / (1 / temperature + s))["free_energy"].value for s in (step, -step)]
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(n * here["energy"].value, rel=1e-6)


def test_export_and_analysis(finished, tmp_path, capsys):
    example("export_and_analyse")["main"]([str(finished.folder.path), str(tmp_path)])
    assert "weights add up to 1.000000" in capsys.readouterr().out
    frames = ase.io.read(tmp_path / "samples.extxyz", index=":")
    assert np.allclose([atoms.info["weight"] for atoms in frames], finished.weights(), rtol=1e-7)
    planar = np.array([atoms.positions[:, :2] for atoms in frames])
    assert np.abs(planar - finished.positions()).max() < 1e-8


def test_every_example_is_documented_and_tested():
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")
    here = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f"../examples/{path.name}" in page and f'"{path.stem}"' in here
