"""Importance weights: how good they are, and averages under them.

`log_w` is the logarithm of w = exp(−βU)/q for samples of the density q, `(sample,)` float64, −inf for a sample that
weighs nothing (a failed or infinite energy). Every sample counts in n, whatever it weighs.
"""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from particlegen.estimate.result import Estimate

__all__ = [
    "bootstrap_stderr",
    "discard_fraction",
    "ess_per_sample",
    "forward_ess",
    "log_weights",
    "normalised_weights",
    "pareto_k",
    "resample",
    "reweighted_heat_capacity",
    "reweighted_mean",
]

Samples = Float[np.ndarray, " sample"]


def log_weights(log_q: Samples, energy: Samples, beta: float) -> Samples:
    """log w = −βU − log q, −inf where the energy or log q is not a finite number.

    Args:
        log_q: log density of the samples over labelled positions, `(sample,)`.
        energy: potential energies U, `(sample,)`; NaN or inf marks a sample without a usable energy.
        beta: inverse temperature in 1/unit of energy.
    """
    log_q, energy = np.asarray(log_q, np.float64), np.asarray(energy, np.float64)
    usable = np.isfinite(energy) & np.isfinite(log_q)
    return np.where(usable, -beta * np.where(usable, energy, 0.0) - np.where(usable, log_q, 0.0), -np.inf)


def _checked(log_w: np.ndarray) -> np.ndarray:
    log_w = np.asarray(log_w, dtype=np.float64)
    if log_w.ndim != 1 or log_w.size < 2:
        raise ValueError(f"expected at least 2 log weights, found shape {log_w.shape}")
    if np.isnan(log_w).any() or (log_w == np.inf).any():
        bad = int((np.isnan(log_w) | (log_w == np.inf)).sum())
        raise ValueError(f"{bad} of {log_w.size} log weights are NaN or +inf; make them with log_weights")
    if not np.isfinite(log_w).any():
        raise ValueError(f"none of {log_w.size} samples has any weight; the samples miss the target entirely")
    return log_w


def normalised_weights(log_w: Samples) -> Samples:
    """w / Σw, `(sample,)`, without overflow.

    Raises:
        ValueError: NaN, +inf, fewer than 2 samples, or no sample with any weight; so do all functions here.
    """
    log_w = _checked(log_w)
    w = np.exp(log_w - log_w.max())
    return w / w.sum()


def ess_per_sample(log_w: Samples) -> float:
    """ESS/n = (Σw)² / (n Σw²), in (0, 1]; quote it with n, 10⁴ or more (Kong 1992).

    >>> ess_per_sample(np.zeros(8))
    1.0
    """
    w = normalised_weights(log_w)
    return float(1.0 / (w.size * np.sum(w**2)))


def forward_ess(log_w_reference: Samples) -> float:
    """ESS/n as independent *target* samples see it: n² / (Σw · Σ1/w), in [0, 1].

    With x ~ p instead of x ~ q, E_q[w]²/E_q[w²] = 1/(E_p[w] E_p[1/w]) is the same number, but a mode of p that q
    misses enters through its huge w, where `ess_per_sample` never sees it. It needs no normalisation of p.

    Args:
        log_w_reference: log w = −βU − log q at held-out reference configurations; +inf where q vanishes.

    Returns:
        Forward ESS per sample; 0 if q vanishes at any of them.

    Raises:
        ValueError: NaN, −inf, or fewer than 2 values.

    Source: Midgley, Stimper, Simm, Schölkopf, Hernández-Lobato, ICLR 2023 (FAB), section 4 and appendix.
    """
    log_w = np.asarray(log_w_reference, dtype=np.float64)
    if log_w.ndim != 1 or log_w.size < 2 or np.isnan(log_w).any() or (log_w == -np.inf).any():
        raise ValueError("forward ESS needs at least 2 log weights of reference configurations, none NaN or -inf")
    if np.isinf(log_w).any():
        return 0.0
    return float(np.exp(2 * math.log(log_w.size) - np.logaddexp.reduce(log_w) - np.logaddexp.reduce(-log_w)))


def _generalised_pareto_k(excess: np.ndarray) -> float:
    """Shape of a generalised Pareto law of sorted positive `excess` (Zhang, Stephens 2009), with the prior of PSIS."""
    n = excess.size
    grid = np.arange(1, 31 + int(math.sqrt(n)))
    quartile = excess[int(n / 4 + 0.5) - 1]
    theta = 1 / excess[-1] + (1 - np.sqrt((len(grid)) / (grid - 0.5))) / (3 * quartile)
    shape = np.mean(np.log1p(-theta[:, None] * excess), axis=1)
    profile = n * (np.log(-theta / shape) - shape - 1)
    posterior = np.exp(profile - np.logaddexp.reduce(profile))
    best = float(np.sum(theta * posterior))
    k = float(np.mean(np.log1p(-best * excess)))
    return (k * n + 5.0) / (n + 10.0)


def pareto_k(log_w: Samples) -> float:
    """Pareto k̂ of the weights' upper tail: moments up to 1/k exist. Trust the weights below 0.7.

    Returns:
        k̂; −inf when the tail's weights are all alike (no tail), +inf when fewer than 5 samples are in the tail or
        all below the threshold weigh nothing.

    Source: Vehtari, Simpson, Gelman, Yao, Gabry, JMLR 25(72), 1 (2024); tail of ⌈min(0.2 n, 3 √n)⌉ samples; Zhang and
    Stephens, Technometrics 51, 316 (2009).
    """
    log_w = np.sort(_checked(log_w))
    tail = math.ceil(min(0.2 * log_w.size, 3 * math.sqrt(log_w.size)))
    if tail < 5:
        return math.inf
    threshold = max(float(log_w[-tail - 1]), float(log_w[-1]) + math.log(np.finfo(np.float64).tiny))
    # Relative to the threshold: expm1 keeps the digits of a tail that is nearly flat.
    relative = log_w[-tail:] - threshold
    relative = relative[relative > 0]
    if relative.size == 0 or relative[-1] < 1e-13:
        return -math.inf
    if relative.size < 5:
        return math.inf
    scaled = np.expm1(relative) if relative[-1] < 700 else np.exp(relative - relative[-1])
    return _generalised_pareto_k(np.maximum(scaled, np.finfo(np.float64).tiny))


def reweighted_mean(log_w: Samples, values: Samples, unit: str = "") -> Estimate:
    """Self-normalised importance-sampling mean Σ w v / Σ w.

    Args:
        log_w: log weights of independent samples, `(sample,)`.
        values: `(sample,)`; must be finite where the weight is not zero.
        unit: unit of the values.

    Returns:
        The mean with its delta-method standard error, sqrt(n/(n−1) Σ w̄² (v − mean)²), w̄ = w/Σw. It is too small
        when k̂ > 0.7 or a mode is missed: read it with `pareto_k` and `forward_ess`.

    Source: Owen, Monte Carlo theory, methods and examples (2013), equation 9.9.
    """
    w = normalised_weights(log_w)
    values = _values(w, values)
    mean = float(w @ values)
    stderr = math.sqrt(w.size / (w.size - 1) * float(np.sum((w * (values - mean)) ** 2)))
    return Estimate(mean, stderr, unit, "self-normalised importance sampling, delta-method error")


def _values(w: np.ndarray, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.shape != w.shape:
        raise ValueError(f"{values.shape} values for {w.shape} weights")
    values = np.where(w == 0, 0.0, values)
    if not np.isfinite(values).all():
        raise ValueError("values must be finite wherever the weight is not zero")
    return values


def _weighted_variance(w: np.ndarray, values: np.ndarray) -> float:
    """Variance under weights w̄, divided by 1 − Σw̄²: unbiased for equal weights, nearly so otherwise."""
    mean = np.sum(w * values)
    return float(np.sum(w * (values - mean) ** 2) / max(1 - np.sum(w**2), np.finfo(np.float64).eps))


def bootstrap_stderr(
    log_w: Samples,
    values: Samples,
    statistic: Literal["mean", "variance"],
    repeats: int,
    generator: np.random.Generator,
) -> float:
    """Standard error of a reweighted mean or variance, by drawing the samples anew with replacement.

    Args:
        log_w, values: as `reweighted_mean`.
        statistic: `mean` or `variance`.
        repeats: number of bootstrap replicas, 100 or more.
        generator: source of randomness; the same one gives the same error.
    """
    w = normalised_weights(log_w)
    values = _values(w, values)
    found = np.empty(repeats)
    for i in range(repeats):
        drawn = generator.integers(0, w.size, size=w.size)
        weight = w[drawn] / w[drawn].sum() if w[drawn].sum() > 0 else np.full(w.size, 1 / w.size)
        if statistic == "mean":
            found[i] = weight @ values[drawn]
        else:
            found[i] = _weighted_variance(weight, values[drawn])
    return float(np.std(found, ddof=1))


def reweighted_heat_capacity(
    log_w: Samples,
    energy: Samples,
    beta: float,
    n_particles: int,
    bootstrap: int = 0,
    generator: np.random.Generator | None = None,
) -> Estimate:
    """Configurational heat capacity per particle, β² var(U) / N, in k_B.

    Args:
        log_w: log weights, `(sample,)`.
        energy: U, `(sample,)`, in the unit of 1/beta; values without weight are ignored.
        beta: inverse temperature.
        n_particles: N.
        bootstrap: number of bootstrap replicas for the error; 0 for the delta method.
        generator: needed for the bootstrap.

    Returns:
        c_V with the standard error of the weighted variance: by the delta method sqrt(Σ w̄² ((U − ⟨U⟩)² − var)²), or
        by the bootstrap, which also holds the noise of ⟨U⟩.
    """
    w = normalised_weights(log_w)
    energy = _values(w, energy)
    scale = beta**2 / n_particles
    variance = _weighted_variance(w, energy)
    if bootstrap:
        if generator is None:
            raise ValueError("the bootstrap needs a generator")
        stderr = bootstrap_stderr(log_w, energy, "variance", bootstrap, generator)
        method = f"reweighted fluctuation, bootstrap error of {bootstrap} replicas"
    else:
        influence = (energy - w @ energy) ** 2 - variance
        stderr = math.sqrt(w.size / (w.size - 1) * float(np.sum((w * influence) ** 2)))
        method = "reweighted fluctuation, delta-method error"
    return Estimate(variance * scale, stderr * scale, "k_B", method)


def discard_fraction(
    energy: Samples, reference_energy: Float[np.ndarray, " frame"], rule: Literal["ipl", "gaussian"]
) -> float:
    """Share of raw samples that no reference run would show; a diagnostic, nothing is discarded from averages.

    Args:
        energy: energies of raw samples; NaN and inf count as discarded.
        reference_energy: energies of equilibrium reference frames.
        rule: `ipl`: U > 2 × the largest reference energy (as published for the inverse power law, where U > 0);
            `gaussian`: U > mean + 10 standard deviations of the reference.
    """
    reference = np.asarray(reference_energy, dtype=np.float64)
    if reference.size < 2 or not np.isfinite(reference).all():
        raise ValueError("the discard rule needs at least 2 finite reference energies")
    if rule == "ipl":
        limit = 2 * float(reference.max())
    elif rule == "gaussian":
        limit = float(reference.mean() + 10 * reference.std(ddof=1))
    else:
        raise ValueError(f"unknown rule {rule!r}; expected 'ipl' or 'gaussian'")
    return float(np.mean(~(np.asarray(energy, dtype=np.float64) <= limit)))


def resample(log_w: Samples, n: int, generator: np.random.Generator) -> Int[np.ndarray, " draw"]:
    """Indices of n samples drawn by weight, systematically: sample i comes ⌊n w̄⌋ or ⌈n w̄⌉ times.

    Source: Kitagawa, J. Comput. Graph. Stat. 5, 1 (1996).
    """
    w = normalised_weights(log_w)
    edges = np.cumsum(w)
    points = (np.arange(n) + generator.random()) / n
    # The sum of weights may end a rounding below 1, and only samples with weight may be drawn.
    return np.minimum(np.searchsorted(edges, points, side="right"), np.flatnonzero(w)[-1])
