"""Isomers with a learned potential: the correction finds the engine's answer, and without it the answer is wrong."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import particlegen
from particlegen.cli import app
from particlegen.energy import LinearEnergy, SystemSettings, TorchPairEnergy, build_system, open_engine
from particlegen.energy.provider import Wrapper
from particlegen.io.checkpoint import load_checkpoint
from particlegen.isomers import Basins
from particlegen.learning import TrustRegion
from particlegen.settings import InputError, RunError
from particlegen.workflow import plan
from particlegen.workflow.isomers.labels import Recorded
from particlegen.workflow.isomers.surrogate import PiecewiseEnergy

FAST = {"steps": 60, "batch": 128, "validation": 64, "validate_every": 20, "warm_up": 10, "learning_rate": 2e-3}
LEARNED = {
    "version": 1,
    "kind": "isomers",
    "seed": 3,
    "system": {"card": "lj6", "temperature": 0.05},
    "energy": {"budget": 400},
    "learned": {"first": 8, "rounds": 1, "per_round": 6},
    "chains": {"count": 8, "leaps": 6, "local_steps": 2, "candidates": 4, "warm_up": 48},
    "adaptation": {"rounds": 2, "sweeps": 30},
    "flow": {"layers": 4, "hidden": [16], "training": {**FAST, "optimiser": "adam", "ema": 0.95}},
    "production": {"samples": 320, "draws": 300, "discard": 5, "quenches": 4, "block": 20},
    "correction": {"labels": 24, "chains": 4, "decisions": 6, "sweeps": 1},
    "stop": {"r_hat": None},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return particlegen.run(LEARNED, out=tmp_path_factory.mktemp("runs") / "learned")


def test_labels_are_counted_and_kept_within_the_budget(run):
    learned = run.results["learned"]
    asked = run.results["energy_calls"]["torch_pair"]["value"]
    assert asked == sum(learned["labels"].values()) <= 400
    assert learned["labels"]["adaptation"] == 2 * (8 + 6)
    assert run.results["energy_calls"]["learned"]["value"] > 20 * asked
    assert (run.folder.path / "labels.db").is_file()
    for rounds in learned["rounds"].values():
        assert [entry["labels"] for entry in rounds] == [14] and rounds[0]["energy_rmse"] > 0


def test_the_correction_agrees_in_two_ways(run):
    found = run.results["delta_free_energy"]["bipyramid-octahedron"]
    spread = np.hypot(found["stderr"], found["delayed_acceptance"]["stderr"])
    assert abs(found["value"] - found["delayed_acceptance"]["value"]) < 4 * spread
    assert found["budget"]["surrogate"]["value"] > 0
    # nearly harmonic at this temperature: 0.2344 of the harmonic superposition, less than 0.01 from the truth
    assert abs(found["value"] - found["harmonic"]["value"]) < 0.02
    assert found["stderr"] < 0.01


def test_the_plan_counts_labels_and_learned_energies_apart(run):
    stages = {stage.name: stage for stage in plan(LEARNED).stages}
    learned = run.results["learned"]["labels"]
    assert stages["adaptation"].energy_calls == learned["adaptation"]
    # At most: the engine has no grid to turn four times, and proposals outside of the basin are not asked for.
    assert learned["correction"] <= stages["correction"].energy_calls <= 1.2 * learned["correction"]
    asked = sum(stage.learned_calls for stage in stages.values())
    assert asked == pytest.approx(run.results["energy_calls"]["learned"]["value"], rel=0.3)
    assert sum(stage.energy_calls for stage in plan(LEARNED | {"energy": {"budget": 300}}).stages) <= 300
    table = CliRunner().invoke(app, ["validate", "ag6_isomers"]).output
    assert "of learned" in table and "correction" in table


def test_the_status_knows_the_correction(run):
    stages = {stage.name: stage for stage in run.status()}
    assert list(stages) == ["minima", "adaptation", "production", "correction", "estimates", "report"]
    assert stages["correction"].state == "done"
    assert stages["correction"].done == stages["correction"].total == 2 * (1 + LEARNED["correction"]["decisions"])


def test_an_interrupted_learned_run_ends_with_the_same_answer(run, tmp_path):
    class Stop(Exception):
        pass

    def listener(event):
        if event.kind == "progress" and event.stage == stage and event.fields["done"] == at:
            raise Stop

    folder = tmp_path / "again"
    stage, at = "adaptation", 3
    with pytest.raises(Stop):
        particlegen.run(LEARNED, out=folder, listener=listener)
    stage, at = "correction", 4
    with pytest.raises(Stop):
        particlegen.resume(folder, listener=listener)
    states = {stage.name: stage.state for stage in particlegen.open_run(folder).status()}
    assert (states["production"], states["correction"], states["estimates"]) == ("done", "running", "waiting")
    again = json.loads((particlegen.resume(folder).folder.path / "results.json").read_text())
    first = dict(run.results)
    for results in (first, again):
        results.pop("spent")
    assert again == first


def test_a_budget_too_small_to_start_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"energy.budget.*found 120.*at least"):
        particlegen.run(LEARNED | {"energy": {"budget": 120}}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def lj6():
    built = build_system(SystemSettings(card="lj_cluster"))
    return TorchPairEnergy(built.system, built.potential)


class _Failing(Wrapper):
    differentiable = False

    def __init__(self, provider, share):
        super().__init__(provider)
        self.share, self.asked = share, 0

    def evaluate(self, positions, want=("energy",)):
        found = self._provider.evaluate(positions, want)
        bad = torch.arange(self.asked, self.asked + len(positions)) % 10 < 10 * self.share
        self.asked += len(positions)
        reasons = tuple("SCF did not converge" if one else None for one in bad.tolist())
        ok = found.ok & ~bad
        return type(found)(found.energy.masked_fill(bad, torch.nan), found.forces, None, ok, reasons)


def test_an_engine_that_fails_too_often_ends_the_run_and_keeps_what_converged():
    noise = torch.randn(20, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    octahedron = torch.cat([torch.eye(3), -torch.eye(3)]).double() * 2**-0.5 * 1.12
    x = octahedron + 0.02 * noise
    good, bad = Recorded(_Failing(lj6(), 0.3)), Recorded(_Failing(lj6(), 0.4))
    for recorded in (good, bad):
        recorded.evaluate(x, ("energy", "forces"))
    good.check(0.3)
    assert len(good.labels["energies"]) == 14 and bool(good.labels["energies"].isfinite().all())
    with pytest.raises(RunError, match=r"8 of 20 calls of .* failed.*SCF did not converge.*resume"):
        bad.check(0.3)


def test_each_isomer_has_its_own_potential_and_its_own_trust(run):
    built, potentials = run.built, run.potentials()
    x = torch.from_numpy(run.positions("production")[[0, -1]])
    mixed = PiecewiseEnergy(list(potentials.values()), built.basins).evaluate(x, ("energy", "forces"))
    for row in (0, 1):
        own = potentials[row].evaluate(x[row : row + 1], ("energy", "forces"))
        torch.testing.assert_close(mixed.energy[row], own.energy[0])
        torch.testing.assert_close(mixed.forces[row], own.forces[0])
    largest = max(float(potentials[row].deviation(x[row : row + 1])) for row in (0, 1))
    assert TrustRegion(built.basins, potentials, 1.01 * largest)(x).tolist() == [0, 1]
    assert -1 in TrustRegion(built.basins, potentials, 0.99 * largest)(x).tolist()
    assert isinstance(built.basins, Basins)


GOLD = """version: 1
kind: ase
calculator: emt
elements: {Ag: Au}   # gold's parameters
citations: ["Jacobsen, Stoltze, Nørskov, Surf. Sci. 366, 394 (1996)"]
"""
TINY = {**FAST, "steps": 20, "batch": 32, "validation": 16, "optimiser": "adam", "ema": 0.9}
ABOVE_GOLD = {
    "version": 1,
    "kind": "isomers",
    "seed": 5,
    "system": {"card": "ag6_emt", "temperature": 100.0},
    "energy": {"budget": 180, "chunk": 8},
    "learned": {"first": 2, "rounds": 1, "per_round": 2, "baseline": "gold.yaml"},
    "chains": {"count": 4, "leaps": 2, "local_steps": 2, "candidates": 2, "warm_up": 24},
    "adaptation": {"rounds": 1, "sweeps": 8},
    "flow": {"layers": 2, "hidden": [8], "training": TINY},
    "production": {"samples": 64, "draws": 64, "discard": 1, "quenches": 1},
    "correction": {"labels": 8, "chains": 1, "decisions": 1, "sweeps": 1},
    "stop": {"r_hat": None, "acceptance": None, "sigmas": None},
}


@pytest.fixture(scope="module")
def above_gold(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baseline")
    (folder / "gold.yaml").write_text(GOLD)
    (folder / "workflow.yaml").write_text(yaml.safe_dump(ABOVE_GOLD))
    return particlegen.run(folder / "workflow.yaml", out=folder / "run")


def test_a_baseline_is_what_the_potentials_correct(above_gold):
    """Sums stand for the engine; had the baseline not been taken off the labels, they would be 4 eV away."""
    run, system = above_gold, above_gold.built.system
    engine, gold = open_engine(system, "ase_emt"), open_engine(system, "gold.yaml", relative_to=run.relative_to)
    adapted = load_checkpoint(run.folder.checkpoints, "adaptation")
    corrected = load_checkpoint(run.folder.checkpoints, "correction")
    for index, isomer in enumerate(run.built.isomers):
        x, energies = (adapted.tensors[f"{isomer.name}.labels.{part}"] for part in ("positions", "energies"))
        torch.testing.assert_close(engine.evaluate(x).energy, energies, rtol=0, atol=1e-9)
        assert float((gold.evaluate(x).energy - energies).abs().min()) > 0.03
        total = LinearEnergy((1.0, gold), (1.0, run.potentials()[index]))
        assert float((total.evaluate(x).energy - energies).abs().max()) < 0.02
        x, told = (corrected.tensors[f"{isomer.name}.{part}"] for part in ("labelled", "surrogate"))
        torch.testing.assert_close(total.evaluate(x).energy, told, rtol=0, atol=1e-8)
        assert run.results["isomers"][isomer.name]["surrogate_rmse"]["value"] < 0.02


def test_calls_of_a_baseline_are_counted_under_a_name_of_its_own(above_gold):
    calls = {name: entry["value"] for name, entry in above_gold.results["energy_calls"].items()}
    assert set(calls) == {"ase_emt", "ase_emt (baseline)", "learned"}
    assert calls["ase_emt"] == sum(above_gold.results["learned"]["labels"].values()) <= 180
    trained = calls["ase_emt (baseline)"] - calls["learned"]
    adapted = load_checkpoint(above_gold.folder.checkpoints, "adaptation")
    assert trained == sum(len(adapted.tensors[f"{isomer.name}.labels.energies"]) for isomer in above_gold.built.isomers)
    spent = {name: entry["value"] for name, entry in above_gold.results["spent"]["calls"].items()}
    assert spent["ase_emt (baseline)"] == trained + spent["learned_kernel"] + spent["learned"]
    assert spent["ase_emt (baseline)"] == calls["ase_emt (baseline)"]


def test_a_baseline_that_changed_or_does_not_fit_is_refused(above_gold, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(above_gold.relative_to, folder)
    manifest = folder / "run" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(above_gold.relative_to), str(folder)))
    (folder / "run" / "report.html").unlink()
    (folder / "gold.yaml").write_text(GOLD.replace("Au", "Cu"))
    with pytest.raises(InputError, match=r"gold.yaml: changed"):
        particlegen.resume(folder / "run")
    (folder / "gold.yaml").unlink()
    assert set(particlegen.open_run(folder / "run").potentials()) == {0, 1}, "what was learned needs no baseline"
    for name, said in (("ase_emt", "is the engine itself"), ("no_such_card", "no_such_card")):
        learned = ABOVE_GOLD["learned"] | {"baseline": name}
        with pytest.raises(InputError, match=said):
            particlegen.run(ABOVE_GOLD | {"learned": learned}, out=tmp_path / "run")
