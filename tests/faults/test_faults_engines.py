"""Engines that raise, hang, die, or answer nonsense: nothing of it is an energy or a label, and the run says so."""

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
import yaml

import particlegen
from faults.injection import GLASS, ISOMERS, LEARNED, call, quick, same, told, written
from particlegen.energy import LabelStore, TorchPairEnergy
from particlegen.energy.cards import load_potential

HAMILTONIAN = {
    "sampler": "hmc",
    "chains": 4,
    "frames": 40,
    "sweeps_between_frames": 1,
    "equilibration_sweeps": 72,
    "leapfrog_steps": 2,
    "block_frames": 20,
}
CARDS = {"glass": "ipl12_binary", "isomers": "lj_full", "learned": "lj_full"}
WORKFLOWS = {
    "glass": GLASS | {"reference": HAMILTONIAN, "energy": {"chunk": 2, "keep_labels": True}},
    "isomers": ISOMERS | {"energy": {"chunk": 2, "keep_labels": True}},
    "learned": LEARNED | {"energy": LEARNED["energy"] | {"chunk": 1}},
}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Installs the faulty engine, and writes a workflow that names it."""
    package = tmp_path / "installed"
    about = package / "faulty-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[particlegen.energy_providers]\nfaulty = faults.faulty_engine:make\n")
    monkeypatch.syspath_prepend(package)
    quick(monkeypatch)

    def workflow(name, fault, share, only="all"):
        card = {"version": 1, "kind": "faulty", "card": CARDS[name], "fault": fault, "share": share, "only": only}
        (tmp_path / "faulty.yaml").write_text(yaml.safe_dump(card | {"folder": str(tmp_path), "citations": ["none"]}))
        content = WORKFLOWS[name] | {"energy": WORKFLOWS[name]["energy"] | {"engine": "faulty.yaml"}}
        return written(tmp_path, content)

    return workflow


def check_energies(folder, name):
    """Whatever was stored as an energy or as a label is one of the sound engine."""
    run = particlegen.open_run(folder)
    sound = TorchPairEnergy(run.system, load_potential(CARDS[name], None)[1])
    for ensemble in ("reference", "production", "generated"):
        if name == "learned" or not run.store.length(ensemble):
            continue
        energy, x = run.read(ensemble, "energy"), torch.from_numpy(run.positions(ensemble))
        stored = np.isfinite(energy)
        np.testing.assert_allclose(energy[stored], sound.evaluate(x).energy.numpy()[stored], rtol=1e-9, atol=1e-9)
        if ensemble == "generated":
            failed = run.read(ensemble, "failed").astype(bool)
            assert np.isnan(energy[failed]).all() and (run.read(ensemble, "log_weight")[failed] == -np.inf).all()
    labels = list(LabelStore(run.folder.labels_file, create=False).labels())
    for label in labels:
        if label.converged:
            assert label.energy == pytest.approx(float(sound.evaluate(torch.from_numpy(label.positions)[None]).energy))
        else:
            assert label.reason and label.forces is None
    return labels


def run_faulty(plugin, tmp_path, name, fault, share, only="all"):
    """Run, and where that ended, mend the engine and resume: what was answered is not asked for again."""
    folder = tmp_path / "run"
    code, said = call("run", plugin(name, fault, share, only), "--out", folder, "--quiet")
    told((code, said), (0, 3))
    before = check_energies(folder, name)
    if code == 0:
        return code, said, before
    assert "particlegen resume" in said
    asked = (tmp_path / "answered").read_text().split("\n") if (tmp_path / "answered").exists() else []
    (tmp_path / "mended").touch()
    told(call("resume", folder, "--quiet"), 0)
    after = check_energies(folder, name)
    # What failed and is asked for again is answered; a rejected proposal may not come again.
    failed, still = ({one.geometry_hash for one in labels if not one.converged} for labels in (before, after))
    assert still <= failed
    kept = {label.geometry_hash for label in before if label.converged}
    assert kept <= {label.geometry_hash for label in after if label.converged}
    # Only answers that came home in a task together with a failure could not be kept.
    asked_again = {*asked} & {*(tmp_path / "answered").read_text().split("\n")[len(asked) - 1 :]}
    assert len(asked_again - {""}) <= 2
    return code, said, after


@pytest.mark.parametrize(
    ("fault", "share", "ends"),
    [("nan", 0.01, 0), ("shape", 0.3, 3), ("raise", 1.0, 3)],
)
def test_a_glass_with_an_engine_that_fails(plugin, tmp_path, fault, share, ends):
    code, said, labels = run_faulty(plugin, tmp_path, "glass", fault, share)
    assert code == ends, said
    assert ends or any(not label.converged for label in labels)


def test_samples_that_the_engine_fails_on_are_told_and_counted(plugin, tmp_path):
    """The reference is sound; three in ten of the samples get an energy that is none."""
    code, said = call("run", plugin("glass", "silent", 0.3, "energies"), "--out", tmp_path / "run")
    told((code, said), 0, r"warning: generation: \d+ of 10 samples have no energy: they count, and weigh nothing")
    results = particlegen.open_run(tmp_path / "run").results
    share = results["generated"]["failed"]["value"]
    assert 0.1 < share < 0.5 and share * 30 == particlegen.open_run(tmp_path / "run").read("generated", "failed").sum()
    check_energies(tmp_path / "run", "glass")


def test_a_learned_run_whose_engine_fails_too_often_keeps_its_labels(plugin, tmp_path):
    code, said, _ = run_faulty(plugin, tmp_path, "learned", "minus_inf", 0.3)
    assert code == 3 and "not a number" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", list(WORKFLOWS))
@pytest.mark.parametrize("fault", ["raise", "nan", "minus_inf", "silent", "shape", "nothing"])
@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_every_fault_of_an_engine_in_every_workflow(plugin, tmp_path, name, fault, share):
    code, said, _ = run_faulty(plugin, tmp_path, name, fault, share)
    assert code == 3 or share < 1.0, said


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "said"), [("hang", "no answer within 2 s"), ("die", "the worker was lost")])
def test_an_engine_that_hangs_or_dies_costs_its_own_samples_alone(plugin, tmp_path, fault, said):
    resources = tmp_path / "resources.yaml"
    resources.write_text("executor: {kind: process, workers: 1, retries: 0, timeout: 2}\n")
    outcome = call("run", plugin("glass", fault, 0.1, "energies"), "--out", tmp_path / "run", "--resources", resources)
    told(outcome, 0, rf"samples have no energy.*{said}")
    check_energies(tmp_path / "run", "glass")


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_nothing(undisturbed, tmp_path, monkeypatch):
    quick(monkeypatch)
    killed = []

    def kill(event):
        if event.stage == "reference" and event.kind == "progress":
            for worker in multiprocessing.active_children()[:1]:
                os.kill(worker.pid, signal.SIGKILL)
                killed.append(worker.pid)

    resources = tmp_path / "resources.yaml"
    resources.write_text("executor: {kind: process, workers: 2}\n")
    particlegen.run(written(tmp_path, GLASS), out=tmp_path / "run", resources=resources, listener=kill)
    assert len(killed) == 3
    same(tmp_path / "run", undisturbed("glass")[0])
