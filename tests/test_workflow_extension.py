"""Runs that go on from another one: what they take over, what is new, and what is refused."""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import particlegen
from particlegen.cli import app
from particlegen.energy import LabelStore
from particlegen.energy.fingerprint import canonical_json, settings_hash
from particlegen.settings import InputError
from particlegen.streams import stream_seed
from particlegen.workflow import plan
from particlegen.workflow.isomers.job import IsomerJob
from particlegen.workflow.runner import prepare

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "workflows" / "tiny_isomers.yaml"
PAIR = "bipyramid-octahedron"
COLD = {"system.temperature": 0.05}
EMT = yaml.safe_load(TINY.read_text()) | {
    "system": {"card": "ag6_emt", "temperature": 150.0},
    "energy": {"budget": 400},
    "learned": {"first": 4, "rounds": 1, "per_round": 4, "potential": {"iterations": 3, "fitted_on": 20}},
    "chains": {"count": 2, "leaps": 2, "local_steps": 1, "candidates": 2, "warm_up": 24},
    "adaptation": {"rounds": 2, "sweeps": 24, "kept": 64},
    "production": {"samples": 64, "draws": 64, "discard": 1, "quenches": 1, "block": 16},
    "correction": {"labels": 8, "chains": 2, "decisions": 0},
}


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return particlegen.run(TINY, out=tmp_path_factory.mktemp("first") / "run").folder.path


@pytest.fixture(scope="module")
def cold(first, tmp_path_factory):
    before = digests(first)
    run = particlegen.extend(first, out=tmp_path_factory.mktemp("cold") / "run", set=COLD)
    assert digests(first) == before
    return run


def test_a_run_goes_on_at_a_lower_temperature(first, cold):
    found = cold.results["delta_free_energy"][PAIR]
    # Nearly harmonic at this temperature, where the answer of the first run is off by 0.15.
    assert abs(found["value"] - found["harmonic"]["value"]) < 4 * found["stderr"] + 0.01 and found["stderr"] < 0.02
    assert abs(particlegen.open_run(first).results["delta_free_energy"][PAIR]["value"] - found["value"]) > 0.1
    said = cold.manifest["start_from"]
    assert (said["folder"], said["seed"], said["generation"]) == ("run", 3, 1)
    assert said["results_sha256"] == hashlib.sha256((first / "results.json").read_bytes()).hexdigest()
    assert cold.results["start_from"] == said
    assert {stage.name: stage.state for stage in cold.status()}["minima"] == "done"
    # Minima were not looked for again: every call is of the new sampling, and none was made before it.
    ledger = cold.results["spent"]["ledger"]["torch_pair"]
    assert set(ledger) == {"adaptation", "production"}
    spent = sum(each["calls"]["value"] for each in ledger.values())
    assert cold.results["energy_calls"]["torch_pair"]["value"] == spent


def test_flows_help_the_first_round_already(cold):
    """A run that starts from nothing has no global moves in its first round."""
    rounds = [entry for entry in cold.folder.events() if entry["stage"] == "adaptation" and entry["kind"] == "progress"]
    assert "global" in rounds[0]["message"]


def test_an_extension_needs_neither_arrays_nor_answers_and_ends_the_same_when_interrupted(first, cold, tmp_path):
    class Stop(Exception):
        pass

    def listener(event):
        if (event.stage, event.kind) == at:
            raise Stop

    old = tmp_path / first.name
    shutil.copytree(first, old)
    for name in ("data.h5", "report.html", "events.jsonl"):
        (old / name).unlink()
    new = tmp_path / "new"
    at = "minima", "progress"
    with pytest.raises(Stop):
        particlegen.extend(old, out=new, set=COLD, listener=listener)
    at = "adaptation", "progress"
    with pytest.raises(Stop):
        particlegen.resume(new, listener=listener)
    shutil.rmtree(old)  # what was taken over is in the new folder
    again = particlegen.resume(new).results
    expected = dict(cold.results)
    for results in (again, expected):
        results.pop("spent")
    assert again == expected


def test_a_run_that_changed_before_it_was_taken_over_is_refused(first, tmp_path):
    class Stop(Exception):
        pass

    def listener(event):
        raise Stop

    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(first, old)
    with pytest.raises(Stop):
        particlegen.extend(old, out=new, listener=listener)
    (old / "results.json").write_text("{}")
    with pytest.raises(InputError, match=r"old: changed since .*new was begun from it"):
        particlegen.resume(new)


def test_no_random_number_is_drawn_again():
    """With the same seed, the run that starts from nothing, its extension, and the extension of that."""

    def seed(**origin):
        job = SimpleNamespace(workflow=SimpleNamespace(seed=7), origin=origin)
        return IsomerJob.seed(job, "production", 0, 1)  # pyright: ignore[reportArgumentType]

    assert seed() == stream_seed(7, "production", 0, 1)
    assert len({seed(), seed(generation=1), seed(generation=2)}) == 3


def test_generations_are_counted(cold):
    prepared = prepare(yaml.safe_load(TINY.read_text()) | {"start_from": str(cold.folder.path)}, None)
    assert prepared.origin()["generation"] == 2


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    return particlegen.run(EMT, out=tmp_path_factory.mktemp("learned") / "run")


def test_labels_are_taken_over_and_none_is_asked_for_twice(learned, tmp_path):
    old = learned.results["learned"]["labels"]
    run = particlegen.extend(
        learned.folder.path, out=tmp_path / "more", set=["learned.rounds=2", "energy.budget=40", "seed=4"]
    )
    new = run.results["learned"]["labels"]
    assert new["inherited"] == old["minima"] + old["adaptation"]
    # Two rounds of two isomers; chains this short have fewer than four different states now and then.
    assert new["minima"] == 0 and 8 < new["adaptation"] <= 2 * 2 * 4
    (engine,) = set(run.results["energy_calls"]) - {"learned"}
    asked = run.results["energy_calls"][engine]["value"]
    assert asked == new["adaptation"] + new["correction"] <= 40
    stored = [len(list(LabelStore(one.folder.labels_file).labels())) for one in (learned, run)]
    # Every call that was made is a geometry that neither run had a label of before.
    assert stored[1] - stored[0] == run.results["spent"]["calls"][engine]["value"] <= asked
    rounds = run.results["learned"]["rounds"].values()
    assert [len(each) for each in rounds] == [2, 2]
    assert sum(each[-1]["labels"] for each in rounds) == new["adaptation"]
    assert np.isfinite(run.results["delta_free_energy"][PAIR]["value"])


def test_the_plan_counts_what_is_new_alone(learned):
    stages = {stage.name: stage for stage in plan(EMT | {"start_from": str(learned.folder.path)}).stages}
    assert stages["minima"].energy_calls == 0 and stages["adaptation"].energy_calls == 2 * 4
    assert "labels, flows and chains from" in stages["minima"].description


def edited(folder, target, name, change):
    """A copy of a run whose file was changed, as one of an earlier version that had no checksum."""
    shutil.copytree(folder, target)
    content = json.loads((target / name).read_text())
    change(content)
    del content["sha256"]
    (target / name).write_text(json.dumps(content))
    return target


def test_another_system_or_engine_is_refused_before_anything_is_written(first, learned, tmp_path):
    out = tmp_path / "out"
    for change, said in (
        ({"system.card": "lj7", "system.isomers": None}, r"another system: system.card is 'lj7' here and 'lj6' there"),
        ({"system.isomers": ["octahedron"]}, r"other isomers: octahedron here and octahedron, bipyramid there"),
        ({"system.isomers": ["bipyramid", "octahedron"]}, r"another system|other isomers: bipyramid, octahedron here"),
        ({"learned": {"first": 4}}, r"learned no potential.*octahedron, bipyramid"),
    ):
        with pytest.raises(InputError, match=said):
            particlegen.extend(first, out=out, set=change)
    with pytest.raises(InputError, match=r"another engine: lj_full \(.*\) here and another \(.*\) there"):
        particlegen.extend(edited(first, tmp_path / "engine", "manifest.json", rename), out=out)
    with pytest.raises(InputError, match=r"structures, radius or reach of its card have changed"):
        particlegen.extend(
            edited(first, tmp_path / "card", "manifest.json", lambda m: m.update(system_hash="0")), out=out
        )
    with pytest.raises(InputError, match=r"energy.budget.*found 20, at least 32 new labels"):
        particlegen.extend(learned.folder.path, out=out, set={"energy.budget": 20})
    assert not out.exists()


def rename(manifest):
    (digest,) = manifest["engines"].values()
    manifest["engines"] = {"another": digest}


def test_labels_of_another_version_of_the_engine_are_refused(learned, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(learned.folder.path, old)
    import sqlite3

    with sqlite3.connect(old / "labels.db") as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        older = {"engine": "older"}
        connection.execute("UPDATE settings SET hash = ?, content = ?", (settings_hash(older), canonical_json(older)))
        connection.execute("UPDATE labels SET settings = ?", (settings_hash(older),))
    with pytest.raises(InputError, match=r"other settings of the engine: .*'older' there"):
        particlegen.extend(old, out=tmp_path / "out")


def test_an_unfinished_adaptation_and_other_kinds_are_refused(first, tmp_path):
    class Stop(Exception):
        pass

    def listener(event):
        if event.stage == "adaptation" and event.kind == "progress" and event.fields["done"] == 3:
            raise Stop

    with pytest.raises(Stop):
        particlegen.run(TINY, out=tmp_path / "old", listener=listener)
    result = CliRunner().invoke(app, ["extend", str(tmp_path / "old"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    assert "adaptation" in result.output and "not finished: 3 of 4" in " ".join(result.output.split())
    with pytest.raises(InputError, match=r"key 'start_from': .*nowhere: no such folder"):
        particlegen.run(TINY, out=tmp_path / "out", set={"start_from": "nowhere"})
    glass = tmp_path / "glass"
    glass.mkdir()
    shutil.copy(ROOT / "tests" / "workflows" / "tiny.yaml", glass / "workflow.yaml")
    digest = hashlib.sha256((glass / "workflow.yaml").read_bytes()).hexdigest()
    content = {"name": "glass", "relative_to": ".", "citations": [], "workflow_sha256": digest}
    (glass / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"a run of kind 'glass' cannot be extended"):
        particlegen.extend(glass)
    with pytest.raises(InputError, match=r"is a run of kind 'glass'; give one of kind 'isomers'"):
        particlegen.run(TINY, out=tmp_path / "out", set={"start_from": str(glass)})
