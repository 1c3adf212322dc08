"""Batches of energies shared over executors: the contract, the same bits everywhere, failures as data, the ledger."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from test_energy_engines import octahedra, silver
from test_energy_pair import lattice
from test_tasks import KINDS, opened

from particlegen.energy import (
    ASEEnergy,
    Cached,
    Counted,
    Distributed,
    EnergyResult,
    LabelStore,
    Ledger,
    OpenMMEnergy,
    Recipe,
    SystemSettings,
    TorchPairEnergy,
    build_system,
    xtb_energy,
)
from particlegen.settings import InputError
from particlegen.tasks import InlineExecutor, TaskLimits
from particlegen.testing import check_energy_provider

WANT = ("energy", "forces", "virial")


class Counting:
    """Energies that are the sum of x²; made once per process; some configurations are deadly."""

    name, differentiable, device = "counting", False, torch.device("cpu")

    def __init__(self, system, folder):
        self.system, self.folder = system, folder
        with Path(folder, str(os.getpid())).open("a") as file:
            file.write("x")

    def evaluate(self, positions, want=("energy",)):
        for first in positions[:, 0, 0].tolist():
            if first == 7.0:
                os.kill(os.getpid(), signal.SIGKILL)
            if first == 8.0:
                raise RuntimeError("no such orbital")
        ok = positions[:, 0, 0] != 9.0
        energy = positions.double().square().sum((1, 2)).masked_fill(~ok, torch.nan)
        return EnergyResult(energy, None, None, ok, tuple(None if good else "moody" for good in ok.tolist()))


def recipes():
    built = build_system(SystemSettings(card="ka_ternary_2d"))
    engines = {
        "torch": (Recipe.of(TorchPairEnergy, built.system, built.potential), "pair"),
        "emt": (Recipe.of(ASEEnergy, silver(), "emt"), "silver"),
        "gfn2": (Recipe.of(xtb_energy, silver(), method="GFN2-xTB"), "silver"),
        "openmm": (Recipe.of(OpenMMEnergy.of_pairs, built.system, built.potential, platform="Reference"), "pair"),
    }
    x = {"pair": lattice(TorchPairEnergy(built.system, built.potential), 5), "silver": octahedra(5)}
    return {name: (recipe, x[kind]) for name, (recipe, kind) in engines.items()}


@pytest.mark.parametrize("chunk", [1, 3])
def test_it_keeps_the_contract(chunk):
    recipe, x = recipes()["emt"]
    check_energy_provider(Distributed(recipe, InlineExecutor(), chunk), x[:2], step=1e-4)


@pytest.fixture(scope="module")
def inline():
    """What every engine answers in this process, in chunks of two."""
    answers = {}
    for name, (recipe, x) in recipes().items():
        pytest.importorskip({"gfn2": "tblite", "openmm": "openmm"}.get(name, "ase"))
        answers[name] = Distributed(recipe, InlineExecutor(), 2).evaluate(x, WANT)
    return answers


@pytest.fixture(scope="module", params=KINDS[2:])
def workers(request):
    with opened(request.param) as executor:
        yield executor


def test_the_same_bits_on_every_executor(inline, workers):
    for name, (recipe, x) in recipes().items():
        found = Distributed(recipe, workers, 2).evaluate(x, WANT)
        assert found.ok.all(), (name, found.reasons)
        for quantity in WANT:
            one, other = (getattr(answer, quantity).numpy() for answer in (found, inline[name]))
            assert one.tobytes() == other.tobytes(), (name, quantity)
    # a chain of roundings that differs by one bit would be seen
    energy = inline["emt"].energy.numpy()
    assert np.nextafter(energy, np.inf).tobytes() != energy.tobytes()


def test_a_provider_is_made_once_per_process_and_the_ledgers_come_home(tmp_path, workers):
    x = torch.arange(30.0).double().reshape(10, 1, 3) + 10.0
    recipe, ledger = Recipe.of(Counting, silver(1), str(tmp_path)), Ledger()
    shared = Distributed(recipe, workers, 1, ledger=ledger, stage="production")
    for _ in range(2):
        found = shared.evaluate(x)
    assert torch.equal(found.energy, x.square().sum((1, 2))) and found.forces is None
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(made.values()) == {"x"} and str(os.getpid()) in made and 2 <= len(made) <= 3
    assert list(ledger.entries) == [("counting", "production")] and ledger.total_calls("counting") == 20
    (entry,) = ledger.entries.values()
    assert (entry.calls, entry.failures, entry.cached) == (20, 0, 0) and entry.seconds > 0


def test_what_a_worker_does_not_survive_is_data(tmp_path, workers):
    x = torch.zeros(8, 1, 3, dtype=torch.float64)
    x[:, 0, 0] = torch.tensor([1.0, 2.0, 3.0, 7.0, 9.0, 4.0, 8.0, 5.0])
    ledger, told = Ledger(), []
    recipe, limits = Recipe.of(Counting, silver(1), str(tmp_path)), TaskLimits(retries=1)
    shared = Distributed(recipe, workers, 2, limits, ledger, "labels", told.append)
    found = Counted(shared, outer := Ledger(), "labels").evaluate(x)
    assert found.ok.tolist() == [True, True, False, False, False, True, False, False]
    assert torch.equal(found.energy[found.ok], torch.tensor([1.0, 4.0, 16.0]).double())
    assert found.energy[~found.ok].isnan().all()
    assert all("the worker was lost" in found.reasons[k] and "(2 attempts)" in found.reasons[k] for k in (2, 3))
    assert found.reasons[4] == "moody" and found.reasons[6] == "RuntimeError: no such orbital (2 attempts)"
    assert "no such orbital" in next(e.message for e in told if e.fields["failed"] and e.fields["task"] == 3)
    key = ("counting", "labels")
    for entry in (ledger.entries[key], outer.entries[key]):
        assert (entry.calls, entry.failures) == (8, 5)


def test_wrong_requests_and_recipes_are_refused(monkeypatch):
    recipe, x = recipes()["emt"]
    shared = Distributed(recipe, InlineExecutor(), 2)
    with pytest.raises(ValueError, match="cannot evaluate"):
        shared.evaluate(x, ("energy", "charges"))
    assert shared.evaluate(x[:0], WANT).forces.shape == (0, 6, 3)
    assert (shared.name, shared.differentiable, shared.device.type) == ("ase_emt", False, "cpu")
    with pytest.raises(ValueError, match="chunk has to be 1 or more"):
        Distributed(recipe, InlineExecutor(), 0)
    with pytest.raises(TypeError, match="unhashable"):
        Recipe.of(ASEEnergy, silver(), "emt", elements={"Ag": "Ag"})
    with pytest.raises(InputError, match="did you mean 'emt'"):
        Distributed(Recipe.of(ASEEnergy, silver(), "emtt"), InlineExecutor(), 2)
    assert recipe == Recipe.of(ASEEnergy, silver(), "emt") != Recipe.of(ASEEnergy, silver(5), "emt")


def test_answers_of_workers_go_into_a_label_store(tmp_path):
    recipe, x = recipes()["emt"]
    shared, store = Distributed(recipe, InlineExecutor(), 2), LabelStore(tmp_path / "labels.db")
    first = Cached(shared, store, chunk=len(x)).evaluate(x)
    assert torch.equal(first.energy, shared.evaluate(x).energy) and first.iterations == (None,) * len(x)
    alone = Cached(ASEEnergy(silver(), "emt"), store)
    (summary,) = store.summaries()
    assert summary.settings_hash == alone.settings_hash and summary.labels == len(x)
