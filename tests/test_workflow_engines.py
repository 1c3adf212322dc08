"""A workflow that names an engine: its ensemble, its labels, the executors, what is refused."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import particlegen
from particlegen.energy import LabelStore, open_engine
from particlegen.energy.engine_cards import engine_digest
from particlegen.settings import InputError
from particlegen.workflow import Interrupted, Resources
from particlegen.workflow.resources import ProcessSettings

TINY = Path(__file__).parent / "workflows" / "tiny.yaml"
# Twice as strong as the card's own potential, so that an energy tells which of the two answered.
STRONG = {
    "version": 1,
    "kind": "even_power",
    "title": "stronger discs",
    "units": "lj",
    "species": ["A", "B"],
    "sigma": [[1.0, 1.2], [1.2, 1.4]],
    "epsilon": [[2.0, 2.0], [2.0, 2.0]],
    "coefficients": {"c12": 1.0, "c0": -(0.4**12)},
    "cutoff": 2.5,
    "continuous_at_cutoff": ["energy"],
    "citations": ["Strong, J. Discs 1 (2001)"],
}
REFERENCE = {"sampler": "hmc", "chains": 4, "frames": 120, "sweeps_between_frames": 2, "equilibration_sweeps": 144}


@pytest.fixture(scope="module")
def workflow(tmp_path_factory) -> Path:
    """A user's folder: an engine card, and a workflow that names it."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "strong.yaml").write_text(yaml.safe_dump(STRONG))
    content = yaml.safe_load(TINY.read_text()) | {"reference": REFERENCE | {"leapfrog_steps": 3, "block_frames": 60}}
    content["energy"] = {"engine": "strong.yaml", "chunk": 25, "keep_labels": True}
    (folder / "strong_discs.yaml").write_text(yaml.safe_dump(content))
    return folder / "strong_discs.yaml"


@pytest.fixture(scope="module")
def finished(workflow):
    return particlegen.run(workflow, out=workflow.parent / "run")


def answer(run):
    return {key: value for key, value in run.results.items() if key != "spent"}


def test_energies_are_the_engine_s(finished):
    engine = open_engine(finished.built.system, "strong.yaml", None, finished.relative_to)
    for ensemble in ("reference", "generated"):
        x = torch.from_numpy(finished.positions(ensemble))
        assert np.allclose(finished.read(ensemble, "energy"), engine.evaluate(x).energy, rtol=1e-12)
    results, settings = finished.results, finished.workflow.reference
    calls = 4 * (201 + 3 * (144 + 30 * 2))
    assert results["energy_calls"]["torch_pair"]["value"] == calls + 60 and len(results["energy_calls"]) == 1
    assert settings.energy_calls(finished.built.system, finished.built.state) == calls
    assert "Hamiltonian Monte Carlo, 4 chains" in results["reference"]["energy_per_particle"]["method"]
    assert "Strong, J. Discs 1 (2001)" in finished.citations and any("Duane" in text for text in finished.citations)


def test_every_answer_is_kept_and_paid_for_once(finished):
    ledger = finished.results["spent"]["ledger"]["torch_pair"]
    asked = {stage: row["calls"]["value"] + row["cached"]["value"] for stage, row in ledger.items()}
    assert sum(asked.values()) == finished.results["energy_calls"]["torch_pair"]["value"]
    (kept,) = LabelStore(finished.folder.labels_file, create=False).summaries()
    assert kept.converged == sum(row["calls"]["value"] for row in ledger.values())


def test_workers_and_interruptions_change_nothing(workflow, finished, tmp_path):
    resources = Resources(executor=ProcessSettings(kind="process", workers=2))
    shared = particlegen.run(workflow, out=tmp_path / "shared", resources=resources)
    assert answer(shared) == answer(finished)
    blocks = []

    def interrupt(event):
        if event.stage == "reference" and event.kind == "progress" and not blocks:
            blocks.append(event)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        particlegen.run(workflow, out=tmp_path / "interrupted", listener=interrupt)
    assert answer(particlegen.resume(tmp_path / "interrupted")) == answer(finished)


def test_a_changed_engine_card_is_not_resumed(workflow, finished):
    card = workflow.parent / "strong.yaml"
    before = card.read_text()
    try:
        card.write_text(before.replace("stronger discs", "weaker discs"))
        with pytest.raises(InputError, match=r"strong.yaml: changed, .*, since the run .* began; restore it"):
            particlegen.resume(finished.folder.path)
    finally:
        card.write_text(before)


def test_the_file_that_a_card_names_counts(tmp_path):
    card = {"version": 1, "kind": "openmm", "xml": "system.xml", "citations": ["none"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(card))
    found = []
    for content in ("one", "two", "one"):
        (tmp_path / "system.xml").write_text(content)
        found.append(engine_digest("mine.yaml", tmp_path))
    assert found[0] == found[2] != found[1]


def test_a_second_run_in_one_process_takes_the_card_as_it_is_now(workflow, finished):
    card = workflow.parent / "strong.yaml"
    before = card.read_text()
    try:
        card.write_text(yaml.safe_dump(STRONG | {"epsilon": [[3.0, 3.0], [3.0, 3.0]]}))
        other = particlegen.run(workflow, out=workflow.parent / "other")
    finally:
        card.write_text(before)
    engine = open_engine(finished.built.system, "strong.yaml", None, finished.relative_to)
    x = torch.from_numpy(other.positions("reference"))
    assert np.allclose(other.read("reference", "energy"), 1.5 * engine.evaluate(x).energy, rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reference": {"sampler": "swap"}}, "needs sampler: hmc"),
        ({"energy.engine": "nothing"}, "nothing"),
        ({"energy.engine": "ase_emt"}, "needs a chemical symbol for the species A"),
        ({"energy.chunk": 0}, "energy.chunk"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(workflow, tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        particlegen.run(workflow, out=tmp_path / "run", set=changes)
    assert not (tmp_path / "run").exists()
