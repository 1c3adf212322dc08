"""The whole way at its smallest: the run folder, interruption and resumption, pretrained weights, the opened run."""

import hashlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from faults.comparison import compare

import particlegen
from particlegen.io.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from particlegen.settings import InputError, RunError
from particlegen.workflow import Interrupted, Resources

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "workflows" / "tiny.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return particlegen.run(TINY, out=tmp_path_factory.mktemp("tiny") / "run")


def test_the_run_folder_is_as_designed(finished):
    names = {path.name for path in finished.folder.path.iterdir()}
    assert names >= {
        "workflow.yaml",
        "manifest.json",
        "events.jsonl",
        "results.json",
        "checkpoints",
        "data.h5",
        "report.html",
    }
    results = finished.results
    quantities = {
        "reference": ["energy_per_particle"],
        "generated": ["n_samples", "discard_fraction", "ess_per_sample", "forward_ess", "pareto_k", "log_q_error"],
        "reweighted": ["energy_per_particle", "heat_capacity_per_particle"],
        "free_energy": ["excess", "total"],
    }
    for section, keys in quantities.items():
        for key in keys:
            assert set(results[section][key]) == {"value", "stderr", "unit", "method"}, (section, key)
            assert results[section][key]["value"] is not None, (section, key)
    assert results["generated"]["n_samples"]["value"] == 60
    assert results["energy_calls"]["torch_pair"]["value"] == 60
    assert results["energy_calls"]["monte_carlo"]["value"] >= 400 * 5
    assert set(results["spent"]) == {"seconds", "calls", "ledger"}
    assert results["spent"]["calls"]["torch_pair"]["value"] == 60
    row = {name: quantity["value"] for name, quantity in results["spent"]["ledger"]["torch_pair"]["generation"].items()}
    assert row == {"calls": 60, "cached": 0, "failures": 0, "seconds": row["seconds"]} and row["seconds"] > 0
    sampled = results["spent"]["ledger"]["monte_carlo"]["reference"]
    assert sampled["calls"]["value"] == results["energy_calls"]["monte_carlo"]["value"]
    assert 0 < sampled["seconds"]["value"] <= results["spent"]["seconds"]["reference"]["value"]
    assert {"reference", "training", "generation"} <= set(results["spent"]["seconds"])
    assert set(results["observables"]["rdf"]["partials"]) == {"A-A", "A-B", "B-B"}
    manifest = json.loads(finished.folder.manifest_file.read_text())
    assert manifest["seed"] == 3 and manifest["libraries"]["torch"] and manifest["citations"]
    assert all(json.loads(line)["kind"] for line in finished.folder.events_file.read_text().splitlines())
    assert "svg+xml" in finished.folder.report_file.read_text()


def test_weights_are_the_definition(finished):
    energy, log_q = finished.read("generated", "energy"), finished.read("generated", "log_q")
    log_weight = finished.read("generated", "log_weight")
    assert np.allclose(log_weight, -finished.built.state.beta * energy - log_q)
    assert finished.weights().sum() == pytest.approx(1.0)
    assert len(set(finished.weights("reference"))) == 1


def test_the_canonical_workflow_runs_to_the_same_answer(finished, tmp_path):
    again = particlegen.run(finished.folder.workflow_file, out=tmp_path / "again")
    compare(again.folder.path, finished.folder.path)


def test_resuming_a_finished_run_changes_nothing(finished):
    before = {path: path.read_bytes() for path in finished.folder.path.rglob("*") if path.is_file()}
    particlegen.resume(finished.folder.path)
    after = {path: path.read_bytes() for path in finished.folder.path.rglob("*") if path.is_file()}
    assert after == before


def interrupted(folder, stage):
    """A run that Ctrl-C ended in `stage`."""
    sent = []

    def interrupt(event):
        if event.stage == stage and event.kind == "progress" and not sent:
            sent.append(event)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="resume"):
        particlegen.run(TINY, out=folder, listener=interrupt)
    return folder


@pytest.mark.parametrize(("seconds", "saved"), [(0.0, 10), (3600.0, None)])
def test_the_interval_of_checkpoints_is_that_of_the_resources(tmp_path, seconds, saved):
    """A process that is gone in the fourth report of the training leaves the checkpoint of the third, or none."""

    class Gone(Exception):
        pass

    def listener(event):
        if event.stage == "training" and event.kind == "progress" and event.fields["done"] == 15:
            raise Gone

    with pytest.raises(Gone):
        particlegen.run(TINY, out=tmp_path / "run", listener=listener, resources=Resources(checkpoint_seconds=seconds))
    found = load_checkpoint(tmp_path / "run" / "checkpoints", "training")
    assert (found.step if found else None) == saved


@pytest.mark.parametrize("part", ["network.", "optimiser."])
def test_a_checkpoint_of_other_layers_or_another_optimiser_is_refused(tmp_path, part):
    folder = interrupted(tmp_path / "run", "training")
    saved = load_checkpoint(folder / "checkpoints", "training")
    renamed = {
        name.replace(part, part + "old.", 1) if name.startswith(part) else name: v for name, v in saved.tensors.items()
    }
    save_checkpoint(folder / "checkpoints", "training", saved.step, renamed, saved.metadata)
    with pytest.raises(InputError, match="checkpoints: the training's checkpoint does not fit"):
        particlegen.resume(folder)


def test_another_seed_gives_another_answer(finished, tmp_path):
    other = particlegen.run(TINY, out=tmp_path / "run", set={"seed": 4})
    assert other.results["free_energy"] != finished.results["free_energy"]


def test_pretrained_weights_skip_training(finished, tmp_path):
    card = tmp_path / "mine.yaml"
    said = finished.export(card, to="network")
    assert any("mine.safetensors" in line for line in said)
    content = yaml.safe_load(TINY.read_text()) | {"training": {"pretrained": "mine.yaml"}}
    (tmp_path / "workflow.yaml").write_text(yaml.safe_dump(content))
    run = particlegen.run(tmp_path / "workflow.yaml", out=tmp_path / "run")
    assert np.array_equal(run.positions(), finished.positions())
    assert run.results["free_energy"] == finished.results["free_energy"]
    with pytest.raises(InputError, match="exists"):
        finished.export(card, to="network")


def test_training_goes_on_from_given_weights(finished, tmp_path):
    """One step at a small rate leaves the samples almost where the given weights put them."""
    finished.export(tmp_path / "mine.yaml", to="network")
    content = yaml.safe_load(TINY.read_text())
    still = {"start_from": "mine.yaml", "steps": 1, "learning_rate": 1e-4}
    content["training"] = {k: v for k, v in content["training"].items() if k not in ("steps", "minutes")} | still
    (tmp_path / "workflow.yaml").write_text(yaml.safe_dump(content))
    run = particlegen.run(tmp_path / "workflow.yaml", out=tmp_path / "run")
    fresh = particlegen.run(tmp_path / "workflow.yaml", out=tmp_path / "fresh", set={"training.start_from": None})
    near, far = (np.median(np.abs(other.positions() - finished.positions())) for other in (run, fresh))
    assert 0 < near < 0.1 * far


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"system.density": 0.4}, "another system"),
        ({"network.width": 16}, "network"),
    ],
)
def test_pretrained_weights_of_something_else_are_refused(finished, tmp_path, change, said):
    finished.export(tmp_path / "mine.yaml", to="network")
    content = yaml.safe_load(TINY.read_text()) | {"training": {"pretrained": "mine.yaml"}}
    (tmp_path / "workflow.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=said):
        particlegen.run(tmp_path / "workflow.yaml", out=tmp_path / "run", set=change)
    weights = tmp_path / "mine.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(InputError, match="damaged"):
        particlegen.run(tmp_path / "workflow.yaml", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_with_other_layers_are_refused(finished, tmp_path):
    """As a network of another version would have them; nothing is sampled first, and no run folder is made."""
    card = tmp_path / "mine.yaml"
    finished.export(card, to="network")
    path = tmp_path / "mine.safetensors"
    weights, metadata = load_weights(path)
    weights["a_layer_of_old"] = weights.pop(next(iter(weights)))
    path.unlink()
    save_weights(path, weights, metadata)
    content = yaml.safe_load(card.read_text()) | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    card.write_text(yaml.safe_dump(content))
    content = yaml.safe_load(TINY.read_text()) | {"training": {"pretrained": "mine.yaml"}}
    (tmp_path / "workflow.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"mine\.safetensors: the weights are not those of this hollow"):
        particlegen.run(tmp_path / "workflow.yaml", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_changed_workflow_is_not_resumed(finished, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("workflow.yaml", "manifest.json"):
        (folder / name).write_bytes((finished.folder.path / name).read_bytes())
    text = (folder / "workflow.yaml").read_text()
    (folder / "workflow.yaml").write_text(text.replace("seed: 3", "seed: 5"))
    with pytest.raises(InputError, match="changed since"):
        particlegen.resume(folder)


def test_a_run_in_progress_keeps_a_second_process_out(tmp_path):
    seen = []

    def intrude(event):
        if event.stage == "reference" and not seen:
            seen.append(event)
            with pytest.raises(InputError, match="another process"):
                particlegen.resume(tmp_path / "run")
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        particlegen.run(TINY, out=tmp_path / "run", listener=intrude)
    assert seen


def test_a_disk_that_fills_up_ends_with_a_sentence_and_resumes(finished, tmp_path, monkeypatch):
    from particlegen.io import atomic

    whole, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 12:
            raise OSError(28, "No space left on device")
        return whole(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(RunError, match=r"(?i)space left"):
        particlegen.run(TINY, out=tmp_path / "run")
    monkeypatch.undo()
    compare(particlegen.resume(tmp_path / "run").folder.path, finished.folder.path)


def test_the_opened_run_hands_out_configurations(finished):
    frames = finished.to_ase()
    assert len(frames) == 60 and len(frames[0]) == 4
    drawn = finished.to_ase(resample=7)
    assert len(drawn) == 7
    trajectory = finished.to_mdtraj()
    assert trajectory.n_frames == 60 and trajectory.n_atoms == 4
    assert finished.free_energy()["excess"].unit == "kT"
    assert "particlegen" in finished.citations[0]
    assert [stage.state for stage in finished.status()] == ["done"] * 5


def test_resampling_follows_the_weights(finished):
    drawn = finished.resampled("generated", 6000)
    share = np.bincount(drawn, minlength=60) / 6000
    assert np.abs(share - finished.weights()).max() <= 1 / 6000 + 1e-12
    wrong = np.full(60, 1 / 60)
    assert np.abs(share - wrong).max() > 1 / 6000
