"""The vibrations stage in a run at its smallest: results, report, plan, interruption."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from faults.comparison import compare

import particlegen
from particlegen.workflow import Interrupted, plan

TINY = Path(__file__).parents[1] / "tests" / "workflows" / "tiny_isomers.yaml"
SETTINGS = {"vibrations": {"states": 6, "periods": 32, "steps": 16}, "system.isomers": ["octahedron"]}
CALLS = 6 * (1 + 32 * 16)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return particlegen.run(TINY, out=tmp_path_factory.mktemp("vibrations") / "run", set=SETTINGS)


def test_the_density_counts_all_vibrations_about_the_harmonic_ones(finished):
    found = finished.results["vibrations"]["octahedron"]
    frequency, density, stderr = (np.array(found[key]) for key in ("frequency", "density", "stderr"))
    assert density.sum() * frequency[1] == pytest.approx(12.0, rel=1e-9)
    assert (stderr >= 0).all() and found["unit"] == "1/tau" and "Hann" in found["method"]
    # Of the octahedron with masses of 1: ω of its stiffest vibration is 15.6/τ.
    harmonic = np.array(found["harmonic"])
    assert len(harmonic) == 12 and harmonic[-1] == pytest.approx(2.4878, abs=1e-3)
    mean = (density @ frequency) / density.sum()
    assert 0.85 * harmonic.mean() < mean < 1.02 * harmonic.mean()
    assert found["resolution"]["value"] == pytest.approx(1.44 / 32 * harmonic[-1], rel=1e-6)
    assert found["energy_drift"]["value"] < 0.1 * 12 * 0.1  # of a dozen kT
    assert found["failed"]["value"] == 0.0 and 0.0 <= found["left_basin"]["value"] <= 1.0


def test_its_energies_are_counted_and_planned(finished):
    results = finished.results
    asked = results["energy_calls"]["torch_pair"]["value"]
    assert results["spent"]["calls"]["torch_pair"]["value"] == asked
    planned = {stage.name: stage for stage in plan(TINY, set=SETTINGS).stages}
    assert planned["vibrations"].energy_calls == CALLS
    assert "vibrations" not in {stage.name for stage in plan(TINY).stages}
    done = [event for event in finished.folder.events() if event.get("stage") == "vibrations"]
    engines = [event["spent"]["engines"].get("torch_pair", {}).get("calls", 0) for event in done]
    assert sum(engines) == CALLS
    assert {stage.name: stage.state for stage in finished.status()}["vibrations"] == "done"
    assert "<h2>Vibrations" in finished.folder.report_file.read_text()
    citations = json.loads(finished.folder.manifest_file.read_text())["citations"]
    assert any("Dickey" in text for text in citations)


def test_an_interrupted_stage_resumes_to_the_same_answer(finished, tmp_path):
    def interrupt(event):
        if event.stage == "vibrations" and event.kind == "progress":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        particlegen.run(TINY, out=tmp_path / "run", set=SETTINGS, listener=interrupt)
    states = {stage.name: stage for stage in particlegen.open_run(tmp_path / "run").status()}
    assert (states["vibrations"].state, states["vibrations"].done, states["vibrations"].total) == ("running", 1.0, 2.0)
    compare(particlegen.resume(tmp_path / "run").folder.path, finished.folder.path)
