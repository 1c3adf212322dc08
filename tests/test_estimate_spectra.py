"""Spectra of weighted configurations, and free energies of another engine, against formulas; wrong variants fail."""

import numpy as np
import pytest

from particlegen import estimate

GRID = np.linspace(0.0, 8.0, 801)


def test_a_spectrum_keeps_the_strengths_and_the_places():
    energies, strengths = np.array([[2.0, 5.0], [3.0, 5.5]]), np.array([[0.3, 1.2], [0.1, 0.9]])
    found = estimate.broadened(energies, strengths, GRID, 0.1)
    assert np.allclose(found.sum(1) * 0.01, strengths.sum(1), rtol=1e-9)
    assert GRID[found.argmax(1)] == pytest.approx([5.0, 5.5])
    assert found[0].max() == pytest.approx(1.2 / (0.1 * np.sqrt(2 * np.pi)), rel=1e-9)
    assert estimate.complete_up_to(energies) == 5.0


def ensemble(n, seed=1):
    """Excitation energies 3 + x, strengths 1, of x normal about 0; weights that move x to 0.3."""
    x = np.random.default_rng(seed).normal(0.0, 0.3, n)
    return 3.0 + x[:, None], np.ones((n, 1)), 0.3 * x / 0.3**2


def test_weights_move_the_mean_spectrum():
    """The weighted mean is a normal line at 3.3 with the variance 0.3² + broadening²; without weights it is not."""
    energies, strengths, log_w = ensemble(4000)

    def worst(log_w):
        found = estimate.absorption(energies, strengths, log_w, GRID, 0.2)
        variance = 0.3**2 + 0.2**2
        truth = np.exp(-((GRID - 3.3) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
        near = np.abs(GRID - 3.3) < 0.6
        assert found.stderr[near].max() < 0.05 * truth.max()
        return (np.abs(found.value - truth) / found.stderr)[near].max()

    assert worst(log_w) < 4
    assert worst(np.zeros_like(log_w)) > 12


def test_the_error_of_a_mean_spectrum_is_its_spread():
    """Over 200 ensembles; the wrong variant, without weights in the error, is off by a third."""
    found = [estimate.absorption(*ensemble(100, seed), np.array([3.2]), 0.2) for seed in range(200)]
    spread = np.std([curve.value[0] for curve in found], ddof=1)
    assert abs(np.mean([curve.stderr[0] for curve in found]) / spread - 1) < 0.2


def pairs(n, seed):
    """x of a surrogate's normal law, β(U_exact − U_surrogate), β(U_other − U_exact); the shift is known.

    U_surrogate = x²/2, U_exact = (x − 0.4)²/2, U_other = 0.7 (x − 0.4)² + 5: ln(1.4)/2 + 5 in kT.
    """
    x = np.random.default_rng(seed).normal(size=n)
    exact = (x - 0.4) ** 2 / 2
    return exact - x**2 / 2, 0.7 * (x - 0.4) ** 2 + 5.0 - exact


TRUTH = np.log(1.4) / 2 + 5.0


def test_another_engine_is_reached_through_the_weights():
    first, second = pairs(3000, 2)
    found = estimate.reweighted(second, -first)
    assert found.estimate.stderr < 0.01 and found.warnings == ()
    assert found.estimate.distance(TRUTH) < 4
    # without the weights this is the shift between the wrong ensembles
    assert estimate.reweighted(second, np.zeros_like(first)).estimate.distance(TRUTH) > 4
    plain = estimate.one_sided(second).estimate
    assert estimate.reweighted(second, np.zeros_like(first)).estimate.value == pytest.approx(plain.value, abs=1e-4)


def test_the_interval_of_few_labels_holds_the_truth():
    """24 labels of a skewed law, 400 times: nine of ten intervals hold the truth; those of ± 1 error do not."""
    inside, narrow, values = [], [], []
    for seed in range(400):
        first, second = pairs(24, seed)
        found = estimate.reweighted(second, -first)
        inside.append(found.interval[0] <= TRUTH <= found.interval[1])
        narrow.append(found.estimate.distance(TRUTH) < 1)
        values.append(found.estimate.value)
    assert abs(np.mean(inside) - 0.9) < 4 * np.sqrt(0.9 * 0.1 / 400)
    assert np.mean(narrow) < 0.75
    assert abs(np.mean(values) - TRUTH) < 4 * np.std(values) / 20


def test_a_difference_by_a_constant_has_no_error():
    found = estimate.reweighted(np.full(30, 7700.25), np.random.default_rng(3).normal(size=30))
    assert found.estimate.value == pytest.approx(7700.25, rel=1e-12) and found.estimate.stderr < 1e-9


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="finite delta and log_w of one shape"):
        estimate.reweighted(np.array([1.0, np.nan]), np.zeros(2))
