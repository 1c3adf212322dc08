"""R̂, statistical inefficiency and correlated means against known processes."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from particlegen.estimate.convergence import (
    effective_sample_size,
    mean_with_correlation,
    split_r_hat,
    statistical_inefficiency,
)
from particlegen.estimate.result import Estimate


def autoregressive(rng, phi, shape):
    """Stationary AR(1) with unit variance: statistical inefficiency (1 + phi) / (1 - phi)."""
    noise = rng.normal(size=shape) * math.sqrt(1 - phi**2)
    noise[..., 0] /= math.sqrt(1 - phi**2)
    return lfilter([1.0], [1.0, -phi], noise, axis=-1)


def test_r_hat_accepts_one_law_and_sees_location_scale_and_drift():
    rng = np.random.default_rng(3)
    chains = rng.normal(size=(8, 1000))
    assert split_r_hat(chains) < 1.01
    shifted = chains.copy()
    shifted[0] += 1.0
    assert split_r_hat(shifted) > 1.02
    wider = chains.copy()
    wider[0] *= 3.0
    assert split_r_hat(wider) > 1.02
    assert split_r_hat(chains + np.linspace(0, 1, 1000)) > 1.02
    assert split_r_hat(chains[:1] + np.linspace(0, 2, 1000)) > 1.02


def test_r_hat_is_invariant_under_monotone_maps_up_to_the_fold():
    """Ranks decide: a Cauchy tail does not hide a shifted chain."""
    rng = np.random.default_rng(4)
    chains = rng.standard_cauchy(size=(4, 2000))
    assert split_r_hat(chains) < 1.01
    chains[1] += 2.0
    assert split_r_hat(chains) > 1.05


def test_r_hat_of_stuck_chains():
    assert math.isnan(split_r_hat(np.full((3, 10), 2.0)))
    assert split_r_hat(np.repeat([[1.0], [2.0]], 10, axis=1)) > 1e6


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_statistical_inefficiency_of_an_autoregressive_process(phi):
    exact = (1 + phi) / (1 - phi)
    values = [statistical_inefficiency(autoregressive(np.random.default_rng(s), phi, (4, 4000))) for s in range(30)]
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(30)
    assert abs(mean - exact) < 4 * error + 0.03 * exact
    assert effective_sample_size(autoregressive(np.random.default_rng(0), phi, (4, 4000))) == pytest.approx(
        16000 / values[0]
    )


def test_statistical_inefficiency_agrees_with_pymbar():
    timeseries = pytest.importorskip("pymbar.timeseries")
    x = autoregressive(np.random.default_rng(5), 0.8, (20000,))
    theirs = timeseries.statistical_inefficiency(x[:4000], fast=True)
    assert statistical_inefficiency(x) == pytest.approx(theirs, rel=0.3)


def coverage(estimate):
    """Share of 4,000 seeded repeats whose 95 % interval holds the true mean 0 (16 chains of 250 frames, phi = 0.6)."""
    rng = np.random.default_rng(6)
    hits = 0
    for _ in range(4000):
        result = estimate(autoregressive(rng, 0.6, (16, 250)))
        hits += abs(result.value) < 1.959964 * result.stderr
    return hits / 4000


def test_intervals_cover():
    assert abs(coverage(mean_with_correlation) - 0.95) < 0.014


def test_intervals_that_drop_the_correlation_do_not_cover():
    def uncorrelated(x):
        return Estimate(x.mean(), x.std() / math.sqrt(x.size))

    assert abs(coverage(uncorrelated) - 0.95) > 0.014


def test_constants_and_bad_input():
    constant = mean_with_correlation(np.full((2, 50), 0.1))
    assert (constant.value, constant.stderr) == (pytest.approx(0.1), 0.0)
    assert statistical_inefficiency(np.full(20, 3.0)) == 1.0
    with pytest.raises(ValueError, match="NaN"):
        mean_with_correlation(np.array([[0.0, math.nan, 1.0, 2.0]]))
    with pytest.raises(ValueError, match="at least 4 frames"):
        statistical_inefficiency(np.zeros((2, 3)))


def test_results_are_json():
    assert Estimate(math.nan, math.inf, "kT", "m").as_dict() == {
        "value": None,
        "stderr": None,
        "unit": "kT",
        "method": "m",
    }
    assert Estimate(1.0, 0.0).distance(1.0) == 0.0
    assert Estimate(1.0, 3.0).distance(6.0, 4.0) == 1.0
