"""Kernels held to enumeration, to the torch energies, to each other and to exact draws."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from particlegen.energy import TorchPairEnergy
from particlegen.energy.formulas import PairPotential
from particlegen.geometry import FlatTorus, FreeSpace
from particlegen.sampling.acceptance import acceptance_probability, exchange_log_ratio, move_log_ratio
from particlegen.sampling.generator import next_uint64, seeded_state, uniform
from particlegen.sampling.kernels import advance, full_energies
from particlegen.sampling.model import build_model, pack, unpack
from particlegen.settings import InputError
from particlegen.system import ParticleSystem

IPL = PairPotential("ipl", (1.0, 0.0, -(0.4**12), 0.0, 0.0), ((1.0, 1.2), (1.2, 1.4)), ((1.0, 1.0), (1.0, 1.0)), 2.5)
SMOOTH = (4.0, -4.0, 4 * 0.040490237952, 4 * -0.00970155098112, 4 * 0.0006201261686784)
KA = PairPotential("ka", SMOOTH, ((1.0, 0.8), (0.8, 0.88)), ((1.0, 1.5), (1.5, 0.5)), 2.5)
C = (-28 / 1.25**12, 48 / 1.25**14, -21 / 1.25**16)
SOFT = PairPotential("soft", (1.0, 0.0, *C), ((1.0,),), ((1.0,),), 1.25, nonadditivity=0.2)


def mixture(n: int, lengths: tuple[float, ...] | None = None, dim: int = 2, density: float = 0.5) -> ParticleSystem:
    lengths = lengths or ((n / density) ** (1 / dim),) * dim
    return ParticleSystem("mix", FlatTorus(lengths), tuple(int(i >= n // 2) for i in range(n)), ("A", "B"))


def polydisperse(n: int, length: float) -> ParticleSystem:
    diameters = tuple(np.random.default_rng(3).uniform(0.73, 1.6, n).tolist())
    return ParticleSystem("poly", FlatTorus((length,) * 3), (0,) * n, ("A",), diameters)


def spread(system: ParticleSystem, seed: int, frames: int = 1) -> np.ndarray:
    """Positions near a grid: energies of an ordinary size, all different."""
    rng = np.random.default_rng(seed)
    side = math.ceil(system.n_particles ** (1 / system.dim))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * system.dim, indexing="ij"), -1).reshape(-1, system.dim) / side
    sites = np.stack([grid[rng.permutation(len(grid))[: system.n_particles]] for _ in range(frames)])
    lengths = np.asarray(system.torus.lengths)
    return (sites * lengths + rng.normal(scale=0.05, size=sites.shape)) % lengths


def run(model, x, beta=1.0, step=0.2, swap=0.0, frames=1, sweeps=1, seed=1):
    """`advance` for a single temperature; x `(1, 3, width)` changes in place."""
    ladder = (np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros((0, 2), np.int64), np.zeros(2, np.int64))
    counters = np.zeros((1, 4), np.int64)
    stream = seeded_state(seed)
    rows, energies, drift = advance(
        model, x, np.array([beta]), np.array([step]), swap, frames, sweeps, 10, 0, stream, ladder, counters
    )
    return unpack(model, rows), energies[:, 0], drift, counters[0]


def test_generator_gives_the_published_sequence():
    state = np.array([1, 2, 3, 4], np.uint64)
    expected = [41943041, 58720359, 3588806011781223, 3591011842654386, 9228616714210784205]
    assert [int(next_uint64(state)) for _ in expected] == expected


def test_generator_is_uniform():
    state = seeded_state(5)
    u = np.array([uniform(state) for _ in range(20_000)])
    assert u.min() >= 0.0 and u.max() < 1.0
    assert stats.kstest(u, "uniform").pvalue > 1e-4


# Enumeration: every move on a system of a few states. `rule` is the acceptance under test.


def stationary_error(energies: np.ndarray, beta: float, proposal: np.ndarray, rule) -> float:
    """‖πK − π‖ of the kernel that `rule` makes of a symmetric proposal matrix."""
    n = len(energies)
    kernel = np.zeros((n, n))
    for a, b in itertools.permutations(range(n), 2):
        kernel[a, b] = proposal[a, b] * rule(move_log_ratio(beta, energies[b] - energies[a]))
    kernel += np.diag(1.0 - kernel.sum(axis=1))
    pi = np.exp(-beta * energies)
    pi /= pi.sum()
    return float(np.abs(pi @ kernel - pi).max())


MUTANTS = {
    "always": lambda log_ratio: 1.0,
    "ratio upside down": lambda log_ratio: min(1.0, math.exp(-log_ratio)),
    "half the energy": lambda log_ratio: min(1.0, math.exp(0.5 * log_ratio)),
}


def test_displacements_keep_the_boltzmann_law_and_mutants_do_not():
    energies = np.array([0.0, 0.3, 1.7, -0.8, 0.9])
    ring = np.zeros((5, 5))
    for a in range(5):
        ring[a, (a + 1) % 5] = ring[a, (a - 1) % 5] = 0.5
    assert stationary_error(energies, 1.3, ring, acceptance_probability) < 1e-12
    for name, mutant in MUTANTS.items():
        assert stationary_error(energies, 1.3, ring, mutant) > 1e-3, name


def swap_kernel_error(rule, proposal) -> float:
    """Two particles A and one B on three sites with unequal neighbours: swaps of A and B only, drawn from labels."""
    pair = {("A", "A"): 0.4, ("A", "B"): 1.9}
    distance = {(0, 1): 1.0, (1, 2): 1.7, (0, 2): 2.3}
    states = list(itertools.permutations(range(3)))  # site of A1, A2, B
    labels = ("A", "A", "B")

    def energy(state):
        total = 0.0
        for i, j in itertools.combinations(range(3), 2):
            a, b = sorted((state[i], state[j]))
            total += pair[tuple(sorted((labels[i], labels[j])))] * distance[(a, b)]
        return total

    energies = np.array([energy(state) for state in states])
    matrix = np.zeros((6, 6))
    for a, state in enumerate(states):
        for i, j in ((0, 2), (1, 2)):
            new = list(state)
            new[i], new[j] = new[j], new[i]
            matrix[a, states.index(tuple(new))] += proposal(state, i, j)
    return stationary_error(energies, 0.7, matrix, rule)


def test_swaps_keep_the_boltzmann_law_and_mutants_do_not():
    assert swap_kernel_error(acceptance_probability, lambda state, i, j: 0.5) < 1e-12
    for name, mutant in MUTANTS.items():
        assert swap_kernel_error(mutant, lambda state, i, j: 0.5) > 1e-3, name
    # A pair picked by where the particles are would need its proposal ratio.
    assert swap_kernel_error(acceptance_probability, lambda state, i, j: 0.3 + 0.2 * (state[i] == 0)) > 1e-3


def exchange_error(rule) -> float:
    energies, betas = np.array([0.0, 0.7, 2.1]), np.array([2.0, 0.5])
    states = list(itertools.product(range(3), repeat=2))
    pi = np.array([math.exp(-betas[0] * energies[a] - betas[1] * energies[b]) for a, b in states])
    pi /= pi.sum()
    kernel = np.eye(9)
    for k, (a, b) in enumerate(states):
        p = rule(exchange_log_ratio(betas[0], betas[1], energies[a], energies[b]))
        kernel[k, k] -= p
        kernel[k, states.index((b, a))] += p
    return float(np.abs(pi @ kernel - pi).max())


def test_exchanges_keep_both_boltzmann_laws_and_mutants_do_not():
    assert exchange_error(acceptance_probability) < 1e-12
    for name, mutant in MUTANTS.items():
        assert exchange_error(mutant) > 1e-3, name


def test_a_nan_energy_is_never_accepted():
    assert acceptance_probability(math.nan) == 0.0
    assert acceptance_probability(-math.inf) == 0.0


# Energies


SYSTEMS = {
    "ipl n10, truncated image": (mixture(10), IPL, False),
    "ipl rectangle": (mixture(24, (5.0, 9.6)), IPL, False),
    "ka 3d": (mixture(40, dim=3, density=1.2), KA, False),
    "ka 3d cells": (mixture(500, (8.0, 7.6, 9.0), dim=3), KA, True),
    "ipl cells": (mixture(300, (20.0, 30.0)), IPL, True),
    "polydisperse": (polydisperse(60, 4.0), SOFT, False),
    "polydisperse cells": (polydisperse(300, 6.7), SOFT, True),
    "line": (mixture(6, (14.0,), dim=1), IPL, False),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_energies_equal_those_of_the_torch_engine(name):
    system, potential, cells = SYSTEMS[name]
    model = build_model(system, potential, cells)
    assert model.cells == cells
    positions = spread(system, 7, frames=3)
    expected = TorchPairEnergy(system, potential).evaluate(torch.from_numpy(positions)).energy.numpy()
    np.testing.assert_allclose(full_energies(model, pack(model, positions)), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "name", ["ipl n10, truncated image", "ka 3d cells", "ipl cells", "polydisperse", "polydisperse cells"]
)
def test_running_energy_follows_the_full_one(name):
    system, potential, cells = SYSTEMS[name]
    model = build_model(system, potential, cells)
    x = pack(model, spread(system, 2))
    swap = 0.3 if model.kinds > 1 else 0.0
    _, _, drift, counters = run(model, x, beta=0.5, swap=swap, frames=3, sweeps=5)
    assert drift < 1e-10
    assert counters[1] > 30 and (swap == 0.0 or counters[3] > 0)


@pytest.mark.parametrize("name", ["ka 3d cells", "ipl cells", "polydisperse cells"])
def test_cells_and_all_pairs_walk_the_same_trajectory(name):
    system, potential, _ = SYSTEMS[name]
    ends = []
    for cells in (True, False):
        model = build_model(system, potential, cells)
        x = pack(model, spread(system, 2))
        positions, energies, _, counters = run(model, x, beta=0.5, step=0.5, swap=0.2, sweeps=3)
        ends.append((positions, energies, counters))
    np.testing.assert_allclose(ends[0][0], ends[1][0], atol=1e-9)
    np.testing.assert_allclose(ends[0][1], ends[1][1], rtol=1e-9)
    np.testing.assert_array_equal(ends[0][2], ends[1][2])


def test_windows_keep_the_running_energy_and_reach_every_particle():
    system = mixture(600, (30.0, 40.0))
    model = build_model(system, IPL, True, window=3)
    start = spread(system, 2)
    positions, _, drift, counters = run(model, pack(model, start), beta=1e-9, step=5.0, swap=0.1, frames=4, sweeps=20)
    assert drift < 1e-8 and counters[0] + counters[2] == 4 * 20 * 600 and 0 < counters[2] == 4 * 20 * 60
    assert (positions[-1] != start[0]).any(axis=-1).all()


def test_cells_that_overflow_are_built_again():
    # Nearly free particles pile up: hot, long steps, from an even start.
    system = mixture(300, (20.0, 30.0))
    model = build_model(system, IPL, True)
    x = pack(model, spread(system, 2))
    _, _, drift, _ = run(model, x, beta=1e-9, step=5.0, swap=0.1, frames=4, sweeps=20)
    assert drift < 1e-8


def test_a_cell_list_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="three cutoffs"):
        build_model(mixture(10), IPL, cells=True)


def test_free_space_holds_particles_in_its_ball():
    system = ParticleSystem("drop", FreeSpace(3, radius=1.5), (0,) * 4, ("A", "B"))
    model = build_model(system, IPL)
    start = np.array([[[0.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]])
    positions, energies, drift, counters = run(model, pack(model, start), step=1.0, frames=200, sweeps=5)
    radii = np.linalg.norm(positions, axis=-1)
    assert 1.2 < radii.max() <= 1.5 and 0 < counters[1] < counters[0] and drift < 1e-10
    expected = TorchPairEnergy(system, IPL).evaluate(torch.from_numpy(positions)).energy.numpy()
    np.testing.assert_allclose(energies, expected, rtol=1e-11)


# Rank test (Gandy & Scott 2020): a chain through an exact draw, which stands at a random place in it.


def exact_draws(system: ParticleSystem, beta: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Boltzmann draws by rejection from uniform positions, exact since U ≥ 0 up to the shift of order 1e-5."""
    model, kept = build_model(system, IPL), []
    while sum(map(len, kept)) < n:
        x = rng.random((20_000, system.n_particles, 2)) * np.asarray(system.torus.lengths)
        energy = full_energies(model, pack(model, x))
        kept.append(x[rng.random(len(x)) < np.exp(-beta * energy)])
    return np.concatenate(kept)[:n]


def rank_p_value(swap: float, beta_of_kernel: float, window: int = 0) -> float:
    beta, length, rng = 1.0, 9, np.random.default_rng(11)
    system = mixture(10, (10.6, 10.6)) if window else mixture(3, (3.5, 3.0))
    model = build_model(system, IPL, cells=window > 0, window=window)
    ranks = []
    for k, start in enumerate(exact_draws(system, beta, 1000, rng)):
        before = int(rng.integers(length + 1))
        series = [full_energies(model, pack(model, start[None]))[0]]
        # The kernel is reversible, so its backward run is a forward run.
        for part, frames in enumerate((before, length - before)):
            x = pack(model, start[None])
            series.extend(run(model, x, beta_of_kernel, 0.5, swap, frames, 1, seed=2 * k + part)[1] if frames else ())
        energies = np.array(series) + rng.normal(scale=1e-9, size=len(series))  # ties of rejected moves, broken
        ranks.append(int((energies[1:] < energies[0]).sum()))
    return float(stats.chisquare(np.bincount(ranks, minlength=length + 1)).pvalue)


@pytest.mark.parametrize(("swap", "window"), [(0.0, 0), (0.5, 0), (0.0, 1)])
def test_ranks_of_exact_draws_are_uniform_and_a_wrong_temperature_shows(swap, window):
    assert rank_p_value(swap, 1.0, window) > 1e-3
    assert rank_p_value(swap, 2.5, window) < 1e-6
