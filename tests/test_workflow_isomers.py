"""`kind: isomers` at its smallest: the run folder, the commands, interruption and resumption, what is refused."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
import yaml
from faults.comparison import compare
from typer.testing import CliRunner

import particlegen
from particlegen.cli import app
from particlegen.estimate import Estimate, ReweightedFreeEnergy
from particlegen.flow.coupling import CouplingSettings
from particlegen.settings import InputError
from particlegen.workflow import Resources, plan
from particlegen.workflow.isomers.criteria import missed_criteria
from particlegen.workflow.isomers.schema import IsomerStop
from particlegen.workflow.resources import ProcessSettings

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "workflows" / "tiny_isomers.yaml"

PAIR = "bipyramid-octahedron"


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return particlegen.run(TINY, out=tmp_path_factory.mktemp("isomers") / "run")


def test_the_answers_are_as_designed(finished):
    names = {path.name for path in finished.folder.path.iterdir()}
    assert names >= {"workflow.yaml", "manifest.json", "events.jsonl", "results.json", "data.h5", "report.html"}
    results = finished.results
    assert results["kind"] == "isomers" and list(results["isomers"]) == ["octahedron", "bipyramid"]
    groups = {name: (found["point_group"], found["copies"]["value"]) for name, found in results["isomers"].items()}
    assert groups == {"octahedron": ("Oh", 30.0), "bipyramid": ("C2v", 360.0)}
    found = results["delta_free_energy"][PAIR]
    ways = {"per_labelled_basin", "harmonic", "flow", "mixture"}
    assert set(found) == {"value", "stderr", "unit", "method", "budget"} | ways
    assert set(found["budget"]) == {"statistical", "surrogate", "basin", "scf", "half_width"}
    for way in ways:
        assert set(found[way]) == {"value", "stderr", "unit", "method"} and found[way]["unit"] == "epsilon"
    manifest = json.loads(finished.folder.manifest_file.read_text())
    assert any("Eckart" in text for text in manifest["citations"])
    assert "svg+xml" in finished.folder.report_file.read_text()


def test_the_numbers_belong_together(finished):
    results = finished.results
    f = {name: found["free_energy"]["value"] for name, found in results["isomers"].items()}
    found = results["delta_free_energy"][PAIR]
    assert found["value"] == pytest.approx(f["bipyramid"] - f["octahedron"], abs=1e-12)
    assert found["per_labelled_basin"]["value"] - found["value"] == pytest.approx(0.1 * math.log(360 / 30))
    # Known of the two minima: the harmonic difference, which the card states.
    assert found["harmonic"]["value"] == pytest.approx(0.0662, abs=1e-4)
    parts = [found["budget"][part]["value"] for part in ("statistical", "surrogate", "basin", "scf")]
    assert found["budget"]["half_width"]["value"] == pytest.approx(1.96 * math.hypot(*parts), rel=1e-4)
    energy, log_q = finished.read("generated", "energy"), finished.read("generated", "log_q")
    log_weight = finished.read("generated", "log_weight")
    inside = np.isfinite(energy)
    assert 0 < inside.sum() <= 128
    assert np.allclose(log_weight[inside], -10.0 * energy[inside] - log_q[inside])
    assert (log_weight[~inside] == -np.inf).all()
    # Every energy that the answer rests on was computed, once, in a run that nothing interrupted.
    asked = results["energy_calls"]["torch_pair"]["value"]
    assert results["spent"]["calls"]["torch_pair"]["value"] == asked > 64


def test_every_number_says_of_what_it_is(finished):
    found = finished.results["isomers"]["octahedron"]
    units = {key: entry["unit"] for key, entry in found.items() if key.startswith("mean_")}
    assert units == {"mean_energy": "epsilon", "mean_gyration_radius": "sigma", "mean_coordination": ""}
    basin = finished.results["delta_free_energy"][PAIR]["budget"]["basin"]["method"]
    assert "of isomer octahedron" in basin and "of isomer bipyramid" in basin


def weights(k, ess_per_sample, samples=100):
    value = Estimate(0.0, 1.0, "kT", "")
    return ReweightedFreeEnergy(value, (-1.0, 1.0), samples, ess_per_sample, k, ("as told by the estimate",))


@pytest.mark.parametrize(
    ("stop", "flow", "correction", "said"),
    [
        ({}, weights(0.69, 0.5), None, []),
        ({}, weights(0.71, 0.5), None, [r"stop.pareto_k: 0.71 of the weights of the flow, isomer ring; 0.7 was"]),
        ({}, weights(math.inf, 0.5), None, [r"stop.pareto_k: inf"]),
        ({}, weights(0.2, 0.09), None, [r"stop.pareto_k: 9.0 effective samples"]),
        ({"pareto_k": 1.0}, weights(0.71, 0.5), None, []),
        ({"pareto_k": None}, weights(2.0, 0.01), None, []),
        ({"pareto_k": None}, weights(2.0, 0.01), weights(0.71, 0.5), [r"stop.correction_pareto_k: 0.71.*correction"]),
        ({"correction_pareto_k": None}, weights(0.2, 0.5), weights(2.0, 0.01), []),
    ],
)
@pytest.mark.parametrize("bar", [(), ("BAR failed",)])
def test_weights_count_by_their_criterion_alone_and_bar_always(stop, flow, correction, said, bar):
    """The answer rests on BAR: what the weights of the flow lack is a criterion of its own."""
    isomer = SimpleNamespace(
        name="ring",
        r_hat={},
        flow=flow,
        bar=SimpleNamespace(warnings=bar),
        moved=lambda: Estimate(0.5, 0.1, "", ""),
        correction=None if correction is None else SimpleNamespace(average=correction),
        surrogate_errors={"surrogate_rmse": Estimate(0.0, 0.0, "", "")},
    )
    adapted = SimpleNamespace(metadata={"ring": {}})
    job = SimpleNamespace(workflow=SimpleNamespace(stop=IsomerStop(**stop)), adapted=adapted)
    missed = missed_criteria(job, [isomer], {})
    expected = [*said, *(f"isomer ring: {text}" for text in bar)]
    assert len(missed) == len(expected)
    for text, pattern in zip(missed, expected, strict=True):
        assert re.search(pattern, text)


def test_states_of_the_chains_are_of_their_isomer(finished):
    import torch

    found = finished.built.basins.assign(torch.from_numpy(finished.positions()))
    assert np.array_equal(found.numpy(), finished.read("production", "isomer"))
    assert len(finished.positions()) == 128


def test_the_commands_know_isomers(finished, tmp_path):
    folder = finished.folder.path
    table = call("free-energy", folder).output
    for row in (PAIR, f"{PAIR} harmonic", f"{PAIR} mixture", f"{PAIR} half_width", "octahedron", "bipyramid"):
        assert any(line.startswith(row) and "epsilon" in line for line in table.splitlines()), row
    found = json.loads(call("free-energy", folder, "--json").stdout)
    assert found[PAIR]["value"] == finished.results["delta_free_energy"][PAIR]["value"]
    stages = json.loads(call("status", folder, "--json").stdout)
    assert [stage["stage"] for stage in stages] == ["minima", "adaptation", "production", "estimates", "report"]
    assert {stage["state"] for stage in stages} == {"done"}
    assert stages[2]["done"] == stages[2]["total"] == 128
    before = finished.folder.report_file.read_text()
    assert call("report", folder).exit_code == 0
    assert finished.folder.report_file.read_text() == before
    target = tmp_path / "states.extxyz"
    exported = call("export", folder, "--to", "extxyz", "--ensemble", "production", "-o", target)
    assert exported.exit_code == 0, exported.output
    frames = ase.io.read(target, index=":")
    assert np.abs(np.stack([atoms.positions for atoms in frames]) - finished.positions()).max() < 1e-8
    assert {atoms.get_chemical_formula() for atoms in frames} == {"Ar6"}
    assert call("export", folder, "--to", "extxyz", "--ensemble", "reference", "-o", tmp_path / "x.xyz").exit_code == 2
    assert "Wales" in call("cite", folder).output


def test_the_command_line_ends_as_the_criteria_say(tmp_path):
    """One isomer alone: no difference, and a criterion that so short a run cannot meet."""
    folder = tmp_path / "run"
    result = call(
        "run", TINY, "--out", folder, "--quiet", "--set", "system.isomers=[octahedron]", "--set", "stop.r_hat=1.0001"
    )
    assert result.exit_code == 4, result.output
    assert "stop.r_hat" in result.output and "global moves accepted" in result.output
    results = particlegen.open_run(folder).results
    assert results["delta_free_energy"] == {} and list(results["isomers"]) == ["octahedron"]
    assert not results["status"]["converged"]
    assert f"report: {folder / 'report.html'}" in result.output and (folder / "report.html").is_file()


@pytest.mark.slow
def test_an_engine_in_tasks_gives_the_same_answer_with_any_workers(tmp_path):
    """ASE's effective-medium theory, its labels kept; every one is paid for once."""
    settings = {"system": {"card": "ag6_emt", "temperature": 300.0}, "energy": {"chunk": 2, "keep_labels": True}}
    inline = particlegen.run(TINY, out=tmp_path / "inline", set=settings)
    two = Resources(executor=ProcessSettings(kind="process", workers=2))
    particlegen.run(TINY, out=tmp_path / "two", set=settings, resources=two)
    compare(tmp_path / "two", tmp_path / "inline")
    assert inline.folder.labels_file.is_file()
    found = inline.results["delta_free_energy"][PAIR]
    assert found["unit"] == "eV"
    # Quantum nuclei favour the softer isomer, here by next to nothing: silver at 300 K.
    zero = {name: entry["zero_point_energy"]["value"] for name, entry in inline.results["isomers"].items()}
    assert 0.05 < zero["bipyramid"] < zero["octahedron"] < 0.15
    assert -1e-3 < found["quantum"]["value"] - found["value"] < 0.0


def card(folder, engine="lj_full", composition=6, **isomers):
    """A cluster's card beside its structures, each given as positions."""
    for name, x in isomers.items():
        rows = "\n".join(f"Ar {a:.10f} {b:.10f} {c:.10f}" for a, b, c in x)
        (folder / f"{name}.xyz").write_text(f"{len(x)}\n\n{rows}\n")
    content = yaml.safe_load((ROOT / "systems" / "lj6.yaml").read_text())
    content |= {
        "engine": engine,
        "composition": {"A": composition},
        "isomers": {name: {"structure": f"{name}.xyz"} for name in isomers},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    (folder / "workflow.yaml").write_text(
        yaml.safe_dump(yaml.safe_load(TINY.read_text()) | {"system": {"card": "mine.yaml"}})
    )
    return folder / "workflow.yaml"


def octahedron(size):
    return size * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=float)


def test_an_isomer_that_is_none_of_this_engine_is_refused(tmp_path):
    """A swollen octahedron is another structure, but relaxes into the octahedron."""
    workflow = card(tmp_path, octahedron=octahedron(0.79), swollen=octahedron(0.95))
    with pytest.raises(InputError, match=r"isomer swollen: .*relaxes into the basin of octahedron.*system\.isomers"):
        particlegen.run(workflow, out=tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()


def test_a_saddle_is_refused(tmp_path):
    """Four particles in a square feel no force out of their plane, but would leave it."""
    square = 0.79 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], dtype=float)
    workflow = card(tmp_path, composition=4, square=square)
    with pytest.raises(InputError, match=r"square.*(saddle|minimum)"):
        particlegen.run(workflow, out=tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"production.samples": 64, "chains.count": 32}, r"production.samples: 64 states of 32 chains are 2 each"),
        ({"system.isomers": ["octahedrn"]}, r"key 'isomers': no isomer 'octahedrn'.*octahedron"),
        ({"system.isomers": ["octahedron", "octahedron"]}, r"named twice; name it once"),
        ({"system.card": "ipl_binary_2d"}, r"key 'kind' is missing: isomers need a card of 'kind: cluster'.*lj6"),
        ({"system.card": "lj66"}, r"lj66.*lj6"),
        ({"energy.engine": "no_such_engine"}, r"no_such_engine"),
        ({"chains.candidates": 1}, r"chains.candidates"),
        ({"flow.kind": "spline"}, r"flow.kind.*spline_coupling"),
        ({"system.temperature": -1.0}, r"system.temperature"),
        ({"production.sample": 100}, r"production.sample\b.*production.samples|sample.*samples"),
    ],
)
def test_what_can_be_known_to_be_wrong_is_refused_before_anything_is_written(tmp_path, change, said):
    with pytest.raises(InputError, match=rf"(?s){said}"):
        particlegen.run(TINY, out=tmp_path / "run", set=change)
    assert list(tmp_path.iterdir()) == []


def test_a_workflow_of_a_glass_does_not_take_a_cluster(tmp_path):
    with pytest.raises(InputError, match="cluster"):
        particlegen.run(
            ROOT / "tests" / "workflows" / "tiny.yaml", out=tmp_path / "run", set={"system": {"card": "lj6"}}
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "energies"), [("lj6_isomers", 2.5e6), ("ag6_emt_isomers", 2.5e5)])
def test_the_catalogue_holds_workflows_on_isomers(name, energies):
    """As many energies as the workflow's first line lets one expect, and the isomers that are to be compared."""
    planned = plan(name)
    assert 0.5 * energies < sum(stage.energy_calls for stage in planned.stages) < energies
    assert "octahedron, bipyramid" in planned.system


@pytest.mark.parametrize(("acceptance", "rounds"), [(0.01, 2), (1.0, 3)])
def test_the_adaptation_ends_once_it_has_settled(tmp_path, acceptance, rounds):
    settled = {"r_hat": None, "acceptance": acceptance}
    run = particlegen.run(TINY, out=tmp_path / "run", set={"adaptation.rounds": 3, "adaptation.settled": settled})
    assert {len(history) for history in run.results["rounds"].values()} == {rounds}
    adaptation = next(stage for stage in run.status() if stage.name == "adaptation")
    assert (adaptation.state, adaptation.done) == ("done", 2.0 * rounds)
    said = [entry["message"] for entry in run.folder.events() if entry["stage"] == "adaptation"]
    assert said[-1] == ("2 rounds, settled" if rounds == 2 else "3 rounds")


def test_what_a_partial_training_section_leaves_out_is_the_flows_own():
    whole = CouplingSettings().training
    shorter = CouplingSettings.model_validate({"training": {"batch": 64}}).training
    assert shorter == whole.model_copy(update={"batch": 64})
    timed = CouplingSettings.model_validate({"training": {"minutes": 1}}).training
    assert (timed.steps, timed.minutes, timed.ema) == (None, 1.0, whole.ema)
    assert CouplingSettings.model_validate({"training": whole.model_dump()}).training == whole
