"""Hamiltonian Monte Carlo on any engine: known averages, failures, confinement, resumption."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import integrate

from particlegen.energy import EnergyResult, TorchPairEnergy
from particlegen.energy.formulas import PairPotential
from particlegen.estimate.convergence import mean_with_correlation
from particlegen.geometry import FlatTorus, FreeSpace
from particlegen.sampling import ReferenceSettings, energies_by_chain, hamiltonian, sample_hamiltonian, sample_reference
from particlegen.settings import RunError
from particlegen.system import ParticleSystem, ThermodynamicState

IPL = PairPotential("ipl", (1.0, 0.0, -(0.4**12), 0.0, 0.0), ((1.0, 1.2), (1.2, 1.4)), ((1.0, 1.0), (1.0, 1.0)), 2.5)
MIXTURE = ParticleSystem("mix", FlatTorus((4.0, 4.0)), (0, 0, 0, 0, 1, 1, 1, 1), ("A", "B"))


class Well:
    """Independent particles in U = x²/2; no energy where `fails` says so."""

    name, differentiable, device = "well", False, torch.device("cpu")

    def __init__(self, n: int, dim: int, radius: float = math.inf, fails=lambda x: torch.zeros(len(x), dtype=bool)):
        self.system = ParticleSystem("wells", FreeSpace(dim, radius), (0,) * n, ("A",))
        self.fails = fails

    def evaluate(self, positions, want=("energy",)):
        ok = ~self.fails(positions)
        energy = torch.where(ok, 0.5 * positions.square().sum((1, 2)), torch.nan)
        forces = torch.where(ok[:, None, None], -positions, torch.nan)
        return EnergyResult(energy, forces, None, ok, tuple(None if good else "out of bounds" for good in ok))


def settings(**changes) -> ReferenceSettings:
    given = {"chains": 16, "frames": 1600, "sweeps_between_frames": 3, "equilibration_sweeps": 720, "leapfrog_steps": 3}
    return ReferenceSettings(sampler="hmc", block_frames=512, **(given | changes))


def energies(provider, temperature, how, **options):
    blocks = list(sample_hamiltonian(provider, ThermodynamicState(temperature), how, 5, **options))
    joined = np.concatenate([b.energies for b in blocks]), np.concatenate([b.chain for b in blocks])
    return blocks, energies_by_chain(*joined)


def distance(found: np.ndarray, exact: float, largest_stderr: float) -> float:
    """From the exact mean, in standard errors."""
    mean = mean_with_correlation(found)
    assert mean.stderr < largest_stderr * abs(exact)
    return abs(mean.value - exact) / mean.stderr


@pytest.mark.parametrize("leaps", [1, 6])
def test_harmonic_wells_have_half_kt_per_coordinate(leaps, monkeypatch):
    how = settings(leapfrog_steps=leaps)
    blocks, found = energies(Well(5, 2), 0.7, how)
    assert distance(found, 5 * 0.7, 0.02) < 4
    assert blocks[-1].acceptance["trajectory"][0] == pytest.approx(0.574 if leaps == 1 else 0.651, abs=0.15)
    assert sum(b.energy_calls for b in blocks) == 16 * (201 + leaps * (720 + 300)) and how.chunks == len(blocks)
    assert how.energy_calls(Well(5, 2).system, ThermodynamicState(0.7)) == 16 * (201 + leaps * (720 + 300))
    monkeypatch.setattr(hamiltonian, "acceptance_probability", lambda _: 1.0)
    _, always = energies(Well(5, 2), 0.7, how, start_chunk=1, resume_from=blocks[0].state)
    assert distance(always, 5 * 0.7, 1.0) > 4


def test_it_agrees_with_compiled_monte_carlo_on_the_torus():
    compiled = ReferenceSettings(chains=16, frames=16000, sweeps_between_frames=20, equilibration_sweeps=2000)
    known = list(sample_reference(MIXTURE, IPL, ThermodynamicState(1.0), compiled, 1))
    exact = energies_by_chain(*(np.concatenate([getattr(b, key) for b in known]) for key in ("energies", "chain")))
    blocks, found = energies(
        TorchPairEnergy(MIXTURE, IPL), 1.0, settings(chains=64, frames=1600, equilibration_sweeps=216, leapfrog_steps=6)
    )
    ours, theirs = mean_with_correlation(found), mean_with_correlation(exact)
    assert ours.distance(theirs.value, theirs.stderr) < 4
    assert ours.stderr < 0.02 * theirs.value and theirs.stderr < 0.01 * theirs.value
    positions = np.concatenate([b.positions for b in blocks])
    assert (positions >= 0).all() and (positions < 4).all()


def test_a_confining_sphere_is_part_of_the_target():
    radius = 1.5
    above, below = (integrate.quad(lambda r, k=k: r**k * math.exp(-r * r / 2), 0, radius)[0] for k in (4, 2))
    how = settings(frames=6400)
    blocks, found = energies(Well(1, 3, radius), 1.0, how)
    assert distance(found, above / below / 2, 0.02) < 4 < distance(found, 1.5, 1.0)
    assert np.linalg.norm(np.concatenate([b.positions for b in blocks]), axis=-1).max() <= radius


def test_trajectories_without_an_energy_are_rejected_and_told():
    told = []
    well = Well(1, 1, fails=lambda x: (x > 0.5)[:, 0, 0])
    start = torch.full((16, 1, 1), -0.5, dtype=torch.float64)
    how = settings(leapfrog_steps=1, frames=6400)
    blocks, found = energies(well, 1.0, how, start=start, events=told.append)
    assert max(b.positions.max() for b in blocks) <= 0.5 and np.isfinite(found).all()
    weight = integrate.quad(lambda x: math.exp(-x * x / 2), -20, 0.5)[0]
    exact = integrate.quad(lambda x: x * x / 2 * math.exp(-x * x / 2), -20, 0.5)[0] / weight
    assert distance(found, exact, 0.05) < 4
    warnings = [event.message for event in told if event.kind == "warning"]
    assert len(warnings) == how.chunks and all("rejected; the first: out of bounds" in text for text in warnings)
    with pytest.raises(RunError, match=r"trajectories had no energy; the first: out of bounds"):
        energies(Well(1, 1, fails=lambda x: (x != -0.5)[:, 0, 0]), 1.0, how, start=start)
    with pytest.raises(RunError, match=r"chain 0: no energy to start from: out of bounds"):
        energies(Well(1, 1, fails=lambda x: (x == x)[:, 0, 0]), 1.0, how, start=start)


def test_a_run_resumed_from_a_block_equals_the_uninterrupted_one():
    how = settings(chains=4, frames=48, equilibration_sweeps=72).model_copy(update={"block_frames": 16})
    blocks, _ = energies(Well(3, 2), 1.0, how)
    rest, _ = energies(Well(3, 2), 1.0, how, start_chunk=1, resume_from=blocks[0].state)
    assert [b.chunk for b in blocks] == [0, 1, 2]
    for a, b in zip(blocks[1:], rest, strict=True):
        assert a.positions.tobytes() == b.positions.tobytes() and a.energies.tobytes() == b.energies.tobytes()
        assert a.energy_calls == b.energy_calls and a.acceptance == b.acceptance


def test_what_does_not_fit_is_refused():
    state, how = ThermodynamicState(1.0), settings(chains=2, frames=16)
    with pytest.raises(ValueError, match=r"start has to be \(chain, N, dim\) = \(2, 3, 2\), found \(1, 3, 2\)"):
        next(sample_hamiltonian(Well(3, 2), state, how, 1, start=torch.zeros(1, 3, 2)))
    with pytest.raises(ValueError, match="beyond the confining radius of system 'wells'"):
        next(sample_hamiltonian(Well(3, 2, 1.0), state, how, 1, start=torch.ones(2, 3, 2)))
    with pytest.raises(ValueError, match="needs the state of block 0"):
        next(sample_hamiltonian(Well(3, 2), state, how, 1, start_chunk=1))
    with pytest.raises(ValueError, match=r"lacks forces, energies, step, counters"):
        next(
            sample_hamiltonian(Well(3, 2), state, how, 1, start_chunk=1, resume_from={"positions": np.zeros((2, 3, 2))})
        )
    with pytest.raises(ValidationError, match="sampler 'swap' has no trajectories"):
        ReferenceSettings(sampler="swap", leapfrog_steps=4)
    with pytest.raises(ValidationError, match="sampler 'hmc' makes no swaps"):
        settings(swap_fraction=0.2)
