"""PySCF behind the provider contract: energies of the geometry alone, verified restarts, remedies, excitations."""

import re
import sys

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_energy_canonical import triangle
from test_energy_electrons import REFUSED, molecule

from particlegen.energy import Cached, LabelStore, PySCFEnergy, PySCFSettings, SystemSettings, build_system
from particlegen.energy import pyscf_engine as engine
from particlegen.energy.pyscf_restart import align, carried_over
from particlegen.energy.pyscf_scf import Deadline, gradient, make_molecule, solve
from particlegen.settings import InputError, RunError
from particlegen.testing import check_energy_provider
from particlegen.units import BOHR, HARTREE

gto = pytest.importorskip("pyscf.gto", reason="pip install 'particlegen[dft]'")
dft = pytest.importorskip("pyscf.dft")

WATER = torch.tensor([[0.0, 0.0, 0.117], [0.0, 0.757, -0.469], [0.0, -0.757, -0.469]], dtype=torch.float64)


def level(**changes):
    return PySCFSettings(**{"functional": "pbe", "basis": "sto-3g", "grid_level": 1, "citations": ("x",), **changes})


def water(**changes):
    return PySCFEnergy(molecule(["O", "H", "H"]), level(**changes))


def waters(n, seed=1, noise=0.05):
    generator = torch.Generator().manual_seed(seed)
    return WATER + noise * torch.randn(n, 3, 3, generator=generator, dtype=torch.float64)


def directly(frame, symbols, **changes):
    """PySCF's own energy of a canonical geometry, in Hartree: one grid, no remedies, its own blocks."""
    settings = level(**changes)
    atoms = list(zip(symbols, frame.positions.tolist(), strict=True))
    mol = gto.M(atom=atoms, basis=settings.basis, ecp=settings.ecp or {}, verbose=0)
    field = dft.RKS(mol, xc=settings.functional).density_fit(auxbasis=settings.auxiliary_basis)
    field.grids.level, field.conv_tol = settings.grid_level, 1e-11
    return field.kernel()


def test_the_contract_is_kept():
    # along the bond the grid cannot turn, so forces are derivatives to the last digit
    pairs = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 1.65]], [[0.1, 0.0, 0.0], [0.0, 1.2, 0.9]]], dtype=torch.float64)
    provider = PySCFEnergy(molecule(["Li", "H"]), level(grid_level=0, convergence=1e-12))
    check_energy_provider(provider, pairs, step=5e-4, force_rtol=2e-5)


def test_forces_are_derivatives_of_the_energy():
    """On the grid as it lies to 1e-6; in the canonical frame, which turns along, to the scatter of a fine grid."""
    settings, x, h = level(convergence=1e-11), waters(1)[0].numpy(), 1e-3

    def made(y):
        return solve(make_molecule(["O", "H", "H"], y, settings, 0), settings, Deadline.of(settings))

    ends, moved = [], np.zeros_like(x)
    for sign in (1, -1):
        moved[1, 2] = sign * h
        ends.append(made(x + moved).energy)
    slope = (ends[0] - ends[1]) / (2 * h / BOHR)
    assert abs(gradient(made(x), settings, Deadline.of(settings))[1, 2] - slope) < 1e-6
    without = settings.model_copy(update={"grid_response": False})
    assert abs(gradient(made(x), without, Deadline.of(settings))[1, 2] - slope) > 5e-5
    fine, steps = water(grid_level=4), torch.zeros(2, 3, 3, dtype=torch.float64)
    steps[:, 0, 1] = torch.tensor([h, -h])
    energy = fine.evaluate(waters(1) + steps).energy
    force = fine.evaluate(waters(1), ("forces",)).forces
    assert abs(-(energy[0] - energy[1]) / (2 * h) - force[0, 0, 1]) < 2e-4
    assert force.sum(1).abs().max() < 1e-10


def test_the_energy_is_that_of_pyscf_and_of_every_copy():
    provider, x = water(convergence=1e-10), waters(1)
    frame, _ = provider.solution(x[0].numpy())
    energy = float(provider.evaluate(x).energy[0]) / HARTREE
    assert abs(directly(frame, ["H", "H", "O"]) - energy) < 1e-9
    turn = torch.from_numpy(Rotation.random(random_state=1).as_matrix())
    moved = torch.stack([x[0] @ turn + 2.0, -x[0], x[0][[0, 2, 1]] @ turn.T])
    found = provider.evaluate(moved, ("energy", "forces"))
    assert (found.energy / HARTREE - energy).abs().max() < 1e-9
    forces = provider.evaluate(x, ("forces",)).forces[0]
    expected = torch.stack([forces @ turn, -forces, forces[[0, 2, 1]] @ turn.T])
    assert (found.forces - expected).abs().max() < 1e-6
    # without the frame the grid shows: this is what it is for
    assert provider.orientation_scatter(x, 3).std() / HARTREE > 1e-6


def test_silver_with_its_core_potentials():
    """Energy against PySCF and the gradient of core potentials, in a molecule where not every atom has one."""
    changes = {"basis": "lanl2dz", "ecp": "lanl2dz", "grid_level": 0}
    provider = PySCFEnergy(molecule(["Ag", "H"]), level(**changes))
    frame, solution = provider.solution(np.array([[0.0, 0.0, 0.0], [0.3, 0.2, 1.6]]))
    assert abs(directly(frame, ["H", "Ag"], **changes) - solution.energy) < 1e-8
    theirs = solution.field.nuc_grad_method()
    theirs.grid_response = True
    assert np.abs(gradient(solution, provider.level, Deadline.of(provider.level)) - theirs.kernel()).max() < 1e-10


def test_nothing_that_was_computed_before_matters():
    """Bit for bit, fresh and restarted, whatever the order and the company."""
    x = waters(4)
    fresh = water(recheck_share=0.5)
    alone = torch.cat([water().evaluate(x[k : k + 1]).energy for k in range(4)])
    assert torch.equal(fresh.evaluate(x).energy, alone)
    restarted = fresh.restarted_from(fresh.references(waters(2, seed=9)))
    forwards = restarted.evaluate(x, ("energy", "forces"))
    backwards = restarted.evaluate(x.flip(0), ("energy", "forces"))
    assert torch.equal(forwards.energy, backwards.energy.flip(0))
    assert torch.equal(forwards.forces, backwards.forces.flip(0))
    assert 0 < (forwards.energy - alone).abs().max() / HARTREE < 1e-8
    assert torch.equal(fresh.evaluate(x).energy, alone)


def test_a_density_survives_rotation_reflection_and_renumbering():
    """Carried over to a copy of its own geometry it has its energy; d functions and odd momenta included."""
    provider = PySCFEnergy(molecule(["O", "H", "H", "C"]), level(basis="6-31g*", grid_level=0))
    x = torch.cat([waters(1)[0], torch.tensor([[1.4, 0.1, 0.2]])])
    (reference,) = provider.references(x[None])
    own = provider._molecule(reference.positions, reference.charges)
    expected = dft.RKS(own, xc="hf").energy_tot(reference.density[0])
    for sign in (1.0, -1.0):
        order = np.array([1, 0, 2, 3])
        target = reference.positions[order] @ (sign * Rotation.random(random_state=2).as_matrix())
        there = provider._molecule(target, reference.charges)
        found, rotation = align(reference.positions, reference.charges, target, reference.charges)
        assert np.array_equal(found, order)
        density = carried_over(reference, found, rotation, there, there)
        assert abs(dft.RKS(there, xc="hf").energy_tot(density[0]) - expected) < 1e-9


def test_restarts_save_cycles_and_are_checked(monkeypatch):
    x = waters(8, noise=0.02)
    provider = water(recheck_share=0.5)
    restarted = provider.restarted_from(provider.references(WATER[None]))
    saved = [provider.solution(y)[1].coarse_cycles - restarted.solution(y)[1].coarse_cycles for y in x[:3].numpy()]
    assert np.mean(saved) > 1
    monkeypatch.setattr(engine, "_AGREEMENT", -1.0)  # now every check disagrees
    found = restarted.evaluate(x)
    assert 1 <= int(found.ok.sum()) <= 7
    reason = next(r for r in found.reasons if r)
    assert "depends on the guess" in reason and reason.count(" Ha") == 2 and found.energy[~found.ok].isnan().all()
    # the geometry decides which ones, not its copy or place
    turn = torch.from_numpy(Rotation.random(random_state=3).as_matrix())
    assert torch.equal(restarted.evaluate((x @ turn).flip(0)).ok.flip(0), found.ok)
    assert water(recheck_share=0.0).restarted_from(provider.references(WATER[None])).evaluate(x[:3]).ok.all()


def test_references_have_to_fit():
    provider = water()
    with pytest.raises(InputError, match="other elements"):
        PySCFEnergy(molecule(["Li", "H"]), level()).restarted_from(provider.references(WATER[None]))
    with pytest.raises(RunError, match="no reference converged: not converged"):
        water(max_cycles=1).references(WATER[None])


def test_what_does_not_converge_is_data():
    found = water(max_cycles=1).evaluate(waters(2))
    assert not found.ok.any() and found.energy.isnan().all()
    assert all("not converged by DIIS, level shift, damping and second order" in r for r in found.reasons)
    found = water(seconds_limit=1e-4).evaluate(waters(1), ("energy", "forces"))
    assert not found.ok[0] and "wall-time limit of 0.0001 s" in found.reasons[0]


def test_a_hard_case_needs_the_last_remedy():
    """Nitrogen monoxide, stretched: DIIS, level shift and damping give up."""
    changes = {"functional": "hf", "density_fitting": False, "max_cycles": 40}
    provider = PySCFEnergy(molecule(["N", "O"]), level(**changes))
    _, solution = provider.solution(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.8]]))
    assert solution.remedy == "second order" and solution.field.converged
    slope = solution.field.get_grad(solution.field.mo_coeff, solution.field.mo_occ)
    assert np.abs(slope).max() < 1e-4


def test_an_open_shell_is_followed_downhill(monkeypatch):
    """The first field of stretched OH lies 0.2 Ha above that of its separated atoms; the stable one does not."""
    changes = {"functional": "hf", "density_fitting": False, "grid_level": 0}
    x = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 2.2]]], dtype=torch.float64)
    oxygen = PySCFEnergy(molecule(["O"]), level(multiplicity=3, **changes)).evaluate(x[:, :1]).energy
    hydrogen = PySCFEnergy(molecule(["H"]), level(**changes)).evaluate(x[:, :1]).energy
    apart = (oxygen + hydrogen) / HARTREE
    stable = PySCFEnergy(molecule(["O", "H"]), level(**changes)).evaluate(x).energy / HARTREE
    assert abs(float(stable - apart)) < 0.03
    monkeypatch.setattr("particlegen.energy.pyscf_scf._stabilise", lambda *_: None)
    unstable = PySCFEnergy(molecule(["O", "H"]), level(**changes)).evaluate(x).energy / HARTREE
    assert float(unstable - apart) > 0.15


def test_excitations(monkeypatch):
    """Against PySCF in another orientation, with the kernel on the fine grid and on the coarse one; failure as data."""
    provider, x = water(grid_level=3), waters(2)
    found = provider.excitations(x, 3)
    assert found.ok.all() and (found.energies.diff(dim=1) > 0).all() and (found.strengths >= 0).all()
    mol = gto.M(atom=list(zip("OHH", x[0].tolist(), strict=True)), basis="sto-3g", verbose=0)
    field = dft.RKS(mol, xc="pbe").density_fit()
    field.grids.level = 3
    field.run()
    theirs = field.TDDFT()
    theirs.run(nstates=3)
    assert np.abs(theirs.e * HARTREE - found.energies[0].numpy()).max() < 0.02
    assert np.abs(theirs.oscillator_strength() - found.strengths[0].numpy()).max() < 2e-3
    monkeypatch.setattr("particlegen.energy.pyscf_scf._COARSE_LEVEL", 3)
    fine = provider.excitations(x, 3)
    assert np.abs(theirs.e * HARTREE - fine.energies[0].numpy()).max() < 1e-4
    assert np.abs(theirs.oscillator_strength() - fine.strengths[0].numpy()).max() < 1e-4
    x[1, 0, 0] = torch.nan
    some = provider.excitations(x, 11)  # five occupied orbitals times two empty ones are ten
    assert not some.ok.any() and "of 11 excitations converged" in some.reasons[0] and "not finite" in some.reasons[1]
    assert some.energies.isnan().all()
    with pytest.raises(InputError, match="give a positive number"):
        provider.excitations(x, 0)


@pytest.mark.parametrize(
    ("symbols", "changes", "message"),
    [
        (["Ag", "Ag"], {"basis": "lanl2dz"}, "basis 'lanl2dz' of the element Ag .* add 'ecp: lanl2dz'"),
        (["Ag", "Ag"], {"basis": "def2-tzvp"}, "basis 'def2-tzvp' of the element Ag .* add 'ecp: def2-tzvp'"),
        (
            ["Ag", "H"],
            {"basis": "lanl2dz", "ecp": {"Ag": "lanl2dz", "H": "lanl2dz"}},
            "ecp 'lanl2dz' has nothing for the element H",
        ),
        (["Ag", "Ag"], {"basis": "sto-3g", "ecp": "nonsense"}, "ecp 'nonsense' has nothing for the element Ag"),
        (["Ag", "Ag"], {"basis": "6-31g(d,p)"}, r"basis '6-31g\(d,p\)' has nothing for the element Ag"),
        (["Au", "H"], {}, "basis 'sto-3g' has nothing for the element Au"),
        (["Li", "H"], {"basis": {"Li": "sto-3g"}}, "basis None has nothing for the element H"),
        (["Li", "H"], {"auxiliary_basis": "lanl2dz-none"}, "auxiliary_basis 'lanl2dz-none' has nothing for"),
        (["Li", "H"], {"functional": "pbee"}, "functional 'pbee': libxc does not know it"),
        (["Li", "H"], {"device": "gpu"}, "gpu4pyscf and a CUDA device are needed"),
    ],
)
def test_a_level_of_theory_that_does_not_fit(symbols, changes, message):
    with pytest.raises(InputError, match=message):
        PySCFEnergy(molecule(symbols), level(**changes))


@pytest.mark.parametrize(("symbols", "charge", "multiplicity", "message"), REFUSED)
def test_electrons_that_cannot_be_are_refused(symbols, charge, multiplicity, message):
    with pytest.raises(InputError, match=re.escape(message)):
        PySCFEnergy(molecule(symbols), level(charge=charge, multiplicity=multiplicity))


def test_missing_core_functions_are_noticed_without_a_table(monkeypatch):
    """A basis for valence electrons whose core potential PySCF's tables do not know by its name."""
    tables = pytest.importorskip("pyscf.gto.basis")
    monkeypatch.setattr(tables, "load_ecp", lambda *_: [])
    with pytest.raises(InputError, match="3 shells of angular momentum 0 for the element Ag, whose atom fills 5"):
        PySCFEnergy(molecule(["Ag", "Ag"]), level(basis="lanl2dz"))


def test_wrong_input_is_named(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="needs metal units"):
        PySCFEnergy(build_system(SystemSettings(card="lj_cluster")).system, level())
    with pytest.raises(ValueError, match="should match pattern"):
        level(basis="../secret.nw")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sto-3g").write_text("H S\n 1 1\n")
    with pytest.raises(InputError, match="a file 'sto-3g' lies in the current folder"):
        PySCFEnergy(molecule(["Ag", "Ag"]), level(basis="sto-3g"))
    monkeypatch.setitem(sys.modules, "pyscf.gto", None)
    with pytest.raises(InputError, match=r"pip install 'particlegen\[dft\]'"):
        water()


@pytest.mark.slow
def test_silver_clusters_restart_to_the_same_energy():
    """Ag6 at the card's level: restarted and fresh energies agree to 1e-8 Ha, as do those of PySCF itself."""
    provider = PySCFEnergy.of_card(molecule(["Ag"] * 6), "pyscf_pbe_lanl2dz")
    assert provider.name == "pyscf_pbe_lanl2dz"
    references = provider.references(torch.from_numpy(np.stack([triangle(0.07, seed)[0] for seed in (1, 2)])))
    for seed in (3, 4):
        frame, fresh = provider.solution(triangle(0.07, seed)[0])
        _, restarted = provider.restarted_from(references).solution(triangle(0.07, seed)[0])
        assert abs(fresh.energy - restarted.energy) < 1e-8
        assert restarted.coarse_cycles < fresh.coarse_cycles
        changes = {"basis": "lanl2dz", "ecp": "lanl2dz", "grid_level": 3, "auxiliary_basis": "def2-universal-jfit"}
        assert abs(directly(frame, ["Ag"] * 6, **changes) - fresh.energy) < 1e-8


def test_labels_are_kept_with_their_iterations_and_found_by_what_changes_the_energy(tmp_path):
    """Not by threads or time limits; a restart is another setting, as its last digits depend on its densities."""
    x, store = waters(2), LabelStore(tmp_path / "labels.db")
    engine = water()
    paid = Cached(engine, store).evaluate(x)
    (label, _) = store.labels()
    assert label.iterations == paid.iterations[0] > 1
    again = Cached(water(threads=2, seconds_limit=60.0), store)
    assert torch.equal(again.evaluate(x).energy, paid.energy) and len(store.summaries()) == 1
    others = [water(functional="blyp"), engine.restarted_from(engine.references(x[:1]))]
    assert len({Cached(other, store).settings_hash for other in others} | {again.settings_hash}) == 3
