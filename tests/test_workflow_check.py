"""A run checked by another engine: its difference, from few labels, is that engine's own; counts; resume; refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_workflow_learned import LEARNED

import particlegen
from particlegen import catalogue, estimate
from particlegen.energy import LabelStore, open_engine
from particlegen.io.checkpoint import load_checkpoint
from particlegen.settings import InputError
from particlegen.workflow.planning import plan

LABELS = 24
TINY = Path(__file__).parent / "workflows" / "tiny_isomers.yaml"


class Stop(Exception):
    pass


def workflow(folder, **changes):
    """The learned run of a Lennard-Jones cluster, checked with a well that is a tenth deeper."""
    card = yaml.safe_load((catalogue.root() / "potentials" / "lj_full.yaml").read_text(encoding="utf-8"))
    (folder / "deeper.yaml").write_text(yaml.safe_dump(card | {"epsilon": [[1.1]]}))
    content = LEARNED | {"check": {"engine": "deeper.yaml", "labels": LABELS}}
    content |= {"production": LEARNED["production"] | {"draws": 1500}} | changes
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    return folder / "run.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Interrupted within the check, then resumed."""
    folder = tmp_path_factory.mktemp("check")

    def listener(event):
        if event.kind == "progress" and event.stage == "check" and event.fields["done"] > LABELS:
            raise Stop

    with pytest.raises(Stop):
        particlegen.run(workflow(folder), out=folder / "run", listener=listener)
    saved = load_checkpoint(folder / "run" / "checkpoints", "check")
    assert saved is not None and saved.step == 1
    return particlegen.resume(folder / "run")


def test_the_checked_difference_is_that_of_the_other_engine(run):
    """Against all draws of the flows reweighted to the other engine, and the shift against the one of the minima.

    A deeper well makes harmonic free energies differ by a tenth of the difference of the minima more, anharmonic parts
    by 0.0002 less. The answer without the shift is neither.
    """
    found = run.free_energy()
    answer, checked = found["bipyramid-octahedron"], found["bipyramid-octahedron check"]
    assert "deeper.yaml" in checked.method and checked.stderr < 0.015
    beta, engine = run.built.state.beta, open_engine(run.system, "deeper.yaml", None, run.relative_to)
    owner, log_w, log_q = (run.read("generated", key) for key in ("isomer", "log_weight", "log_q"))
    energy = engine.evaluate(torch.from_numpy(np.nan_to_num(run.positions("generated")))).energy.numpy()
    inside = np.where(np.isfinite(log_w), -beta * energy - log_q, -np.inf)
    first, second = (estimate.flow_free_energy(inside[owner == k]).estimate for k in (0, 1))
    truth = estimate.difference(second, first).scaled(1 / beta, checked.unit)
    assert truth.stderr < 0.01 and checked.distance(truth.value, truth.stderr) < 4
    assert answer.distance(truth.value, truth.stderr) > 4
    minima = [run.results["isomers"][name]["energy_minimum"]["value"] for name in ("octahedron", "bipyramid")]
    parts = [run.results["check"][name] for name in ("octahedron", "bipyramid")]
    error = np.hypot(parts[0]["stderr"], parts[1]["stderr"])
    assert error < 0.006 and abs(checked.value - answer.value - 0.1 * (minima[1] - minima[0]) + 0.0002) < 4 * error


def test_its_labels_are_counted_apart_kept_and_not_paid_for_twice(run):
    calls, results = run.results["energy_calls"], run.results
    assert calls["torch_pair of deeper.yaml"]["value"] == 2 * LABELS
    # the run's own engine labelled these states for the correction, within its budget
    assert calls["torch_pair"]["value"] == sum(results["learned"]["labels"].values()) <= 400
    ledger = results["spent"]["ledger"]["torch_pair"]["check"]
    assert ledger["calls"]["value"] == 2 * LABELS and ledger["cached"]["value"] >= 2 * LABELS
    assert sorted(summary.labels for summary in LabelStore(run.folder.labels_file).summaries())[0] == 2 * LABELS
    without = dict(results["delta_free_energy"]["bipyramid-octahedron"]["budget"])
    assert set(without) == {"statistical", "surrogate", "basin", "scf", "half_width"}
    for part in results["check"].values():
        assert part["labels"] == LABELS and part["failed"] == 0 and part["pareto_k"]["value"] < 1.0
    assert "What another engine says" in run.folder.report_file.read_text()
    assert {stage.name: stage.state for stage in run.status()}["check"] == "done"


def test_without_learning_its_own_engine_is_asked_too_and_a_resumed_run_answers_alike(tmp_path):
    tiny = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    workflow(tmp_path)
    tiny["check"] = {"engine": "deeper.yaml", "labels": LABELS}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))

    def listener(event):
        if event.kind == "progress" and event.stage == "check" and event.fields["done"] == stop:
            raise Stop

    stop = None
    whole = particlegen.run(tmp_path / "tiny.yaml", out=tmp_path / "whole", listener=listener)
    stop = LABELS + 16  # within the second isomer
    with pytest.raises(Stop):
        particlegen.run(tmp_path / "tiny.yaml", out=tmp_path / "again", listener=listener)
    again = particlegen.resume(tmp_path / "again")
    first, second = (json.loads((each.folder.path / "results.json").read_text()) for each in (whole, again))
    for results in (first, second):
        assert results.pop("spent")["calls"]["torch_pair"]["value"] > 0
    assert first == second
    notes = load_checkpoint(whole.folder.checkpoints, "check").metadata  # pyright: ignore[reportOptionalMemberAccess]
    assert [note["engine_labels"] for note in notes.values()] == [LABELS, LABELS]
    plain = particlegen.run(TINY, out=tmp_path / "plain").results["energy_calls"]["torch_pair"]["value"]
    assert first["energy_calls"]["torch_pair"]["value"] == plain + 2 * LABELS


def test_what_the_check_may_not_be(tmp_path):
    path = workflow(tmp_path)
    planned = {stage.name: stage for stage in plan(path).stages}
    assert planned["check"].energy_calls == 2 * LABELS and "deeper.yaml" in planned["check"].description
    for change, said in (
        ({"check.engine": "lj_full"}, r"key 'check.engine': 'lj_full' is the run's own engine"),
        ({"check.engine": "lj_fall"}, r"key 'check.engine': .*lj_full"),
        ({"check.labels": 25}, r"check.labels: found 25.*correction.labels, which are 24"),
        ({"check.labels": 7}, r"check.labels"),
    ):
        with pytest.raises(InputError, match=rf"(?s){said}"):
            particlegen.run(path, out=tmp_path / "run", set=change)
    assert not (tmp_path / "run").exists()
