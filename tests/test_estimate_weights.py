"""Importance weights and free energies against closed forms, with coverage of the quoted errors."""

import math

import numpy as np
import pytest

from particlegen import estimate
from particlegen.estimate import Estimate

REPEATS, SIZE, WELL = 4000, 400, 1.5


def harmonic(rng, size, stiffness=WELL):
    """x ~ N(0, 1) weighted to exp(−K x²/2): light tails for K > 1; Z = √(2π/K), ⟨x²⟩ = 1/K."""
    x = rng.normal(size=size)
    log_q = -0.5 * x**2 - 0.5 * math.log(2 * math.pi)
    return x, estimate.log_weights(log_q, 0.5 * stiffness * x**2, 1.0)


def coverage(quantity, truth):
    """Share of 4,000 seeded repeats whose 95 % interval holds the truth; 4 sigma of that share is 1.4 %."""
    rng = np.random.default_rng(11)
    found = [quantity(*harmonic(rng, SIZE)) for _ in range(REPEATS)]
    return np.mean([abs(one.value - truth) < 1.959964 * one.stderr for one in found])


def covers(quantity, truth):
    return abs(coverage(quantity, truth) - 0.95) < 0.014


FREE_ENERGY = -0.5 * math.log(2 * math.pi / WELL)


def test_free_energy_intervals_cover():
    assert covers(lambda x, log_w: estimate.free_energy_excess(log_w, 0.0), FREE_ENERGY)
    assert covers(lambda x, log_w: estimate.free_energy_excess(log_w, 0.0, "jackknife"), FREE_ENERGY)


def test_reweighted_mean_intervals_cover():
    assert covers(lambda x, log_w: estimate.reweighted_mean(log_w, x), 0.0)
    assert covers(lambda x, log_w: estimate.reweighted_mean(log_w, x**2), 1 / WELL)


def test_errors_without_their_weight_term_do_not_cover():
    def unweighted_mean_error(x, log_w):
        mean = estimate.reweighted_mean(log_w, x)
        return Estimate(mean.value, float(x.std()) / math.sqrt(SIZE))

    def uncentred(x, log_w):
        w = estimate.normalised_weights(log_w)
        return Estimate(estimate.free_energy_excess(log_w, 0.0).value, math.sqrt(w @ w))

    assert not covers(unweighted_mean_error, 0.0)
    assert not covers(uncentred, FREE_ENERGY)


def test_heat_capacity_of_harmonic_oscillators():
    """U of 12 dimensions under exp(−βU) has var(U) = 6/β²: c = 6/N k_B; delta and bootstrap errors agree."""
    rng, beta = np.random.default_rng(5), 2.0
    values, errors = [], []
    for _ in range(300):
        x = rng.normal(size=(600, 12)) * math.sqrt(1 / (0.9 * beta))
        energy = 0.5 * np.sum(x**2, axis=1)
        found = estimate.reweighted_heat_capacity(-0.1 * beta * energy, energy, beta, 4)
        values.append(found.value)
        errors.append(found.stderr)
    assert abs(np.mean(values) - 1.5) < 4 * np.std(values) / math.sqrt(300)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)
    boot = estimate.reweighted_heat_capacity(
        -0.1 * beta * energy, energy, beta, 4, bootstrap=400, generator=np.random.default_rng(0)
    )
    assert boot.value == found.value and boot.stderr == pytest.approx(found.stderr, rel=0.2)
    assert "bootstrap" in boot.method and boot.unit == "k_B"
    with pytest.raises(ValueError, match="generator"):
        estimate.reweighted_heat_capacity(-energy, energy, beta, 4, bootstrap=10)


def test_effective_sample_sizes():
    assert estimate.ess_per_sample(np.full(7, -900.0)) == pytest.approx(1.0)
    assert estimate.ess_per_sample(np.array([800.0, -np.inf, -np.inf, -np.inf])) == pytest.approx(0.25)
    rng = np.random.default_rng(2)
    _, log_w = harmonic(rng, 400_000)
    exact = math.sqrt(2 * WELL - 1) / WELL
    assert estimate.ess_per_sample(log_w) == pytest.approx(exact, abs=0.004)
    # The same number from samples of the target: x ~ N(0, 1/K).
    x = rng.normal(size=400_000) / math.sqrt(WELL)
    log_w = -0.5 * WELL * x**2 + 0.5 * x**2 + 37.0
    assert estimate.forward_ess(log_w) == pytest.approx(exact, abs=0.004)


def test_forward_ess_sees_the_mode_that_samples_of_q_miss():
    """q covers one of two modes: its own samples see ESS/n = 1, the reference does not."""
    log_w_own = np.zeros(1000)
    log_w_reference = np.concatenate([np.zeros(500), np.full(500, 40.0)])
    assert estimate.ess_per_sample(log_w_own) == pytest.approx(1.0)
    assert estimate.forward_ess(log_w_reference) < 1e-16
    assert estimate.forward_ess(np.array([0.0, np.inf])) == 0.0


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_pareto_k_of_pareto_tails(shape):
    """k̂ over 50 seeded repeats scatters about the true shape, shrunk towards 0.5 by PSIS's prior of 10 samples."""
    rng = np.random.default_rng(8)
    found = [estimate.pareto_k(-shape * np.log(rng.random(10_000))) for _ in range(50)]
    tail = 300
    expected = (shape * tail + 5) / (tail + 10)
    assert abs(np.mean(found) - expected) < 4 * np.std(found) / math.sqrt(50) + 0.01
    wrong = [estimate.pareto_k(-2 * shape * np.log(rng.random(10_000))) for _ in range(50)]
    assert abs(np.mean(wrong) - expected) > 4 * np.std(wrong) / math.sqrt(50) + 0.01


def test_pareto_k_at_its_limits():
    rng = np.random.default_rng(1)
    assert estimate.pareto_k(np.zeros(1000)) == -math.inf
    assert estimate.pareto_k(np.arange(10.0)) == math.inf
    assert estimate.pareto_k(np.concatenate([np.full(990, -np.inf), np.zeros(10)])) < 0
    assert estimate.pareto_k(rng.normal(size=5000) * 500) > 1.0
    assert estimate.pareto_k(rng.uniform(-1, 0, size=5000)) < 0.3
    log_w = rng.normal(size=5000)
    assert estimate.pareto_k(log_w + 1e6) == pytest.approx(estimate.pareto_k(log_w), abs=1e-6)


def test_samples_without_energy_weigh_nothing_and_count():
    log_w = estimate.log_weights(np.zeros(4), np.array([1.0, math.nan, math.inf, 1.0]), 2.0)
    assert list(log_w) == [-2.0, -math.inf, -math.inf, -2.0]
    assert estimate.ess_per_sample(log_w) == pytest.approx(0.5)
    mean = estimate.reweighted_mean(log_w, np.array([1.0, math.nan, math.inf, 3.0]))
    assert mean.value == 2.0
    assert estimate.free_energy_excess(log_w, 0.0).value == pytest.approx(2 + math.log(2))
    for wrong in (np.array([0.0, math.nan]), np.array([math.inf, 0.0]), np.full(3, -math.inf), np.zeros(1)):
        with pytest.raises(ValueError, match="weight"):
            estimate.normalised_weights(wrong)


def test_discard_rules():
    reference = np.array([1.0, 2.0, 3.0])
    energy = np.array([5.9, 6.1, math.nan, math.inf, -5.0])
    assert estimate.discard_fraction(energy, reference, "ipl") == pytest.approx(3 / 5)
    assert estimate.discard_fraction(np.array([11.9, 12.1]), reference, "gaussian") == 0.5


def test_resampling_draws_by_weight():
    rng = np.random.default_rng(3)
    log_w = np.array([-np.inf, math.log(0.1), math.log(0.6), math.log(0.3), -np.inf])
    drawn = estimate.resample(log_w, 1000, rng)
    assert list(np.bincount(drawn, minlength=5)) == [0, 100, 600, 300, 0]
    counts = np.array([np.bincount(estimate.resample(log_w, 7, rng), minlength=5) for _ in range(4000)])
    w = estimate.normalised_weights(log_w)
    assert np.all(np.abs(counts - 7 * w) < 1)
    assert np.all(np.abs(counts.mean(axis=0) - 7 * w) < 4 * np.sqrt(0.25 / 4000))
    same = [estimate.resample(log_w, 7, np.random.default_rng(1)) for _ in range(2)]
    assert np.array_equal(*same)


def test_free_energy_of_the_uniform_base():
    """q uniform in a box of volume V with no energy: F_ex = 0 exactly, F = −N ln V + Σ ln N_s!."""
    n, volume = 5, 3.0
    excess = estimate.free_energy_excess(np.full(100, n * math.log(volume)), -n * math.log(volume))
    assert excess.value == pytest.approx(0.0, abs=1e-12) and excess.stderr == pytest.approx(0.0, abs=1e-12)
    total = estimate.free_energy_total(excess, volume, (2, 3))
    assert total.value == pytest.approx(-5 * math.log(3) + math.log(2) + math.log(6))
    one = np.concatenate([np.full(99, -np.inf), [0.0]])
    assert estimate.free_energy_excess(one, 0.0).stderr == pytest.approx(1.0, rel=0.01)
    assert estimate.free_energy_excess(one, 0.0, "jackknife").stderr > 1.0


def wells(rng, stiffness, size):
    return [rng.normal(size=size) / math.sqrt(k) for k in stiffness]


def test_bar_between_harmonic_wells_covers_ln_2():
    rng, hits, values = np.random.default_rng(4), 0, []
    for _ in range(400):
        x0, x1 = wells(rng, (0.5, 2.0), 300)
        found = estimate.bar(0.75 * x0**2, -0.75 * x1**2)
        assert found.ok and not found.warnings and 0.3 < found.overlap < 1
        values.append(found.value)
        hits += abs(found.value - math.log(2)) < 1.959964 * found.stderr
    assert abs(np.mean(values) - math.log(2)) < 4 * np.std(values) / 20
    assert abs(hits / 400 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)


def test_bar_overlap_is_that_of_pymbar():
    pymbar = pytest.importorskip("pymbar")
    x0, x1 = wells(np.random.default_rng(4), (0.5, 2.0), 300)
    forward, reverse = 0.75 * x0**2, -0.75 * x1[:200] ** 2
    assert estimate.bar(forward, reverse).overlap == pytest.approx(pymbar.bar_overlap(forward, reverse), rel=1e-6)


def test_mbar_over_harmonic_wells():
    stiffness = np.array([0.5, 1.0, 1.5, 2.0])
    exact = [0.0, 0.346574, 0.549306, 0.693147]
    samples = np.concatenate(wells(np.random.default_rng(9), stiffness, 4000))
    found = estimate.mbar(0.5 * stiffness[:, None] * samples**2, np.full(4, 4000))
    assert found.ok and not found.warnings and found.overlap.shape == (4, 4)
    assert found.values[0] == 0 and np.all(np.abs(found.values - exact)[1:] < 4 * found.stderrs[1:])
    assert np.all(found.stderrs[1:] < 0.03)
    # The mutation: energies of the wrong wells.
    wrong = estimate.mbar(0.5 * stiffness[::-1, None] * samples**2, np.full(4, 4000))
    assert not np.all(np.abs(wrong.values - exact)[1:] < 4 * wrong.stderrs[1:])


def test_solvers_that_fail_say_so(monkeypatch):
    pymbar = pytest.importorskip("pymbar")
    x0, x1 = wells(np.random.default_rng(4), (0.5, 2.0), 100)
    far = estimate.bar(np.full(50, 300.0) + x0[:50], np.full(50, 300.0) + x1[:50])
    assert far.warnings and (not far.ok or far.overlap < 0.03)
    monkeypatch.setattr(pymbar, "bar", lambda *a, **k: {"Delta_f": 5.0, "dDelta_f": 0.1})
    silent = estimate.bar(0.75 * x0**2, -0.75 * x1**2)
    assert not silent.ok and "did not converge" in silent.warnings[0]

    class Silent:
        def __init__(self, *args, **kwargs):
            pass

        def compute_free_energy_differences(self):
            return {"Delta_f": np.array([[0.0, 3.0]] * 2), "dDelta_f": np.full((2, 2), 0.1)}

        def compute_overlap(self):
            return {"matrix": np.full((2, 2), 0.5)}

    monkeypatch.setattr(pymbar, "MBAR", Silent)
    u = 0.5 * np.array([[0.5], [2.0]]) * np.concatenate([x0, x1]) ** 2
    assert "did not converge" in estimate.mbar(u, np.array([100, 100])).warnings[0]

    def broken(*args, **kwargs):
        raise RuntimeError("singular")

    monkeypatch.setattr(pymbar, "MBAR", broken)
    failed = estimate.mbar(u, np.array([100, 100]))
    assert not failed.ok and failed.warnings == ("MBAR failed: singular",)
    with pytest.raises(ValueError, match="add up"):
        estimate.mbar(u, np.array([100, 99]))
