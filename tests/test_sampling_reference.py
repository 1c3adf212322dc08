"""Chains, tempering, blocks, resumption, the verdict on equilibration, absolute free energies."""

import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import optimize, stats

from particlegen.energy.formulas import PairPotential
from particlegen.estimate.convergence import mean_with_correlation, statistical_inefficiency
from particlegen.geometry import FlatTorus, FreeSpace
from particlegen.sampling import (
    ReferenceSettings,
    diagnose,
    energies_by_chain,
    free_energy_by_integration,
    free_energy_by_tempering,
    sample_reference,
)
from particlegen.settings import InputError
from particlegen.system import ParticleSystem, ThermodynamicState

IPL = PairPotential("ipl", (1.0, 0.0, -(0.4**12), 0.0, 0.0), ((1.0, 1.2), (1.2, 1.4)), ((1.0, 1.0), (1.0, 1.0)), 2.5)
PAIR = ParticleSystem("pair", FlatTorus((3.0, 3.0)), (0, 1), ("A", "B"))
PAIR_ENERGY, PAIR_Q = 0.0444747, 1.934330  # by quadrature, T = 0.1


def mixture(n: int) -> ParticleSystem:
    return ParticleSystem(
        "mix", FlatTorus((math.sqrt(2 * n),) * 2), tuple(int(i >= n // 2) for i in range(n)), ("A", "B")
    )


def collect(system, temperature, settings, seed=3, **options):
    blocks = list(sample_reference(system, IPL, ThermodynamicState(temperature), settings, seed, **options))
    energies = energies_by_chain(
        np.concatenate([b.energies for b in blocks]), np.concatenate([b.chain for b in blocks])
    )
    return blocks, energies


SHORT = ReferenceSettings(chains=4, frames=48, sweeps_between_frames=5, equilibration_sweeps=720, block_frames=16)


@pytest.mark.parametrize("sampler", ["displacement", "swap", "tempering"])
def test_a_run_resumed_from_a_block_equals_the_uninterrupted_one(sampler):
    settings = SHORT.model_copy(update={"sampler": sampler})
    blocks, _ = collect(mixture(4), 1.0, settings)
    assert [b.chunk for b in blocks] == [0, 1, 2] and settings.chunks == 3
    rest, _ = collect(mixture(4), 1.0, settings, start_chunk=1, resume_from=blocks[0].state)
    for a, b in zip(blocks[1:], rest, strict=True):
        assert a.positions.tobytes() == b.positions.tobytes()
        assert a.energies.tobytes() == b.energies.tobytes() and a.energy_calls == b.energy_calls
        assert all(a.state[name].tobytes() == b.state[name].tobytes() for name in a.state)


def test_the_frames_do_not_depend_on_the_workers():
    alone, _ = collect(mixture(4), 1.0, SHORT)
    processes = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
    for executor in (ThreadPoolExecutor(3), processes):
        with executor:
            shared, _ = collect(mixture(4), 1.0, SHORT, executor=executor)
        assert all(a.positions.tobytes() == b.positions.tobytes() for a, b in zip(alone, shared, strict=True))


def test_another_seed_gives_other_frames():
    one, _ = collect(mixture(4), 1.0, SHORT)
    two, _ = collect(mixture(4), 1.0, SHORT, seed=4)
    assert not np.array_equal(one[0].positions, two[0].positions)


def test_blocks_are_bounded_and_come_as_they_are_made():
    settings = ReferenceSettings(
        chains=10, frames=100_000, sweeps_between_frames=1, equilibration_sweeps=72, block_frames=500
    )
    told = []
    blocks = sample_reference(mixture(44), IPL, ThermodynamicState(1.0), settings, 1, events=told.append)
    first, second = next(blocks), next(blocks)
    assert settings.chunks == 200 and first.positions.shape == second.positions.shape == (500, 44, 2)
    assert np.bincount(first.chain).tolist() == [50] * 10
    assert first.positions.min() >= 0.0 and first.positions.max() < math.sqrt(88)
    assert told[0].kind == "progress" and told[0].fields["done"] == 500 and told[0].fields["total"] == 100_000


def test_energy_calls_count_sweeps_and_swaps_of_two_particles():
    blocks, _ = collect(mixture(4), 1.0, SHORT)
    assert sum(b.energy_calls for b in blocks) == 4 * (720 + 12 * 5)
    swap = SHORT.model_copy(update={"sampler": "swap"})
    blocks, _ = collect(mixture(4), 1.0, swap)
    planned = swap.energy_calls(mixture(4), ThermodynamicState(1.0))
    assert planned == pytest.approx(4 * 780 * 1.2)
    assert sum(b.energy_calls for b in blocks) == pytest.approx(planned, rel=0.03)


@pytest.mark.parametrize("sampler", ["displacement", "swap", "tempering"])
def test_the_pair_has_the_energy_of_quadrature(sampler):
    settings = ReferenceSettings(
        sampler=sampler, chains=8, frames=16_000, sweeps_between_frames=20, equilibration_sweeps=1440
    )
    _, energies = collect(PAIR, 0.1, settings)
    mean = mean_with_correlation(energies)
    assert abs(mean.value - PAIR_ENERGY) < 4 * mean.stderr < 0.1 * PAIR_ENERGY
    # Mutation: a run at a temperature 20 % off fails the same check.
    _, energies = collect(PAIR, 0.12, settings)
    mean = mean_with_correlation(energies)
    assert abs(mean.value - PAIR_ENERGY) > 4 * mean.stderr


def slope_between(cold: np.ndarray, hot: np.ndarray) -> tuple[float, float]:
    """Maximum-likelihood slope of ln[P_cold(U)/P_hot(U)], which has to be −Δβ, and its error (Shirts 2013)."""
    u, label = np.concatenate([cold, hot]), np.repeat([1.0, 0.0], [len(cold), len(hot)])
    centre = u.mean()

    def loss(p):
        z = p[0] + p[1] * (u - centre)
        return np.logaddexp(0.0, z).sum() - label @ z

    p = optimize.minimize(loss, np.zeros(2), method="BFGS").x
    share = 1.0 / (1.0 + np.exp(-(p[0] + p[1] * (u - centre))))
    design = np.stack([np.ones_like(u), u - centre])
    covariance = np.linalg.inv((design * share * (1 - share)) @ design.T)
    return float(p[1]), float(math.sqrt(covariance[1, 1]))


def independent(energies: np.ndarray) -> np.ndarray:
    return energies[:, :: math.ceil(statistical_inefficiency(energies))].ravel()


def test_energies_at_two_temperatures_differ_by_the_boltzmann_factor():
    settings = ReferenceSettings(chains=8, frames=12_000, sweeps_between_frames=30, equilibration_sweeps=1440)
    runs = {t: independent(collect(mixture(10), t, settings)[1]) for t in (1.0, 1.2, 1.3)}
    slope, error = slope_between(runs[1.0], runs[1.2])
    delta_beta = 1.0 - 1.0 / 1.2
    assert abs(slope + delta_beta) < 3 * error < 0.2 * delta_beta
    # Mutation: frames of another temperature under the same label.
    slope, error = slope_between(runs[1.0], runs[1.3])
    assert abs(slope + delta_beta) > 3 * error


def test_swaps_displacements_and_tempering_give_one_energy_histogram():
    runs = {}
    for sampler in ("displacement", "swap", "tempering"):
        settings = ReferenceSettings(
            sampler=sampler, chains=8, frames=4000, sweeps_between_frames=30, equilibration_sweeps=1440
        )
        blocks, energies = collect(mixture(4), 1.0, settings)
        assert diagnose(energies).equilibrated
        runs[sampler] = independent(energies)
        if sampler == "swap":
            assert blocks[-1].acceptance["swap"][0] > 0.05
        if sampler == "tempering":
            assert blocks[-1].round_trips > 100 and min(blocks[-1].acceptance["exchange"]) > 0.3
            assert blocks[-1].temperatures[0] == 1.0 and np.all(np.diff(blocks[-1].temperatures) > 0)
            assert blocks[-1].ladder_energies.shape == (len(blocks[-1].energies), len(blocks[-1].temperatures))
    for sampler in ("swap", "tempering"):
        assert stats.ks_2samp(runs["displacement"], runs[sampler]).pvalue > 1e-4
    hotter = independent(collect(mixture(4), 1.15, settings)[1])
    assert stats.ks_2samp(runs["displacement"], hotter).pvalue < 1e-4


def test_free_space_is_sampled_inside_its_radius():
    system = ParticleSystem("drop", FreeSpace(3, radius=2.0), (0, 0, 1), ("A", "B"))
    blocks, _ = collect(system, 1.0, SHORT)
    assert np.linalg.norm(blocks[0].positions, axis=-1).max() <= 2.0


# The verdict


def autoregressive(chains=8, frames=2000, rho=0.5):
    x = np.random.default_rng(2).normal(size=(chains, frames))
    for t in range(1, frames):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * x[:, t]
    return x


def test_equilibrated_chains_pass():
    verdict = diagnose(autoregressive())
    assert verdict.equilibrated and verdict.reasons == ()
    assert verdict.r_hat < 1.01 and 2.0 < verdict.statistical_inefficiency < 4.5  # 3 for rho = 0.5
    assert abs(verdict.drift) < 4 * verdict.drift_stderr


def test_what_is_wrong_is_said():
    apart = autoregressive()
    apart[0] += 1.0
    drifting = autoregressive() + np.linspace(0.0, 0.6, 2000)
    short = autoregressive(frames=16)
    for series, word in ((apart, "disagree"), (drifting, "drifts"), (short, "independent frames")):
        verdict = diagnose(series)
        assert not verdict.equilibrated and any(word in reason for reason in verdict.reasons), word
        assert all("raise reference." in reason for reason in verdict.reasons)


def test_a_run_that_starts_to_record_at_once_is_found_out():
    settings = ReferenceSettings(chains=8, frames=800, sweeps_between_frames=1, equilibration_sweeps=72)
    assert not diagnose(collect(mixture(10), 0.1, settings)[1]).equilibrated


# Free energies


def test_both_routes_give_the_free_energy_of_the_pair():
    truth = -math.log(PAIR_Q / 9.0)
    settings = ReferenceSettings(chains=8, frames=4000, sweeps_between_frames=10, equilibration_sweeps=720)
    state = ThermodynamicState(0.1)
    for estimate in (
        free_energy_by_tempering(PAIR, IPL, state, settings, 5, rungs=12),
        free_energy_by_integration(PAIR, IPL, state, settings, 6, nodes=10),
    ):
        assert estimate.distance(truth) < 4 and 0 < estimate.stderr < 0.04
        # Mutation: one uniform integration too many, −ln(q/27).
        assert estimate.distance(truth + math.log(3.0)) > 4


def test_a_free_energy_needs_a_volume():
    system = ParticleSystem("drop", FreeSpace(3), (0, 1), ("A", "B"))
    with pytest.raises(InputError, match="finite volume"):
        free_energy_by_tempering(system, IPL, ThermodynamicState(1.0), SHORT, 1)


# Bad input


@pytest.mark.parametrize(
    ("section", "word"),
    [
        ({"temperatures": [1.0, 2.0]}, "tempering"),
        ({"sampler": "tempering", "temperatures": [1.0]}, "at least two"),
        ({"sampler": "tempering", "temperatures": [1.0, -2.0]}, "positive"),
        ({"swap_fraction": 0.1}, "no swaps"),
        ({"chains": 0}, "chains"),
        ({"sampler": "gibbs"}, "displacement"),
        ({"frame": 3}, "frame"),
    ],
)
def test_wrong_settings_are_refused(section, word):
    with pytest.raises(ValidationError, match=word):
        ReferenceSettings.model_validate(section)


def test_settings_that_do_not_fit_the_system_are_refused():
    one_kind = ParticleSystem("mono", FlatTorus((4.0, 4.0)), (0,) * 4, ("A", "B"))
    with pytest.raises(InputError, match="one kind"):
        collect(one_kind, 1.0, SHORT.model_copy(update={"sampler": "swap"}))
    ladder = ReferenceSettings(sampler="tempering", temperatures=(1.0, 2.0))
    with pytest.raises(InputError, match="does not hold"):
        collect(mixture(4), 1.5, ladder)
    with pytest.raises(ValueError, match="resume_from"):
        collect(mixture(4), 1.0, SHORT, start_chunk=1)
    state = collect(mixture(4), 1.0, SHORT)[0][0].state
    with pytest.raises(ValueError, match="4 chains"):
        collect(mixture(4), 1.0, SHORT.model_copy(update={"chains": 2}), start_chunk=1, resume_from=state)
    with pytest.raises(ValueError, match="lacks"):
        collect(mixture(4), 1.0, SHORT, start_chunk=1, resume_from={"positions": state["positions"]})
