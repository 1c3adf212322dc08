"""Sums, scales and λ-paths of providers."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from test_energy_pair import lattice

from particlegen.energy import (
    Counted,
    EnergyResult,
    Ledger,
    LinearEnergy,
    SystemSettings,
    TorchPairEnergy,
    build_system,
    lambda_derivative,
    lambda_path,
)
from particlegen.geometry import FreeSpace
from particlegen.system import ParticleSystem
from particlegen.testing import ContractViolation, check_energy_provider

WANT = ("energy", "forces", "virial")


def pair(card="lj_bulk", potential="lj_cut", **settings):
    built = build_system(SystemSettings(card=card, potential=potential, **settings))
    return TorchPairEnergy(built.system, built.potential)


@pytest.fixture
def ends():
    return pair(), pair(potential="lj_cut_shift")


def test_a_combination_keeps_the_contract(ends):
    combination = LinearEnergy((0.3, ends[0]), (-1.2, ends[1]))
    x = lattice(ends[0], 2)
    check_energy_provider(combination, x)
    parts, found = [end.evaluate(x, WANT) for end in ends], combination.evaluate(x, WANT)
    for name in WANT:
        expected = 0.3 * getattr(parts[0], name) - 1.2 * getattr(parts[1], name)
        assert torch.allclose(getattr(found, name), expected, rtol=1e-13)
    assert combination.name == "0.3 torch_pair + -1.2 torch_pair"

    class Careless(LinearEnergy):
        def evaluate(self, positions, want=("energy",)):
            found = super().evaluate(positions, want)
            found.energy.mul_(2.0)
            return found

    with pytest.raises(ContractViolation, match="forces"):
        check_energy_provider(Careless((1.0, ends[0])), x)


def test_the_path_and_its_derivative(ends):
    x = lattice(ends[0], 3)
    start, end = (e.evaluate(x).energy for e in ends)
    derivative = lambda_derivative(*ends).evaluate(x).energy
    h = 1e-4
    for at in (0.1, 0.5, 0.9):
        assert torch.allclose(lambda_path(*ends, at).evaluate(x).energy, (1 - at) * start + at * end, rtol=1e-13)
        difference = lambda_path(*ends, at + h).evaluate(x).energy - lambda_path(*ends, at - h).evaluate(x).energy
        assert torch.allclose(derivative, difference / (2 * h), rtol=1e-7)
    assert (derivative > 1.0).all()
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            lambda_path(*ends, wrong)


def test_an_end_that_does_not_count_is_not_paid_for(ends):
    ledger = Ledger()
    path = lambda_path(Counted(ends[0], ledger, "start"), Counted(ends[1], ledger, "end"), 1.0)
    x = lattice(ends[0], 4)
    x[0, 0] = x[0, 1]  # coincident particles
    found = path.evaluate(x)
    assert {key: entry.calls for key, entry in ledger.entries.items()} == {("torch_pair", "end"): 4}
    assert found.energy[0] == torch.inf and found.ok.all()
    difference = lambda_derivative(*ends).evaluate(x, WANT)
    assert difference.ok.tolist() == [False, True, True, True] and difference.energy[0].isnan()
    assert "do not add up" in difference.reasons[0] and difference.forces[0].isnan().all()


# --- thermodynamic integration ----------------------------------------------------------------------------------------

_X, _W = np.polynomial.legendre.leggauss(6)
NODES, WEIGHTS = ((1 + _X) / 2).tolist(), (_W / 2).tolist()


def squared(start, end, at):
    """Not the path whose derivative is U_end − U_start."""
    return lambda_path(start, end, at**2)


def reversed_derivative(start, end):
    return lambda_derivative(end, start)


class Wells:
    """U = k/2 Σ r² of independent particles."""

    differentiable, device, name = True, torch.device("cpu"), "wells"

    def __init__(self, stiffness, particles=4):
        self.system = ParticleSystem("wells", FreeSpace(3), (0,) * particles, ("A",))
        self.stiffness = stiffness

    def evaluate(self, positions, want=("energy",)):
        x = positions.double()
        ok = x.isfinite().all(2).all(1)
        reasons = tuple(None if good else "positions are not finite" for good in ok.tolist())
        energy = 0.5 * self.stiffness * x.square().sum((1, 2))
        return EnergyResult(energy, -self.stiffness * x, -2 * energy, ok, reasons)


def sampled_difference(start, end, path=lambda_path, derivative=lambda_derivative, walkers=256, steps=400):
    """β(F_end − F_start) at β = 1 and its standard error; Metropolis-adjusted Langevin with the path's own forces."""
    generator, slope = torch.Generator().manual_seed(5), derivative(start, end)
    shape = (walkers, start.system.n_particles, start.system.dim)

    def noise():
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    total, variance = 0.0, 0.0
    for at, weight in zip(NODES, WEIGHTS, strict=True):
        provider, step = path(start, end, at), 0.15
        x, sums = 0.7 * noise(), torch.zeros(walkers, dtype=torch.float64)
        now = provider.evaluate(x, ("energy", "forces"))
        for k in range(steps):
            y = x + step * now.forces + math.sqrt(2 * step) * noise()
            new = provider.evaluate(y, ("energy", "forces"))
            forth = (y - x - step * now.forces).square().sum((1, 2))
            back = (x - y - step * new.forces).square().sum((1, 2))
            ratio = now.energy - new.energy + (forth - back) / (4 * step)
            move = torch.rand(walkers, generator=generator, dtype=torch.float64).log() < ratio
            x = torch.where(move[:, None, None], y, x)
            now = dataclasses.replace(
                now,
                energy=torch.where(move, new.energy, now.energy),
                forces=torch.where(move[:, None, None], new.forces, now.forces),
            )
            if k >= steps // 4:
                sums += slope.evaluate(x).energy / (steps - steps // 4)
        total += weight * float(sums.mean())
        variance += weight**2 * float(sums.var()) / walkers
    return total, math.sqrt(variance)


def test_integration_along_the_path_between_two_wells():
    """β(F₁ − F₀) = (3N/2) ln(k₁/k₀), to four standard errors of at most 0.02; the λ-quadrature is exact to 2e-5."""
    start, end = Wells(1.0), Wells(4.0)
    exact = 1.5 * 4 * math.log(4.0)
    value, stderr = sampled_difference(start, end)
    assert stderr < 0.02 and abs(value - exact) < 4 * stderr
    for wrong in ({"path": squared}, {"derivative": reversed_derivative}):
        value, stderr = sampled_difference(start, end, steps=100, **wrong)
        assert abs(value - exact) > 20 * stderr


def quadrature_difference(start, end, beta, path=lambda_path, derivative=lambda_derivative):
    """(F_end − F_start) of two particles on a flat torus: averages at each λ by quadrature over their distance."""
    nodes, weights = np.polynomial.legendre.leggauss(120)
    half = 0.5 * start.system.torus.lengths[0]
    s, w = 0.5 * half * (nodes + 1.0), 0.5 * half * weights
    grid = torch.from_numpy(np.stack(np.meshgrid(s, s), axis=-1).reshape(-1, 2))
    x, cells = torch.stack([torch.zeros_like(grid), grid], dim=1), torch.from_numpy(np.outer(w, w).ravel())

    def boltzmann(provider):
        return cells * torch.exp(-beta * provider.evaluate(x).energy)

    slope, total = derivative(start, end).evaluate(x).energy, 0.0
    for at, weight in zip(NODES, WEIGHTS, strict=True):
        p = boltzmann(path(start, end, at))
        total += weight * float((p * slope).sum() / p.sum())
    return total, -math.log(boltzmann(end).sum() / boltzmann(start).sum()) / beta


def test_integration_between_two_strengths_of_a_repulsion():
    """An A and a B on the torus, ε and 3 ε: the ratio of their partition functions to 1e-6, at two temperatures."""
    built = build_system(SystemSettings(card="ipl_binary_2d", composition={"A": 1, "B": 1}, lengths=(3.0, 3.0)))
    stronger = dataclasses.replace(built.potential, epsilon=((3.0, 3.0), (3.0, 3.0)))
    ends = TorchPairEnergy(built.system, built.potential), TorchPairEnergy(built.system, stronger)
    for beta in (1.0, 10.0):
        value, exact = quadrature_difference(*ends, beta)
        assert exact > 0.05 and abs(value - exact) < 1e-6 * exact
        for wrong in ({"path": squared}, {"derivative": reversed_derivative}):
            assert abs(quadrature_difference(*ends, beta, **wrong)[0] - exact) > 1e-2 * exact


def test_forces_of_the_path_are_exact():
    """Those of the stiffness in between, and the contract at both ends."""
    x = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for at in (0.0, 0.3, 1.0):
        path = lambda_path(Wells(1.0), Wells(4.0), at)
        check_energy_provider(path, x)
        assert torch.allclose(path.evaluate(x, ("forces",)).forces, -(1.0 + 3.0 * at) * x, rtol=1e-14, atol=0)


def test_combinations_that_make_no_sense_are_refused(ends):
    with pytest.raises(ValueError, match="at least one"):
        LinearEnergy()
    with pytest.raises(ValueError, match="finite number"):
        LinearEnergy((math.nan, ends[0]))
    with pytest.raises(ValueError, match="another system"):
        LinearEnergy((1.0, ends[0]), (1.0, pair(particles=32, truncated_image=True)))
