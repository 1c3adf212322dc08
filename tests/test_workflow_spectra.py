"""Absorption of a small molecule the whole way, against PySCF used directly; batches, resume, refusals."""

import numpy as np
import pytest
import torch
import yaml

import particlegen
from particlegen import estimate
from particlegen.energy import Recipe, open_engine
from particlegen.energy.pyscf_spectra import shared_excitations
from particlegen.io.checkpoint import load_checkpoint
from particlegen.settings import InputError
from particlegen.tasks import InlineExecutor
from particlegen.units import HARTREE
from particlegen.workflow.planning import plan

gto = pytest.importorskip("pyscf.gto", reason="pip install 'particlegen[dft]'")
dft = pytest.importorskip("pyscf.dft")

FAST = {"steps": 30, "batch": 64, "validation": 32, "validate_every": 10, "warm_up": 5, "learning_rate": 2e-3}
STATES, CONFIGURATIONS, BROADENING = 3, 8, 0.3


def workflow(folder):
    """H3+, an equilateral triangle with two electrons: seconds of DFT."""
    cards = {
        "level.yaml": {
            "version": 1, "kind": "pyscf", "functional": "pbe", "basis": "6-31g", "charge": 1, "grid_level": 1,
            "convergence": 1e-9, "citations": ["x"],
        },
        "h3.yaml": {
            "version": 1, "kind": "cluster", "title": "H3+", "units": "metal", "engine": "level.yaml",
            "composition": {"H": 3}, "radius": 3.0, "temperature": 600.0, "basins": {"reach": None},
            "isomers": {"ring": {"structure": "ring.xyz"}}, "citations": ["x"],
        },
    }  # fmt: skip
    for name, card in cards.items():
        (folder / name).write_text(yaml.safe_dump(card))
    angles = 2 * np.pi * np.arange(3) / 3
    rows = "".join(f"H {0.52 * np.cos(a):.8f} {0.52 * np.sin(a):.8f} 0.0\n" for a in angles)
    (folder / "ring.xyz").write_text(f"3\nring\n{rows}")
    content = {
        "version": 1,
        "kind": "isomers",
        "seed": 5,
        "system": {"card": "h3.yaml"},
        "energy": {"chunk": 4},
        "learned": {"first": 6, "rounds": 1, "per_round": 4, "potential": {}},
        "chains": {"count": 4, "leaps": 4, "local_steps": 2, "candidates": 3, "warm_up": 48},
        "adaptation": {"rounds": 1, "sweeps": 20},
        "flow": {"layers": 2, "hidden": [8], "training": {**FAST, "optimiser": "adam", "ema": 0.9}},
        "production": {"samples": 64, "draws": 64, "discard": 2, "quenches": 1, "block": 8},
        "correction": {"labels": CONFIGURATIONS, "chains": 2, "decisions": 0},
        "stop": {"r_hat": None, "acceptance": None, "sigmas": None},
        "spectra": {"configurations": CONFIGURATIONS, "states": STATES, "broadening": BROADENING},
    }
    (folder / "h3_run.yaml").write_text(yaml.safe_dump(content))
    return folder / "h3_run.yaml"


class Stop(Exception):
    pass


def tensors_of(run):
    found = load_checkpoint(run.folder.checkpoints, "spectra")
    assert found is not None
    return found.tensors


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Interrupted after a batch of the spectra, then resumed."""
    folder = tmp_path_factory.mktemp("h3")

    def listener(event):
        if event.kind == "progress" and event.stage == "spectra" and event.fields["done"] == 3:
            raise Stop

    with pytest.raises(Stop):
        particlegen.run(workflow(folder), out=folder / "run", listener=listener)
    saved = load_checkpoint(folder / "run" / "checkpoints", "spectra")
    assert saved is not None and saved.step == 3 and len(saved.tensors["ring.energies"]) == 3
    return particlegen.resume(folder / "run")


def test_excitations_are_those_of_pyscf_and_nothing_is_computed_twice(run):
    """A state of the run, computed by PySCF as it lies; all nine configurations are asked for once."""
    tensors = tensors_of(run)
    x = tensors["ring.positions"][4].numpy()
    mol = gto.M(atom=list(zip("HHH", x.tolist(), strict=True)), basis="6-31g", charge=1, verbose=0)
    field = dft.RKS(mol, xc="pbe").density_fit()
    field.grids.level = 3
    field.run()
    theirs = field.TDDFT()
    theirs.run(nstates=STATES)
    assert np.abs(theirs.e * HARTREE - tensors["ring.energies"][4].numpy()).max() < 0.03  # grid and fit
    assert np.abs(theirs.oscillator_strength() - tensors["ring.strengths"][4].numpy()).max() < 0.01
    assert (tensors["ring.strengths"].sum(1) <= 2.0).all()  # of two electrons, Thomas-Reiche-Kuhn
    asked = 1 + CONFIGURATIONS
    assert run.results["energy_calls"]["pyscf_pbe_6-31g excitations"]["value"] == asked
    assert run.results["spent"]["calls"]["pyscf_pbe_6-31g excitations"]["value"] == asked


def test_the_spectrum_is_the_weighted_mean_beside_that_of_the_minimum(run):
    found, tensors = run.results["spectra"]["ring"], tensors_of(run)
    energies, strengths = (tensors[f"ring.{key}"].numpy() for key in ("energies", "strengths"))
    grid = np.array(found["energies"])
    assert grid[-1] == found["complete_up_to"] == energies.max(1).min()
    assert found["configurations"] == CONFIGURATIONS and found["failed"] == 0
    spectra = estimate.broadened(energies, strengths, grid, BROADENING)
    w = np.exp(tensors["ring.log_weights"].numpy())
    assert np.allclose(found["zero_kelvin"], spectra[0])
    assert np.allclose(found["mean"], w @ spectra[1:] / w.sum())
    # at temperature the degenerate pair of the ring splits: the line is lower than that of the minimum
    assert max(found["mean"]) < 0.98 * max(found["zero_kelvin"]) and min(found["stderr"]) >= 0
    page = run.folder.report_file.read_text()
    assert "Absorption spectra" in page and "complete up to" in page
    assert {stage.name: stage.state for stage in run.status()}["spectra"] == "done"


def test_a_failed_configuration_is_counted_and_no_part_of_the_mean(run, monkeypatch):
    """One minimum and one state without excitations; with all of them gone nothing is left but the count."""
    from particlegen.workflow.isomers import spectra as stage

    saved = tensors_of(run)
    energies, strengths, log_w = (saved[f"ring.{key}"].numpy() for key in ("energies", "strengths", "log_weights"))
    some = energies.copy()
    some[[0, 3]] = np.nan
    found = stage._spectrum(some, strengths, log_w, BROADENING)
    assert found["zero_kelvin"] is None and found["configurations"] == CONFIGURATIONS - 1
    kept = np.delete(np.arange(1 + CONFIGURATIONS), [0, 3])
    alone = estimate.absorption(
        energies[kept], strengths[kept], log_w[kept - 1], np.array(found["energies"]), BROADENING
    )
    assert np.allclose(found["mean"], alone.value)
    nothing = stage._spectrum(np.full_like(energies, np.nan), strengths, log_w, BROADENING)
    assert nothing["mean"] is None and nothing["configurations"] == 0
    assert stage._failures([None, "not converged", None]) == {"failed": 1, "first_failure": "not converged"}


def test_too_many_roots_are_failures_and_come_back_from_workers(run):
    recipe = Recipe.of(open_engine, run.system, "level.yaml", None, run.relative_to)
    x = tensors_of(run)["ring.positions"]
    found, spent = shared_excitations(recipe, InlineExecutor(), x[:2], 6)  # one occupied orbital, five empty ones
    assert not found.ok.any() and "of 6 excitations converged" in str(found.reasons[0])
    assert spent.calls == spent.failures == 2 and torch.isnan(found.energies).all()


def test_spectra_and_their_plan_are_refused_where_they_cannot_be(tmp_path):
    path = workflow(tmp_path)
    planned = {stage.name: stage for stage in plan(path).stages}
    assert planned["spectra"].energy_calls == 1 + CONFIGURATIONS and "3 roots" in planned["spectra"].description
    with pytest.raises(InputError, match=r"key 'spectra': card 'ase_emt'.*knows no excitations.*pyscf"):
        particlegen.run(path, out=tmp_path / "run", set={"system": {"card": "ag6_emt"}, "spectra": {}, "learned": None})
    with pytest.raises(InputError, match=r"spectra.configurations: found 9.*correction.labels, which are 8"):
        particlegen.run(path, out=tmp_path / "run", set={"spectra.configurations": 9})
    assert not (tmp_path / "run").exists()
