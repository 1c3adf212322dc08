"""torch-sim behind the provider contract and on top of it: the same numbers both ways, failures as data."""

import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
from test_energy_electrons import molecule
from test_energy_engines import WANT, apart, cluster, octahedra, silver
from test_energy_pair import lattice

from particlegen.energy import (
    Cached,
    LabelStore,
    SystemSettings,
    TorchPairEnergy,
    TorchSimEnergy,
    build_system,
    torchsim_model,
    torchsim_state,
)
from particlegen.geometry import FlatTorus, FreeSpace
from particlegen.settings import InputError, RunError
from particlegen.system import ParticleSystem
from particlegen.testing import ContractViolation, check_energy_provider

ts = pytest.importorskip("torch_sim", reason="pip install 'particlegen[torchsim]'")
lennard_jones = pytest.importorskip("torch_sim.models.lennard_jones")
interface = pytest.importorskip("torch_sim.models.interface")

ARGON = {"A": "Ar"}


def ours(card="lj_bulk", potential="lj_cut", **settings):
    built = build_system(SystemSettings(card=card, potential=potential, **settings))
    return TorchPairEnergy(built.system, built.potential)


OLD = int(version("torch-sim-atomistic").split(".")[1]) < 6


class LennardJones(lennard_jones.LennardJonesModel):
    """torch-sim's own; before 0.6 its forces and stresses are twice the derivatives of its energy."""

    factor = 0.5 if OLD else 1.0

    def forward(self, state):
        found = super().forward(state)
        return found | {name: self.factor * found[name] for name in ("forces", "stress") if name in found}


def theirs(system, dtype=torch.float64, epsilon=1.0, model=LennardJones, **options):
    model = model(
        sigma=1.0,
        epsilon=epsilon,
        cutoff=2.5 if system.geometry.periodic else 20.0,
        device=torch.device("cpu"),
        dtype=dtype,
        compute_forces=True,
        compute_stress=system.geometry.periodic,
    )
    return TorchSimEnergy(system, model, ARGON, **options)


@pytest.fixture(params=["box", "free space"])
def both(request):
    if request.param == "box":
        mine = ours(particles=150)
        return mine, theirs(mine.system)
    mine = ours("lj_cluster", None, particles=7)
    return mine, theirs(mine.system)


# --- torch-sim's models as providers ----------------------------------------------------------------------------------


def test_a_model_agrees_with_our_engine_and_keeps_the_contract(both):
    mine, model = both
    x = lattice(mine, 5)
    assert model.quantities == ("forces", "virial") and model.name == "torchsim_lennardjones"
    expected = mine.evaluate(x, WANT)
    assert apart(expected, model.evaluate(x, WANT)) < 1e-10
    assert apart(expected, theirs(mine.system, epsilon=1 + 1e-9).evaluate(x, WANT)) > 1e-10
    assert apart(theirs(mine.system, chunk=2).evaluate(x, WANT), model.evaluate(x, WANT)) < 1e-13
    check_energy_provider(model, x[:2])


def test_the_contract_notices_forces_that_are_no_derivatives():
    """As those of torch-sim's own pair models before 0.6."""

    class Doubled(LennardJones):
        factor = 1.0 if OLD else 2.0

    mine = ours("lj_cluster", None, particles=7)
    with pytest.raises(ContractViolation, match="forces differ from central differences"):
        check_energy_provider(theirs(mine.system, model=Doubled), lattice(mine, 2))


def test_a_model_in_single_precision_answers_in_float64():
    mine = ours(particles=150)
    model = theirs(mine.system, dtype=torch.float32)
    x = lattice(mine, 2)
    found = model.evaluate(x, WANT)
    assert {getattr(found, name).dtype for name in WANT} == {torch.float64}
    assert 1e-12 < apart(mine.evaluate(x, WANT), found) < 1e-3


class Moody(interface.ModelInterface):
    """U is the first coordinate; raises, or answers NaN, where that is far out."""

    def __init__(self, stress=False):
        super().__init__()
        self._device, self._dtype, self._compute_forces, self._compute_stress = torch.device("cpu"), torch.float64, 1, 0
        self.sizes, self.short = [], False

    def forward(self, state):
        x = state.positions.reshape(state.n_systems, -1, 3)[:, 0, 0]
        self.sizes.append(len(x))
        if (x > 2).any():
            raise RuntimeError("no convergence")
        energy = torch.where(x > 1, torch.nan, x)
        return {"energy": energy[:1] if self.short else energy, "forces": torch.zeros_like(state.positions)}


def test_what_a_model_raises_is_data():
    model = Moody()
    provider = TorchSimEnergy(silver(2, radius=5.0), model, chunk=3)
    x = torch.zeros(8, 2, 3, dtype=torch.float64)
    x[:, 0, 0] = torch.tensor([0.0, 1.5, 2.5, 6.0, torch.nan, 0.5, 0.25, 0.75])
    found = provider.evaluate(x, WANT)
    assert found.ok.tolist() == [True, False, False, True, False, True, True, True]
    assert found.energy[[0, 3, 5, 6, 7]].tolist() == [0.0, torch.inf, 0.5, 0.25, 0.75]
    assert found.energy[[1, 2, 4]].isnan().all() and found.forces[~found.ok].isnan().all()
    assert found.reasons[1] == "the energy, a force or the virial is not a finite number"
    assert found.reasons[2] == "RuntimeError: no convergence" and found.reasons[4] == "positions are not finite"
    assert model.sizes == [3, 1, 1, 1, 3]  # the batch that raised is asked for one by one
    model.short = True  # one energy for three configurations is no energy of theirs
    assert provider.evaluate(x[5:]).energy.tolist() == [0.5, 0.25, 0.75] and model.sizes[5:] == [3, 1, 1, 1]


def test_labels_need_to_know_the_model(tmp_path):
    store = LabelStore(tmp_path / "labels.db")
    with pytest.raises(InputError, match=r"torchsim_moody: .* cannot be read off it; state method"):
        Cached(TorchSimEnergy(silver(), Moody()), store)
    stated = TorchSimEnergy(silver(), Moody(), stated={"method": "moods"})
    x = octahedra(2) - 2.0
    assert torch.equal(Cached(stated, store).evaluate(x).energy, stated.evaluate(x).energy)
    assert stated.settings["numbers"] == [47] * 6 and stated.settings["method"] == "moods"


# --- our providers as models of torch-sim -----------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"card": "lj_cluster", "particles": 7}, {"card": "ka_binary_3d"}], ids=str)
def test_a_provider_survives_the_way_through_torch_sim_and_back(settings):
    built = build_system(SystemSettings(**settings))
    mine, elements = TorchPairEnergy(built.system, built.potential), built.card.data["elements"]
    model = torchsim_model(mine, elements)
    back = TorchSimEnergy(built.system, model, elements)
    x = lattice(mine, 3)
    found, expected = back.evaluate(x, WANT[:2]), mine.evaluate(x, WANT[:2])
    assert torch.equal(found.forces, expected.forces) and torch.equal(found.energy, expected.energy)
    free = not built.system.geometry.periodic
    assert back.quantities == (("forces", "virial") if free else ("forces",)) and back.name == "torchsim_providermodel"
    check_energy_provider(back, x, quantities=back.quantities)
    assert (model.device, model.dtype, model.compute_forces, model.compute_stress) == (
        torch.device("cpu"),
        torch.float64,
        True,
        False,
    )


def icosahedra(batch, noise=0.03):
    golden = (1 + 5**0.5) / 2
    corners = [(0.0, s, t * golden) for s in (1, -1) for t in (1, -1)]
    corners = [tuple(np.roll(c, shift)) for c in corners for shift in range(3)]
    x = torch.tensor(np.array([(0.0, 0.0, 0.0), *corners]) * 0.55)
    generator = torch.Generator().manual_seed(1)
    return x + noise * torch.randn(batch, 13, 3, generator=generator, dtype=torch.float64)


def test_torch_sim_optimises_and_moves_particles_of_ours():
    """The icosahedron of 13 atoms has U = −44.326801 ε (Hoare and Pal 1971); dynamics conserves the energy."""
    mine = cluster()
    model, state = torchsim_model(mine, ARGON), torchsim_state(mine.system, icosahedra(3), ARGON)
    fire, nve = getattr(ts, "Optimizer", ts.optimizers).fire, getattr(ts, "Integrator", ts).nve  # since, before 0.4
    converged = ts.generate_force_convergence_fn(force_tol=1e-6, include_cell_forces=False)
    relaxed = ts.optimize(state, model, optimizer=fire, convergence_fn=converged, max_steps=2000)
    assert (relaxed.energy + 44.326801).abs().max() < 1e-6 and relaxed.energy.dtype == torch.float64
    assert (mine.evaluate(relaxed.positions.reshape(3, 13, 3)).energy - relaxed.energy).abs().max() < 1e-12

    def total(moving):
        kinetic = moving.momenta.square().sum(1) / (2 * moving.masses)
        return moving.energy + torch.zeros(3).double().index_add(0, moving.system_idx, kinetic)

    totals, kinetic = [], torch.zeros(3)
    for steps in (1, 500):  # from the same seed, so along the same path
        torch.manual_seed(3)
        start = torchsim_state(mine.system, relaxed.positions.reshape(3, 13, 3), ARGON)
        moved = ts.integrate(start, model, integrator=nve, n_steps=steps, temperature=300.0, timestep=0.0003)
        totals.append(total(moved))
        kinetic = totals[-1] - moved.energy
    assert (kinetic > 0.1).all() and (totals[1] - totals[0]).abs().max() < 5e-4


def test_states_that_do_not_fit_are_refused():
    mine = ours(particles=150)
    model, x = torchsim_model(mine, ARGON), lattice(mine, 2)
    other = torchsim_state(cluster(7).system, lattice(cluster(7), 2), ARGON)
    with pytest.raises(InputError, match=r"has 150 particles, the configurations of the state have \[7, 7\]"):
        model(other)
    strained = torchsim_state(mine.system, x, ARGON)
    strained.cell = strained.cell * (1 + 1e-6)
    with pytest.raises(InputError, match=r"has the box .* as torchsim_state does"):
        model(strained)
    free = torchsim_state(mine.system, x, ARGON)
    free.pbc = False
    with pytest.raises(InputError, match="with pbc"):
        model(free)
    salt = molecule(["Na", "Cl"])
    pair = TorchPairEnergy(ParticleSystem("salt", FreeSpace(3), (0, 0), ("Na",)), cluster(2).potential)
    with pytest.raises(InputError, match="other elements than the state, or in another order"):
        torchsim_model(pair)(torchsim_state(salt, x[:1, :2]))
    lost = x.clone()
    lost[1] = torch.nan
    with pytest.raises(RunError, match="torch_pair: 1 of 2 configurations have no energy; number 1: positions are not"):
        model(torchsim_state(mine.system, lost, ARGON))


def test_wrong_input_is_named(monkeypatch):
    flat = ParticleSystem("flat", FlatTorus((5.0, 5.0)), (0, 0), ("Ar",))
    with pytest.raises(InputError, match="'flat': torch-sim needs three dimensions, it has 2"):
        TorchSimEnergy(flat, Moody())
    with pytest.raises(InputError, match="no chemical symbols: A; name its species by their elements, or state"):
        torchsim_model(cluster())
    with pytest.raises(InputError, match="model: found a str; give a torch-sim ModelInterface"):
        TorchSimEnergy(silver(), "mace")
    with pytest.raises(InputError, match="chunk: found 0"):
        TorchSimEnergy(silver(), Moody(), chunk=0)
    with pytest.raises(ValueError, match="cannot evaluate"):
        TorchSimEnergy(ours(particles=150).system, Moody(), ARGON).evaluate(torch.zeros(1, 150, 3), ("virial",))
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    with pytest.raises(InputError, match=r"pip install 'particlegen\[torchsim\]'"):
        torchsim_state(silver(), octahedra(1))
