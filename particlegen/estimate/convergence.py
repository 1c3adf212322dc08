"""Have the chains converged, and how many independent frames are they worth?

All functions take a scalar per frame as `(chain, frame)` float64, chains of equal length.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy import special, stats

from particlegen.estimate.result import Estimate

__all__ = ["effective_sample_size", "mean_with_correlation", "split_r_hat", "statistical_inefficiency"]

Chains = Float[np.ndarray, "chain frame"]


def _checked(chains: np.ndarray, shortest: int) -> np.ndarray:
    x = np.asarray(chains, dtype=np.float64)
    if x.ndim == 1:
        x = x[None]
    if x.ndim != 2 or x.shape[0] < 1 or x.shape[1] < shortest:
        raise ValueError(f"expected (chain, frame) with at least {shortest} frames, found shape {np.shape(chains)}")
    if not np.isfinite(x).all():
        raise ValueError(f"{int((~np.isfinite(x)).sum())} of {x.size} values are NaN or infinite; drop them first")
    return x


def _rank_normalised(x: np.ndarray) -> np.ndarray:
    """Normal scores of the pooled ranks (Vehtari et al. 2021, equation 14)."""
    ranks = stats.rankdata(x, method="average").reshape(x.shape)
    return special.ndtri((ranks - 0.375) / (x.size + 0.25))


def _r_hat(x: np.ndarray) -> float:
    n = x.shape[1]
    within = float(np.mean(np.var(x, axis=1, ddof=1)))
    between = n * float(np.var(np.mean(x, axis=1), ddof=1))
    if within == 0.0:
        # Chains that do not move: nothing to compare when they agree, stuck apart when they do not.
        return math.nan if between == 0.0 else math.inf
    return math.sqrt(((n - 1) / n * within + between / n) / within)


def split_r_hat(chains: Chains) -> float:
    """Rank-normalised split R̂, the larger of the bulk and the folded (scale) version.

    Every chain is cut into halves, so that one chain suffices and a drift within chains shows; values are replaced
    by normal scores of their pooled ranks, so that heavy tails do not hide a difference. Converged chains give
    R̂ < 1.01.

    Args:
        chains: `(chain, frame)`, at least 4 frames.

    Returns:
        R̂ ≥ about 1; NaN when every value is the same (undefined), infinite when chains are stuck at different values.

    Raises:
        ValueError: wrong shape, NaN or infinity.

    Source: Vehtari, Gelman, Simpson, Carpenter, Bürkner, Bayesian Analysis 16, 667 (2021), equations 3–4, 14.

    >>> rng = np.random.default_rng(1)
    >>> x = rng.normal(size=(4, 500))
    >>> split_r_hat(x) < 1.01 < split_r_hat(x + np.array([[0.0], [0.0], [0.0], [1.0]]))
    True
    """
    x = _checked(chains, 4)
    half = x.shape[1] // 2
    split = np.concatenate([x[:, :half], x[:, -half:]])
    bulk = _r_hat(_rank_normalised(split))
    folded = _r_hat(_rank_normalised(np.abs(split - np.median(split))))
    return float(np.nanmax([bulk, folded])) if not (math.isnan(bulk) and math.isnan(folded)) else math.nan


def _autocovariance(x: np.ndarray) -> np.ndarray:
    """Biased autocovariance of every chain about its own mean, by FFT; `(chain, frame)` indexed by lag."""
    n = x.shape[1]
    centred = x - x.mean(axis=1, keepdims=True)
    spectrum = np.fft.rfft(centred, n=2 * n, axis=1)
    return np.fft.irfft(spectrum * np.conj(spectrum), n=2 * n, axis=1)[:, :n] / n


def _pooled(x: np.ndarray) -> tuple[float, float]:
    """(marginal variance, statistical inefficiency) of chains that share one law.

    The marginal variance counts the spread of the chains' means too, so chains that have not mixed lower the number
    of independent frames instead of hiding behind their own small scatter.
    """
    m, n = x.shape
    covariance = _autocovariance(x).mean(axis=0)
    within = covariance[0] * n / (n - 1)
    variance = (n - 1) / n * within + (float(np.var(x.mean(axis=1), ddof=1)) if m > 1 else 0.0)
    scale = float(np.max(np.abs(x)))
    if variance <= (1e-14 * scale) ** 2:
        return 0.0, 1.0
    rho = 1.0 - (within - covariance * n / (n - 1)) / variance
    rho[0] = 1.0
    # Geyer's initial monotone positive sequence: sums of neighbouring pairs are positive and fall for a reversible
    # chain; the first pair that is not marks where noise begins.
    pairs = rho[: n // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0)
    pairs = np.minimum.accumulate(pairs[: negative[0]] if negative.size else pairs)
    return variance, max(1.0, float(2.0 * pairs.sum() - 1.0))


def statistical_inefficiency(series: Float[np.ndarray, " frame"] | Chains) -> float:
    """g = 1 + 2τ ≥ 1: the number of frames that carry as much as one independent frame.

    Args:
        series: `(frame,)`, or `(chain, frame)` for chains that share one law; at least 4 frames.

    Returns:
        g in frames, never below 1 (anticorrelation is not taken as a gain). 1 for a constant series.

    Raises:
        ValueError: wrong shape, NaN or infinity.

    Source: Geyer, Statistical Science 7, 473 (1992), initial monotone sequence; chains pooled as in Vehtari et al.
    (2021), equation 10.
    """
    return _pooled(_checked(series, 4))[1]


def effective_sample_size(chains: Float[np.ndarray, " frame"] | Chains) -> float:
    """Number of independent frames that the chains together are worth for their mean: frames / g.

    Arguments and errors as `statistical_inefficiency`.
    """
    x = _checked(chains, 4)
    return x.size / _pooled(x)[1]


def mean_with_correlation(chains: Float[np.ndarray, " frame"] | Chains, unit: str = "") -> Estimate:
    """Mean over all chains, with a standard error that allows for the correlation of successive frames.

    Args:
        chains: `(frame,)` or `(chain, frame)`, at least 4 frames.
        unit: unit of the values.

    Returns:
        The mean; stderr = sqrt(variance · g / frames), where both the marginal variance and g count the spread of the
        chains' means.

    Raises:
        ValueError: wrong shape, NaN or infinity.

    >>> mean_with_correlation(np.random.default_rng(0).normal(2.0, 1.0, size=(4, 1000))).distance(2.0) < 4
    True
    """
    x = _checked(chains, 4)
    variance, g = _pooled(x)
    method = f"mean of {x.shape[0]} x {x.shape[1]} correlated frames, statistical inefficiency {g:.3g}"
    return Estimate(float(x.mean()), math.sqrt(variance * g / x.size), unit, method)
