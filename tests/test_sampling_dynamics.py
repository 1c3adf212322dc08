"""Trajectories at constant energy and their spectra, against harmonic wells whose frequencies are known."""

import math

import numpy as np
import pytest
import torch

from particlegen.energy import SystemSettings, TorchPairEnergy, build_system
from particlegen.estimate import density_of_states, velocity_spectra
from particlegen.geometry import FreeSpace
from particlegen.isomers import EckartFrame, hessian, optimise
from particlegen.sampling.dynamics import (
    confined,
    log_rest_weight,
    rest_momenta,
    thermal_steps,
    total_energy,
    turned_back,
)
from particlegen.sampling.leapfrog import Phase, leapfrog

MASSES = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
SPRINGS = torch.tensor([1.0, 5.0, 40.0], dtype=torch.float64)
"""Particles tied to the origin: ω = √(k/m) is 1, 1.58 and 2.83, each three times."""
OMEGA = (SPRINGS / MASSES).sqrt()
BETA = 4.0


def trajectory(evaluate, phase, beta, time_step, masses, leaps, frames):
    """Phases after every `leaps` steps."""
    steps, found = thermal_steps(len(phase.positions), time_step, beta, masses), []
    for _ in range(frames):
        phase = leapfrog(evaluate, FreeSpace(3), phase, beta, steps, leaps)
        found.append(phase)
    return found


def springs(x):
    energy = 0.5 * (SPRINGS[:, None] * x.square()).sum((1, 2))
    return energy, -SPRINGS[:, None] * x, torch.ones(len(x), dtype=torch.bool)


def spectrum(masses, trajectories=400, periods=24, steps=40, leaps=5):
    """Density of states of the springs, and the width of a bin."""
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(2, trajectories, 3, 3, generator=generator, dtype=torch.float64)
    x = z[0] / (BETA * SPRINGS[:, None]).sqrt()
    energy, forces, ok = springs(x)
    start, dt = Phase(x, z[1], energy, forces, ok), 2.0 * math.pi / float(OMEGA[-1]) / steps
    phases = trajectory(springs, start, BETA, dt, masses, leaps, periods * steps // leaps)
    kept = [phase.momenta.flatten(1) for phase in phases]
    frequency, spectra = velocity_spectra(torch.stack(kept, 1).numpy(), leaps * dt)
    return density_of_states(frequency, spectra, np.zeros(trajectories), 9)


def weights_of_lines(curve):
    """Integral of the density within four bins of each line, its error, and where the line's centre is."""
    width, found = curve.x[1] - curve.x[0], []
    for omega in OMEGA.tolist():
        near = np.abs(curve.x - omega / (2.0 * math.pi)) < 4.0 * width
        total = curve.value[near].sum() * width
        found.append((total, curve.stderr[near].sum() * width, (curve.x[near] @ curve.value[near]) * width / total))
    return found


def test_a_line_at_each_frequency_counts_its_vibrations():
    curve = spectrum(MASSES)
    width = curve.x[1] - curve.x[0]
    assert curve.value.sum() * width == pytest.approx(9.0, rel=1e-12)
    for (total, error, centre), omega in zip(weights_of_lines(curve), OMEGA.tolist(), strict=True):
        # Neighbouring bins of a line rise and fall together, so that their errors add.
        assert error < 0.2 and abs(total - 3.0) < 4.0 * error
        assert abs(centre - omega / (2.0 * math.pi)) < 0.25 * width
    # Mutation: with wrong masses the lines are elsewhere.
    wrong = weights_of_lines(spectrum(MASSES.flip(0)))
    assert any(abs(total - 3.0) > 10.0 * error for total, error, _ in wrong)


def test_lines_are_weighted_by_their_trajectories():
    """Of two kinds of trajectories, one of each frequency, weights make the shares of the lines."""
    t = np.arange(64) * 0.25
    one, two = (np.sin(2.0 * np.pi * f * t)[None, :, None].repeat(10, 0) for f in (0.5, 1.0))
    frequency, spectra = velocity_spectra(np.concatenate([one, two]), 0.25)
    curve = density_of_states(frequency, spectra, np.log(np.repeat([1.0, 3.0], 10)), 4)
    low = frequency < 0.75
    assert curve.value[low].sum() * frequency[1] == pytest.approx(1.0, rel=1e-9)
    assert curve.value[~low].sum() * frequency[1] == pytest.approx(3.0, rel=1e-9)


def test_errors_are_those_of_repeated_estimates():
    rng = np.random.default_rng(3)
    frequency, scale, found, naive = np.arange(4) * 0.5, np.array([1.0, 2.0, 0.5, 1.5]), [], []
    for _ in range(800):
        spectra, log_w = rng.exponential(size=(30, 4)) * scale, rng.normal(0.0, 0.5, 30)
        found.append(density_of_states(frequency, spectra, log_w, 6))
        naive.append(6.0 / (0.5 * spectra.sum(1).mean()) * spectra.std(0, ddof=1) / 30**0.5)
    spread = np.std([each.value for each in found], axis=0)
    told = np.mean([each.stderr for each in found], axis=0)
    assert np.abs(told / spread - 1.0).max() < 0.12
    # Mutation: without weights, and as if the power of all bins together were known.
    assert np.abs(np.mean(naive, axis=0) / spread - 1.0).max() > 0.12


def test_wrong_frames_are_refused():
    for shape in ((2, 5, 3), (2, 2, 3)):
        with pytest.raises(ValueError, match="even number of frames"):
            velocity_spectra(np.zeros(shape), 1.0)


@pytest.fixture(scope="module")
def octahedron():
    built = build_system(SystemSettings(card="lj_cluster", particles=6))
    provider = TorchPairEnergy(built.system, built.potential)
    start = 0.79 * torch.cat([torch.eye(3), -torch.eye(3)]).double()
    x, energy = optimise(provider, start, 1e-8)
    return provider, hessian(provider, EckartFrame(x, (0,) * 6, 1e-3), energy, 1e-4)


def run(octahedron, temperature, masses, states=24, periods=24, steps=24, leaps=3):
    """Phases of LJ6 trajectories from the harmonic ensemble, the start, and the time between frames."""
    provider, minimum = octahedron
    generator, beta = torch.Generator().manual_seed(11), 1.0 / temperature
    x = minimum.frame.to_cartesian(minimum.sample(states, beta, generator))

    def evaluate(x):
        found = provider.evaluate(x, ("energy", "forces"))
        return found.energy, found.forces, found.ok

    energy, forces, ok = evaluate(x)
    start = Phase(x, rest_momenta(x, masses, generator), energy, forces, ok)
    dt = 2.0 * math.pi / float(minimum.angular_frequencies(masses)[-1]) / steps
    phases = trajectory(evaluate, start, beta, dt, masses, leaps, periods * steps // leaps)
    return start, phases, dt * leaps


MIXED = torch.tensor([1.0, 1.0, 3.0, 1.0, 1.0, 2.0], dtype=torch.float64)


def test_neither_drift_nor_rotation_and_as_many_components_as_vibrations(octahedron):
    start, phases, _ = run(octahedron, 0.05, MIXED, periods=4)
    root, centre = MIXED.sqrt()[:, None], MIXED[:, None] / MIXED.sum()
    for phase in (start, phases[-1]):
        x = phase.positions - (centre * phase.positions).sum(1, keepdim=True)
        assert (root * phase.momenta).sum(1).abs().max() < 1e-10
        assert torch.linalg.cross(x, root * phase.momenta).sum(1).abs().max() < 1e-10
    x = start.positions[:1].expand(4000, 6, 3)
    squares = rest_momenta(x, MIXED, torch.Generator().manual_seed(2)).square().sum((1, 2))
    # χ² of 12 degrees of freedom; of 15 where rotation is left in
    assert abs(float(squares.mean()) - 12.0) < 4.0 * (24.0 / 4000) ** 0.5
    assert float(squares.var()) == pytest.approx(24.0, rel=0.12)


def test_energy_is_conserved_to_second_order_in_the_step(octahedron):
    masses, gaps = torch.ones(6, dtype=torch.float64), []
    for steps in (24, 48):
        start, phases, _ = run(octahedron, 0.05, masses, periods=12, steps=steps, leaps=steps // 8)
        change = torch.stack([total_energy(phase, 20.0) for phase in phases]) - total_energy(start, 20.0)
        gaps.append(float(change.square().mean().sqrt()))
    assert gaps[0] < 0.2  # of some 12 kT
    assert 3.0 < gaps[0] / gaps[1] < 5.0


@pytest.mark.parametrize("masses", [torch.ones(6, dtype=torch.float64), MIXED])
def test_a_cold_cluster_has_its_harmonic_lines(octahedron, masses):
    """LJ6 at a thousandth of its binding: each group of lines holds as many vibrations as the mass-weighted Hessian."""
    start, phases, interval = run(octahedron, 1e-3, masses)
    turned = [turned_back(phase.momenta, phase.positions, start.positions, masses).flatten(1) for phase in phases]
    frequency, spectra = velocity_spectra(torch.stack(turned, 1).numpy(), interval)
    curve = density_of_states(frequency, spectra, log_rest_weight(start.positions, masses).numpy(), 12)

    def count(reference):
        """Cumulative numbers of vibrations, by the density and by the lines, at the widest gaps between lines."""
        lines = np.sort(octahedron[1].angular_frequencies(reference).numpy()) / (2.0 * math.pi)
        gaps = np.argsort(np.diff(lines))[-3:]
        edges = 0.5 * (lines[gaps] + lines[gaps + 1])
        below = [(frequency < edge) for edge in edges]
        totals = np.array([curve.value[rows].sum() * frequency[1] for rows in below])
        errors = np.array([spectral_error(spectra, rows, frequency[1]) for rows in below])
        return totals, errors, gaps + 1

    totals, errors, expected = count(masses)
    assert errors.max() < 0.5
    # A line's wings under Hann's window, 1.5 bins wide, may reach over an edge.
    assert (np.abs(totals - expected) < 4.0 * errors + 0.05).all()
    wrong, errors, expected = count(2.0 * masses)  # mutation
    assert (np.abs(wrong - expected) > 4.0 * errors + 0.05).any()


def spectral_error(spectra, rows, width):
    """Standard error of the number of vibrations in some bins, between trajectories."""
    share = spectra[:, rows].sum(1) / spectra.sum(1).mean()
    whole = spectra.sum(1) / spectra.sum(1).mean()
    return 12.0 * float(np.std(share - share.mean() * whole, ddof=1)) / len(spectra) ** 0.5


def test_vectors_are_turned_back_with_their_particles():
    """A body that turns: what is fixed to it stays the same."""
    generator = torch.Generator().manual_seed(4)
    reference, vectors = torch.randn(2, 3, 6, 3, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, 3, generator=generator, dtype=torch.float64)).Q
    turn = turn * torch.linalg.det(turn)[:, None, None]
    moved = reference @ turn + 2.0
    torch.testing.assert_close(turned_back(vectors @ turn, moved, reference, MIXED), vectors, atol=1e-10, rtol=0)


def test_the_ensemble_without_rotation_is_stationary():
    """A soft triangle of springs: its mean size stays what it is at the start, and without the weight it does not."""
    stiffness, states = 12.0, 8_000
    generator = torch.Generator().manual_seed(8)
    sides = 1.0 + torch.randn(2 * states, 3, generator=generator, dtype=torch.float64) / stiffness**0.5
    a, b, c = sides.T
    # dx = 8π² abc da db dc for triangles: states of e^{−U} have the weight abc.
    closed = (sides > 0).all(1) & (2.0 * sides.max(1).values < sides.sum(1))
    a, b, c = sides[closed][:states].T
    along = (a.square() + b.square() - c.square()) / (2.0 * a)
    zero = torch.zeros_like(a)
    corner = torch.stack([along, (b.square() - along.square()).sqrt(), zero], 1)
    x = torch.stack([torch.zeros_like(corner), torch.stack([a, zero, zero], 1), corner], 1)

    def evaluate(x):
        x = x.detach().requires_grad_(True)
        pairs = torch.stack([x[:, 0] - x[:, 1], x[:, 1] - x[:, 2], x[:, 2] - x[:, 0]], 1)
        energy = 0.5 * stiffness * (pairs.norm(dim=2) - 1.0).square().sum(1)
        (slope,) = torch.autograd.grad(energy.sum(), x)
        return energy.detach(), -slope, torch.ones(len(x), dtype=torch.bool)

    masses = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    energy, forces, ok = evaluate(x)
    start = Phase(x, rest_momenta(x, masses, generator), energy, forces, ok)
    phases = trajectory(evaluate, start, 1.0, 0.02, masses, 10, 15)

    def size(x):
        return (x[:, None] - x[:, :, None]).square().sum((1, 2, 3))

    later = torch.stack([size(phase.positions) for phase in phases[5:]]).mean(0)

    def growth(log_w):
        w = torch.softmax(log_w, 0)
        gap = later - size(start.positions)
        mean = (w * gap).sum()
        return float(mean), float((w * (gap - mean)).square().sum().sqrt())

    volume = (a * b * c).log()
    mean, error = growth(volume + log_rest_weight(x, masses))
    assert error < 0.05 and abs(mean) < 4.0 * error
    mean, error = growth(volume)  # mutation
    assert abs(mean) > 4.0 * error


def test_trajectories_sent_back_keep_the_ensemble_of_a_basin():
    """A particle in a well, cut at 0.3: the mean of the half-normal law stays; without a reversal it does not."""
    states, border = 20_000, 0.3
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4 * states, 1, 1, generator=generator, dtype=torch.float64)
    x = x[x[:, 0, 0] > border][:states]

    def evaluate(x):
        return 0.5 * x.square().sum((1, 2)), -x, torch.ones(len(x), dtype=torch.bool)

    def moved(reverse):
        energy, forces, ok = evaluate(x)
        p = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        phase, steps = Phase(x, p, energy, forces, ok), torch.full((len(x),), 0.1, dtype=torch.float64)
        for _ in range(100):
            after = leapfrog(evaluate, FreeSpace(1), phase, 1.0, steps, 1)
            inside = after.positions[:, 0, 0] > border
            going = confined(phase, after, inside)
            p = going.momenta if reverse else torch.where(inside[:, None, None], after.momenta, phase.momenta)
            phase = Phase(going.positions, p, going.energies, going.forces, going.ok)
        assert bool((phase.positions > border).all())
        return phase.positions

    expected, error = float(x.mean()), float(x.std()) / len(x) ** 0.5
    assert abs(float(moved(True).mean()) - expected) < 4.0 * 2.0**0.5 * error
    assert abs(float(moved(False).mean()) - expected) > 4.0 * 2.0**0.5 * error  # mutation
