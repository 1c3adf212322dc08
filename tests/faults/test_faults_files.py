"""Damaged files of a run folder: refused or made again, never another answer in silence."""

import json
import random
import re
import shutil

import numpy as np
import pytest
import torch

import particlegen
from faults.injection import GLASS, WORKFLOWS, call, quick, same, told, written
from particlegen.energy import LabelStore
from particlegen.io.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from particlegen.settings import InputError, RunError

STAGES = {
    "glass": ("reference", "training", "held_out"),
    "isomers": ("minima", "adaptation", "production", "mixture", "audit"),
    "learned": ("minima", "adaptation", "correction"),
}


def damaged(content, rng):
    """Cut off, or with one bit flipped, at a random place."""
    place = rng.randrange(len(content))
    if rng.random() < 0.3:
        return content[:place]
    return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]


def copied(folder, to):
    """A run folder as it would be before its last stages: a resume has to look at all that is on disk."""
    shutil.copytree(folder, to)
    for name in ("results.json", "report.html"):
        (to / name).unlink(missing_ok=True)
    return to


def test_a_checkpoint_damaged_at_two_hundred_places_is_never_another_state(tmp_path):
    rng = random.Random(1)
    states = {step: {"w": torch.arange(40.0) + step, "n": torch.tensor([step])} for step in (1, 2)}
    for step, tensors in states.items():
        save_checkpoint(tmp_path, "flow", step, tensors, {"loss": 0.5 + step, "names": ["a", "b"]})
    whole_files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    seen = []
    for _ in range(200):
        path = rng.choice(sorted(whole_files))
        path.write_bytes(damaged(whole_files[path], rng))
        try:
            found = load_checkpoint(tmp_path, "flow")
        except RunError as error:  # both, or nothing, cannot be
            pytest.fail(str(error))
        assert found is not None and found.metadata == {"loss": 0.5 + found.step, "names": ["a", "b"]}
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in states[found.step].items())
        assert found.step == 2 or path.name in found.skipped[0] or path.with_suffix(".json").name in found.skipped[0]
        seen.append(found.step)
        path.write_bytes(whole_files[path])
    assert 60 < seen.count(1) < 140


def test_weights_damaged_at_two_hundred_places_are_refused(tmp_path):
    rng, path = random.Random(2), tmp_path / "network.safetensors"
    save_weights(path, {"w": torch.arange(64.0)}, {"network": {"width": 8}})
    whole_files = {each: each.read_bytes() for each in tmp_path.iterdir()}
    for number in range(200):
        target = sorted(whole_files)[number % 2]
        target.write_bytes(damaged(whole_files[target], rng))
        try:
            tensors, metadata = load_weights(path)
        except InputError as error:
            assert path.name in str(error)
        else:  # a blank, or a key of the card that nothing depends on
            assert target.suffix == ".json" and metadata == {"network": {"width": 8}}
            assert torch.equal(tensors["w"], torch.arange(64.0))
        target.write_bytes(whole_files[target])


def test_a_label_store_damaged_at_two_hundred_places_gives_its_labels_or_says_so(undisturbed, tmp_path):
    content = (undisturbed("learned")[0] / "labels.db").read_bytes()
    truth = [label.digest for label in LabelStore(undisturbed("learned")[0] / "labels.db").labels()]
    rng, path, caught = random.Random(3), tmp_path / "labels.db", 0
    for _ in range(200):
        path.write_bytes(damaged(content, rng))
        try:
            store = LabelStore(path, create=False)
            summaries = store.summaries()
            assert [label.digest for label in store.labels()] == truth
            assert sum(summary.labels for summary in summaries) == len(truth)
        except (InputError, RunError) as error:
            caught += 1
            assert "labels.db" in str(error)
    assert len(truth) > 40 and caught > 50


@pytest.mark.parametrize("stage", STAGES["glass"])
def test_a_stage_of_a_glass_goes_back_to_an_older_checkpoint(stage, undisturbed, tmp_path, monkeypatch):
    go_back("glass", stage, undisturbed, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stage"), [(name, stage) for name in ("isomers", "learned") for stage in STAGES[name]]
)
def test_a_stage_of_isomers_goes_back_to_an_older_checkpoint(name, stage, undisturbed, tmp_path, monkeypatch):
    go_back(name, stage, undisturbed, tmp_path, monkeypatch)


def go_back(name, stage, undisturbed, tmp_path, monkeypatch):
    """The newest checkpoint damaged: the one before is taken, although frames of later chunks are there, in `data.h5`
    even. All damaged: said so, and once they are removed the stage is done again."""
    quick(monkeypatch)
    reference, rng = undisturbed(name)[0], random.Random(4)
    run = copied(reference, tmp_path / "run")
    files = sorted((run / "checkpoints").glob(f"{stage}-*"))
    if stage == "training":  # what it ended with is damaged too, and still needed
        for path in (run / "checkpoints").glob("held_out-*"):
            path.unlink()
        (run / "checkpoints" / "network.safetensors").write_bytes(b"\x00" * 50)
        told(call("resume", run, "--quiet"), 2, "network.safetensors: weights cannot be used", "remove it")
        (run / "checkpoints" / "network.safetensors").unlink()
    files[-1].write_bytes(damaged(files[-1].read_bytes(), rng))
    outcome = call("resume", run)
    if len(files) > 2:
        told(outcome, 0, rf"warning: {stage}: .*{files[-1].stem}.*damaged checkpoint")
        same(run, reference)
        return
    told(outcome, 3, "damaged checkpoint", "remove them")
    for path in files:
        path.unlink()
    told(call("resume", run, "--quiet"), 0)
    same(run, reference)


def test_all_checkpoints_of_the_reference_damaged(undisturbed, tmp_path, monkeypatch):
    quick(monkeypatch)
    run = copied(undisturbed("glass")[0], tmp_path / "run")
    for path in (run / "checkpoints").glob("reference-*.json"):
        path.write_bytes(b"[" * 10_000)
    told(call("resume", run, "--quiet"), 3, "damaged checkpoint", "remove them")
    for path in (run / "checkpoints").glob("reference-*"):
        path.unlink()
    told(call("resume", run, "--quiet"), 0)
    same(run, undisturbed("glass")[0])


@pytest.mark.parametrize("kind", ["segment", "data.h5"])
def test_frames_that_are_damaged_are_told_and_made_again_once_removed(kind, undisturbed, tmp_path, monkeypatch):
    quick(monkeypatch)
    reference, run = undisturbed("glass")[0], tmp_path / "run"
    if kind == "segment":
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("particlegen.workflow.glass.kind._Glass.stages", stopped_before_estimates())
            particlegen.run(written(tmp_path, GLASS), out=run)
        files = [run / "segments" / "reference" / "00000001-20.h5", run / "segments" / "generated" / "00000001-10.h5"]
    else:
        copied(reference, run)
        files = [run / "data.h5"]
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    for path in files:
        told(call("resume", run, "--quiet"), 3, rf"{path.name}: damaged", "remove it and resume")
        path.unlink()
        said = told(call("resume", run), 0 if path == files[-1] else 3)
        assert re.search(r"warning: \w+: chunk [01] of \w+ is not there any more", said), said
    same(run, reference)


def stopped_before_estimates():
    from particlegen.workflow.glass.kind import GLASS as kind

    def stop(job):
        raise KeyboardInterrupt

    return dict(kind.stages) | {"estimates": stop}


def flipped(before, after):
    def flip(text):
        assert text.count(before)
        return text.replace(before, after, 1)

    return flip


def cut(text):
    return text[: len(text) // 2]


def other(text):
    return b"{}"


def odd_bytes(text):
    return b"\xff\xfe\x00" + text


def deep(text):
    return b"[" * 100_000


def nothing(text):
    return b""


DAMAGES = [
    ("workflow.yaml", flipped(b"temperature: 1.0", b"temperature: 1.1"), "changed since the run began"),
    ("workflow.yaml", cut, "changed since the run began"),
    ("workflow.yaml", odd_bytes, "changed since the run began"),
    ("manifest.json", flipped(b'"seed": 3', b'"seed": 2'), "does not match its own checksum"),
    ("manifest.json", cut, "cannot be read"),
    ("manifest.json", other, "is missing"),
    ("manifest.json", odd_bytes, "cannot be read"),
    ("manifest.json", deep, "cannot be read|expected a JSON object"),
]


@pytest.mark.parametrize(("name", "damage", "said"), DAMAGES)
def test_a_damaged_workflow_or_manifest_is_refused_by_every_command(name, damage, said, undisturbed, tmp_path):
    run = shutil.copytree(undisturbed("glass")[0], tmp_path / "run")
    (run / name).write_bytes(damage((run / name).read_bytes()))
    for command in ("resume", "report", "status", "free-energy"):
        told(call(command, run), 2, rf"{name}: .*({said})")
    target = tmp_path / "x.extxyz"
    told(call("export", run, "--to", "extxyz", "-o", target), 2, said)
    assert not target.exists()


@pytest.mark.parametrize("damage", [flipped(b'"particles": 4', b'"particles": 5'), cut, other, odd_bytes, deep])
def test_damaged_results_are_refused_and_made_again(damage, undisturbed, tmp_path, monkeypatch):
    quick(monkeypatch)
    run = shutil.copytree(undisturbed("glass")[0], tmp_path / "run")
    (run / "results.json").write_bytes(damage((run / "results.json").read_bytes()))
    for command in ("resume", "report", "free-energy"):
        said = "results.json: .*(checksum|cannot be read|JSON object|is missing).*remove it.*resume"
        told(call(command, run), 2, said)
    (run / "results.json").unlink()
    told(call("resume", run, "--quiet"), 0)
    same(run, undisturbed("glass")[0])


def jumbled(text):
    lines = [json.loads(line) for line in text.splitlines()]
    for number, line in enumerate(lines):
        line["time"] = 1e9 - 1000 * number
    odd = [
        {"kind": 3},
        {"kind": "progress", "stage": "training", "fields": {"done": "many", "total": None}},
        {"kind": "progress", "stage": "training", "fields": [], "message": ""},
        {"kind": "progress", "stage": "training", "fields": {"done": 1}},
        lines[1] | {"spent": {"seconds": "long", "engines": {}}},
        lines[1] | {"spent": {"seconds": 1.0, "engines": {"x": {"colls": 3}}}},
        lines[1] | {"spent": [1]},
        {key: value for key, value in lines[1].items() if key != "stage"},
        7,
    ]
    found = b"\n".join(json.dumps(line).encode() for line in odd + lines)
    return b'\xff\xfe{"kind": "\xc3(\n{"time": 1e999, "kind"\n' + b"[" * 50_000 + b"\n" + found + b'\n{"kind": "prog'


@pytest.mark.parametrize(
    "damage", [jumbled, cut, other, deep, lambda text: b""], ids=["jumbled", "cut", "other", "deep", "empty"]
)
def test_a_damaged_journal_costs_nothing_but_what_it_said(damage, undisturbed, tmp_path, monkeypatch):
    quick(monkeypatch)
    run = copied(undisturbed("glass")[0], tmp_path / "run")
    (run / "events.jsonl").write_bytes(damage((run / "events.jsonl").read_bytes()))
    told(call("status", run), 0)
    told(call("resume", run, "--quiet"), 0)
    told(call("report", run), 0)
    same(run, undisturbed("glass")[0])


def test_a_journal_that_is_gone(undisturbed, tmp_path, monkeypatch):
    quick(monkeypatch)
    run = copied(undisturbed("glass")[0], tmp_path / "run")
    (run / "events.jsonl").unlink()
    told(call("status", run), 0)
    told(call("resume", run, "--quiet"), 0)
    same(run, undisturbed("glass")[0])


def test_labels_that_are_damaged_in_the_middle_of_a_run_are_told(tmp_path, monkeypatch):
    """The run ends and leaves the store as it is; with an intact copy in its place it goes on to the same answer."""
    quick(monkeypatch)
    store, kept = tmp_path / "run" / "labels.db", []

    def damage(event):
        if (event.stage, event.kind) == ("adaptation", "started"):
            kept.append(store.read_bytes())
            store.write_bytes(kept[0][:6000] + b"\x55" * 3000 + kept[0][9000:])

    with pytest.raises(InputError, match=r"labels\.db: is (damaged|no label store)"):
        particlegen.run(WORKFLOWS["learned"], out=tmp_path / "run", listener=damage)
    told(call("resume", tmp_path / "run", "--quiet"), 2, r"labels\.db: is (damaged|no label store)")
    assert store.read_bytes()[6000:9000] == b"\x55" * 3000
    store.write_bytes(kept[0])
    told(call("resume", tmp_path / "run", "--quiet"), 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(WORKFLOWS))
def test_two_hundred_damaged_places_of_real_checkpoints(name, undisturbed, tmp_path, monkeypatch):
    """Whatever is hit, the resumed run ends with the same answer, or is told once why it does not."""
    quick(monkeypatch)
    reference, rng, refused = undisturbed(name)[0], random.Random(5), 0
    for number in range(200):
        run = copied(reference, tmp_path / str(number))
        path = rng.choice(sorted((run / "checkpoints").iterdir()))
        path.write_bytes(damaged(path.read_bytes(), rng))
        code, said = call("resume", run, "--quiet")
        told((code, said), (0, 2, 3))
        if code:
            refused += 1
            assert path.stem in said
        else:
            same(run, reference)
        shutil.rmtree(run)
    assert refused < 150


def test_training_by_the_clock_is_not_repeated_under_its_samples(undisturbed, tmp_path, monkeypatch):
    """It would not end the same; the samples that are there come from what it ended with."""
    quick(monkeypatch)
    timed = GLASS | {"training": {**GLASS["training"], "minutes": 0.001}}
    timed["training"].pop("steps")
    run = tmp_path / "run"
    told(call("run", written(tmp_path, timed), "--out", run, "--quiet"), 0)
    for path in [*(run / "checkpoints").glob("training-*"), *(run / "checkpoints").glob("network.*")]:
        path.unlink()
    told(call("resume", run), 2, "training would have to be done again", "minutes", "start a new run")
    assert np.isfinite(particlegen.open_run(run).read("generated", "log_q")).all()
