"""The pair engine against exact references: quadrature, lattice sums, differences, another code."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones

from particlegen.energy import SystemSettings, TorchPairEnergy, build_system
from particlegen.geometry import FlatTorus
from particlegen.streams import torch_stream

BETA = 10.0


def engine(**settings) -> TorchPairEnergy:
    built = build_system(SystemSettings(**settings))
    return TorchPairEnergy(built.system, built.potential)


def with_box(provider: TorchPairEnergy, lengths) -> TorchPairEnergy:
    system = dataclasses.replace(provider.system, geometry=FlatTorus(tuple(float(length) for length in lengths)))
    return TorchPairEnergy(system, provider.potential)


def relaxed(provider: TorchPairEnergy, batch: int, seed: int = 0) -> torch.Tensor:
    """Configurations at ordinary distances: uniform ones pushed apart by a few capped descent steps."""
    geometry = provider.system.geometry
    x = geometry.uniform((batch, provider.system.n_particles), torch_stream(seed, "test"))
    for _ in range(60):
        forces = provider.evaluate(x, ("forces",)).forces
        assert forces is not None
        x = geometry.wrap(x + forces / forces.norm(dim=-1, keepdim=True).clamp_min(1.0) * 0.05)
    return x


# --- one A and one B on a torus of side 3 ---------------------------------------------------------------------------


def pair_integrals(provider: TorchPairEnergy, side: float) -> tuple[float, float, float]:
    """q = ∫exp(−βu) over the torus, ⟨U⟩ and ⟨W⟩, by Gauss–Legendre quadrature on a quadrant."""
    nodes, weights = np.polynomial.legendre.leggauss(120)
    s, w = 0.25 * side * (nodes + 1.0), 0.25 * side * weights
    grid = torch.from_numpy(np.stack(np.meshgrid(s, s), axis=-1).reshape(-1, 2))
    x = torch.stack([torch.zeros_like(grid), grid], dim=1)
    result = with_box(provider, (side, side)).evaluate(x, ("energy", "virial"))
    boltzmann = torch.from_numpy(np.outer(w, w).ravel()) * torch.exp(-BETA * result.energy)
    q = boltzmann.sum()
    return float(4 * q), float((boltzmann * result.energy).sum() / q), float((boltzmann * result.virial).sum() / q)


@pytest.fixture(scope="module")
def pair() -> TorchPairEnergy:
    return engine(card="ipl_binary_2d", composition={"A": 1, "B": 1}, lengths=[3.0, 3.0])


def test_pair_on_a_torus_has_the_known_integral_and_energy(pair):
    q, energy, _ = pair_integrals(pair, 3.0)
    assert q == pytest.approx(1.934330, abs=1e-6)
    assert energy == pytest.approx(0.0444747, abs=1e-7)


def test_the_pair_reference_notices_a_missing_shift(pair):
    c12, c6, _, c2, c4 = pair.potential.coefficients
    mutant = dataclasses.replace(pair.potential, coefficients=(c12, c6, 0.0, c2, c4))
    q, energy, _ = pair_integrals(TorchPairEnergy(pair.system, mutant), 3.0)
    assert abs(q - 1.934330) > 1e-6
    assert abs(energy - 0.0444747) > 1e-7


def test_virial_is_the_volume_derivative_of_the_free_energy(pair):
    h = 1e-4
    up, down = (math.log(pair_integrals(pair, 3.0 * math.exp(sign * h / 2))[0]) for sign in (1, -1))
    _, _, virial = pair_integrals(pair, 3.0)
    # ln q = ln ∫exp(−βu) d²r, and ln V = 2 ln L: βp V = 1 + β⟨W⟩/d for the relative coordinate.
    assert (up - down) / (2 * h) == pytest.approx(1.0 + BETA * virial / 2, rel=1e-6)


# --- lattice sums and other codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("potential", "expected"), [("lj_cut", -7.7615881), ("lj_cut_shift", -7.3210320791)])
def test_fcc_crystal(potential, expected):
    provider = engine(card="lj_bulk", potential=potential, density=1.0, truncated_image=True)
    crystal = bulk("Ar", "fcc", a=4 ** (1 / 3), cubic=True) * (3, 3, 3)
    energy = provider.evaluate(torch.from_numpy(crystal.positions)[None]).energy
    assert float(energy) / 108 == pytest.approx(expected, abs=6e-8)


def test_agrees_with_ase():
    provider = engine(card="lj_bulk")
    x = relaxed(provider, 2)
    result = provider.evaluate(x, ("energy", "forces"))
    for frame, energy, forces in zip(x, result.energy, result.forces, strict=True):
        atoms = Atoms("Ar108", positions=frame.numpy(), cell=provider.system.geometry.lengths, pbc=True)
        atoms.calc = LennardJones(sigma=1.0, epsilon=1.0, rc=2.5, smooth=False)
        assert float(energy) == pytest.approx(atoms.get_potential_energy(), rel=1e-10)
        np.testing.assert_allclose(forces.numpy(), atoms.get_forces(), atol=1e-9)


def test_cluster_minima():
    octahedron = torch.tensor(np.vstack([np.eye(3), -np.eye(3)])[None]) * 0.7948
    x = octahedron.clone().requires_grad_()
    provider = engine(card="lj_cluster")
    optimiser = torch.optim.LBFGS([x], max_iter=60, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        energy = provider.evaluate(x).energy.sum()
        energy.backward()
        return energy

    optimiser.step(closure)
    assert float(provider.evaluate(x.detach()).energy) == pytest.approx(-12.712062, abs=1e-6)


# --- forces and virial configuration by configuration ----------------------------------------------------------------


def difference_force(provider: TorchPairEnergy, x: torch.Tensor, h: float = 1e-5) -> float:
    """−dU/dx of the second particle along the first axis."""
    step = torch.zeros_like(x)
    step[:, 1, 0] = h
    return float(-(provider.evaluate(x + step).energy - provider.evaluate(x - step).energy) / (2 * h))


@pytest.mark.parametrize("distance", [0.9, 1.7, 1.9999, 2.0, 2.0001, 2.3])
@pytest.mark.parametrize("origin", [1.0, 9.5])
def test_forces_across_the_cutoff_and_the_box_edge(distance, origin):
    # sigma_AB = 0.8 puts the cutoff at 2.0; from 9.5 the second particle lies across the edge of the box.
    provider = engine(card="ka_ternary_2d", composition={"A": 1, "B": 1}, lengths=[10.0, 10.0])
    x = torch.tensor([[[origin, 4.0], [(origin + distance) % 10.0, 4.0]]], dtype=torch.float64)
    forces = provider.evaluate(x, ("forces",)).forces
    assert forces is not None
    assert float(forces[0, 1, 0]) == pytest.approx(difference_force(provider, x), rel=1e-6, abs=1e-8)
    assert float(forces[0].sum().abs()) == pytest.approx(0.0, abs=1e-14)
    assert (abs(float(forces[0, 1, 0])) > 1e-15) == (distance < 2.0)


@pytest.mark.parametrize("card", ["ka_ternary_2d", "polydisperse_3d"])
def test_virial_is_the_response_to_scaling(card):
    provider = engine(card=card)
    x, h = relaxed(provider, 1), 1e-6
    lengths = np.asarray(provider.system.geometry.lengths)
    up, down = (with_box(provider, lengths * math.exp(s * h)).evaluate(x * math.exp(s * h)).energy for s in (1.0, -1.0))
    virial = provider.evaluate(x, ("virial",)).virial
    assert virial is not None
    assert float(virial) == pytest.approx(float(-(up - down) / (2 * h)), rel=1e-5, abs=1e-3)


def test_inverse_power_virial_identity_needs_the_unshifted_energy():
    shifted = engine(card="ipl_binary_2d", particles=44)
    c12, c6, _, c2, c4 = shifted.potential.coefficients
    bare = dataclasses.replace(shifted.potential, coefficients=(c12, c6, 0.0, c2, c4))
    unshifted = TorchPairEnergy(shifted.system, bare)
    x = relaxed(shifted, 3)
    result = unshifted.evaluate(x, ("energy", "virial"))
    torch.testing.assert_close(result.virial, 12.0 * result.energy, rtol=1e-12, atol=0.0)
    assert not torch.allclose(result.virial, 12.0 * shifted.evaluate(x).energy, rtol=1e-6)


@pytest.mark.parametrize("card", ["ipl_binary_2d", "ka_ternary_2d", "ka_binary_3d", "polydisperse_3d", "lj_bulk"])
def test_neighbour_list_agrees_with_all_pairs(card):
    dense = engine(card=card)
    listed = TorchPairEnergy(dense.system, dense.potential, dense_limit=0)
    x = relaxed(dense, 2)
    a, b = (provider.evaluate(x + 100.0, ("energy", "forces", "virial")) for provider in (dense, listed))
    torch.testing.assert_close(a.energy, b.energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(a.virial, b.virial, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(a.forces, b.forces, rtol=1e-10, atol=1e-10)


def test_a_large_system_has_the_energy_of_its_replicas():
    small = engine(card="ka_ternary_2d")
    x = relaxed(small, 1)
    side = small.system.geometry.lengths[0]
    copies = [x + side * torch.tensor([float(a), float(b)], dtype=torch.float64) for a in range(4) for b in range(4)]
    large = engine(card="ka_ternary_2d", particles=44 * 16)
    # The big card sorts by species; so do the copies.
    stacked = torch.cat([torch.cat([c[:, k] for c in copies], 0)[None] for k in range(44)], 1)
    assert large.evaluate(stacked).energy.item() == pytest.approx(16 * small.evaluate(x).energy.item(), rel=1e-11)
