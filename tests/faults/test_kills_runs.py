"""A run may be killed at any moment, again and again; it goes on to the bytes of the run that was left alone."""

import json
import random
import shutil
import sqlite3
from dataclasses import replace

import pytest

import particlegen
from faults.cases import CASES, GLASS, LEARNED
from faults.comparison import compare
from faults.kills import finished, killed_by_operation, killed_by_stage, stages
from particlegen.settings import InputError


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_goes_on_to_the_same_bytes(whole, tmp_path, name):
    """With a checkpoint wherever there may be one, which the other run did not make: they change nothing either."""
    case, other = CASES[name].often(), whole(name)
    kills = killed_by_stage(case, tmp_path / "run", stages(other), random.Random(11), most=4)
    compare(finished(case, tmp_path / "run"), other)
    assert len(kills) >= 2


@pytest.mark.slow
def test_a_killed_extension_goes_on_to_the_same_bytes(whole, tmp_path):
    """It takes over labels, flows and chains of another run before it goes its own way."""
    shutil.copytree(whole("learned"), tmp_path / "old")
    case = replace(LEARNED, workflow={**LEARNED.workflow, "start_from": "old", "seed": 6})
    other = finished(case, tmp_path / "whole")
    kills = killed_by_operation(case.often(), tmp_path / "run", [*range(9, 27, 3), 40, 40])
    kills += killed_by_stage(case.often(), tmp_path / "run", stages(other), random.Random(4), most=4)
    compare(finished(case, tmp_path / "run"), other)
    assert len(kills) > 6 and "inherited" in {kill.stage for kill in kills}


def test_a_run_killed_between_two_operations_on_files_goes_on_to_the_same_bytes(whole, tmp_path):
    """Before each of the first ones, which make the run folder, and before later ones: checkpoints, segments."""
    rng = random.Random(5)
    kills = killed_by_operation(
        GLASS.often(), tmp_path / "run", [*range(1, 9), *(rng.randint(20, 60) for _ in range(5))]
    )
    compare(finished(GLASS, tmp_path / "run"), whole("glass"))
    assert len(kills) > 9 and {kill.stage for kill in kills} > {"start", "reference"}


def test_a_start_that_was_cut_off_is_told_and_the_same_command_begins_again(tmp_path):
    """The folder is no run yet, nothing was computed; somebody's own files are left alone as ever."""
    workflow, _ = GLASS.written(tmp_path)
    folder, said = tmp_path / "run", []
    for operation in range(2, 20):
        if not killed_by_operation(GLASS, folder, [operation]) or (folder / "workflow.yaml").exists():
            break
        said.append(sorted(path.name for path in folder.iterdir()))
        with pytest.raises(
            InputError, match=r"no run folder( yet: .*begin again with the same particlegen run|: .*missing)"
        ):
            particlegen.resume(folder)
    assert ["events.jsonl"] in said and ["events.jsonl", "manifest.json"] in said
    (tmp_path / "mine").mkdir()
    for name in ("events.jsonl", "manifest.json", "notes.txt"):
        (tmp_path / "mine" / name).touch()
    with pytest.raises(InputError, match="already holds files"):
        particlegen.run(workflow, out=tmp_path / "mine")
    assert (tmp_path / "mine" / "manifest.json").read_bytes() == b""


def test_the_comparison_finds_what_is_not_the_same(whole, tmp_path):
    """In copies of a run: a number changed by little, a byte of the weights, a label fewer, a file left behind."""

    def copied(name, target):
        shutil.copytree(whole(name), tmp_path / target)
        return tmp_path / target

    results = copied("glass", "results")
    content = json.loads((results / "results.json").read_text())
    content["free_energy"]["excess"]["value"] += 1e-12
    (results / "results.json").write_text(json.dumps(content))
    left = copied("glass", "left")
    (left / "checkpoints" / ".partial-training-000000000055.json").touch()
    weights = copied("glass", "weights")
    flipped = bytearray((weights / "checkpoints" / "network.safetensors").read_bytes())
    flipped[-1] ^= 1
    (weights / "checkpoints" / "network.safetensors").write_bytes(flipped)
    labels = copied("learned", "labels")
    with sqlite3.connect(labels / "labels.db") as connection:
        connection.execute("DELETE FROM labels WHERE rowid = 3")
    for folder, name in ((results, "glass"), (left, "glass"), (weights, "glass"), (labels, "learned")):
        with pytest.raises(AssertionError):
            compare(folder, whole(name))
