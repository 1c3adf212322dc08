"""Absolute free energies from importance weights, differences by BAR and MBAR; all in kT."""

import itertools
import logging
import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from particlegen.estimate.result import Estimate
from particlegen.estimate.weights import normalised_weights

__all__ = ["FreeEnergies", "FreeEnergyResult", "bar", "free_energy_excess", "free_energy_total", "mbar"]

JACKKNIFE_BLOCKS = 50
LEAST_OVERLAP = 0.03
"""Overlap of neighbouring states below which MBAR's error is not to be trusted (Klimovich, Shirts, Mobley 2015)."""

LEAST_SPREAD = 1e-6
"""Range of works, in kT, below which their mean is the free-energy difference to 1e-12."""


def _log_mean(log_w: np.ndarray) -> float:
    return float(np.logaddexp.reduce(log_w)) - math.log(log_w.size)


def free_energy_excess(
    log_w: Float[np.ndarray, " sample"], log_uniform_density: float, error: Literal["delta", "jackknife"] = "delta"
) -> Estimate:
    """F_ex = −ln⟨e^{−βU}⟩ over uniform positions, in kT, from w = e^{−βU}/q of samples of q.

    Args:
        log_w: log weights of independent samples, `(sample,)`.
        log_uniform_density: −N ln V, the log density of uniform positions.
        error: `delta`: sd(w)/(mean(w) √n); `jackknife`: over 50 blocks, whose value is also free of the
            logarithm's bias of order 1/ESS.

    Returns:
        The free energy with its standard error. Too small an error is possible when k̂ > 0.7: read it with
        `pareto_k` and `forward_ess`.

    Raises:
        ValueError: NaN or +inf among the weights, or none of them positive.
    """
    w = normalised_weights(log_w)
    log_w = np.asarray(log_w, dtype=np.float64)
    value = -(_log_mean(log_w) + log_uniform_density)
    if error == "delta":
        stderr = math.sqrt(max(w.size / (w.size - 1) * (float(np.sum(w**2)) - 1 / w.size), 0.0))
        return Estimate(value, stderr, "kT", "importance sampling from the uniform base, delta-method error")
    blocks = min(JACKKNIFE_BLOCKS, w.size)
    sums, sizes = zip(*((part.sum(), part.size) for part in np.array_split(w, blocks)), strict=True)
    # Leaving out the block that holds all the weight leaves nothing: the floor makes that an enormous error.
    rest = np.maximum(1 - np.array(sums), np.finfo(np.float64).tiny)
    left_out = value - np.log(rest) - math.log(w.size) + np.log(w.size - np.array(sizes))
    stderr = math.sqrt((blocks - 1) * float(np.var(left_out)))
    unbiased = blocks * value - (blocks - 1) * float(left_out.mean())
    return Estimate(unbiased, stderr, "kT", f"importance sampling from the uniform base, {blocks}-block jackknife")


def free_energy_total(excess: Estimate, volume: float, composition: tuple[int, ...] | list[int]) -> Estimate:
    """F = −ln[∫ e^{−βU} dx / ∏ N_s!] = F_ex − N ln V + Σ ln N_s!, in kT, thermal wavelength 1.

    Args:
        excess: from `free_energy_excess`.
        volume: V in the system's unit of length to the power d.
        composition: particles of each species, N = their sum.

    >>> round(free_energy_total(Estimate(0.0, 0.0), 1.0, [2, 3]).value, 6)
    2.484907
    """
    if not volume > 0 or any(n < 0 for n in composition):
        raise ValueError(f"need a positive volume and counts, found {volume} and {list(composition)}")
    ideal = sum(math.lgamma(n + 1) for n in composition) - sum(composition) * math.log(volume)
    return Estimate(excess.value + ideal, excess.stderr, "kT", f"{excess.method}; ideal part exact, wavelength 1")


@dataclass(frozen=True)
class FreeEnergyResult:
    """A free-energy difference and whether it can be trusted.

    Args:
        value, stderr: F₁ − F₀ and its error in kT; NaN when the solver failed.
        overlap: 0 to 1, how much the two work distributions share.
        warnings: what is wrong, one sentence each; empty when all is well.
        method: how it was estimated, in words.
    """

    value: float
    stderr: float
    overlap: float
    warnings: tuple[str, ...] = ()
    method: str = "BAR"

    @property
    def ok(self) -> bool:
        return math.isfinite(self.value) and math.isfinite(self.stderr)

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.value, self.stderr, "kT", self.method)


@dataclass(frozen=True)
class FreeEnergies:
    """Free energies of a ladder of states, relative to the first.

    Args:
        values, stderrs: `(state,)` in kT, first 0; NaN when the solver failed.
        overlap: `(state, state)` overlap matrix, rows sum to 1.
        warnings: what is wrong, one sentence each.
    """

    values: np.ndarray
    stderrs: np.ndarray
    overlap: np.ndarray
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return bool(np.isfinite(self.values).all() and np.isfinite(self.stderrs).all())


def _pymbar() -> Any:
    # pymbar greets every import with a page of log messages.
    logging.getLogger("pymbar").setLevel(logging.ERROR)
    import pymbar

    return pymbar


def _bar_imbalance(forward: np.ndarray, reverse: np.ndarray, value: float) -> float:
    """Relative violation of Bennett's equation; 0 at its solution."""
    ratio = math.log(forward.size / reverse.size)
    left = np.logaddexp.reduce(-np.logaddexp(0, ratio + forward - value))
    right = np.logaddexp.reduce(-np.logaddexp(0, -ratio + reverse + value))
    return abs(float(left - right))


def _two_state_overlap(forward: np.ndarray, reverse: np.ndarray, value: float) -> float:
    """1 − the second eigenvalue of the 2 × 2 overlap matrix: 1 for equal states, 0 for states that share nothing."""
    work = np.concatenate([forward, -reverse])
    n0, n1 = forward.size, reverse.size
    log_mixture = np.logaddexp(math.log(n0), math.log(n1) + value - work)
    # Both off-diagonal elements carry the same sum over samples, once with each count.
    shared = float(np.exp(np.logaddexp.reduce(value - work - 2 * log_mixture)))
    return min(1.0, (n0 + n1) * shared)


def _bar_stderr(forward: np.ndarray, reverse: np.ndarray, value: float) -> float:
    """Bennett's asymptotic error (equation 10a); exactly 0 for works without spread."""
    ratio, variance = math.log(forward.size / reverse.size), 0.0
    for log_fermi in (-np.logaddexp(0, ratio + forward - value), -np.logaddexp(0, -ratio + reverse + value)):
        fermi = np.exp(log_fermi - log_fermi.max())
        variance += float(np.var(fermi)) / (fermi.size * float(fermi.mean()) ** 2)
    return math.sqrt(variance)


def bar(forward: Float[np.ndarray, " n0"], reverse: Float[np.ndarray, " n1"]) -> FreeEnergyResult:
    """Bennett's acceptance ratio: F₁ − F₀ from reduced works, in kT.

    Args:
        forward: u₁(x) − u₀(x) for independent samples of state 0.
        reverse: u₀(x) − u₁(x) for independent samples of state 1.

    Returns:
        The difference, its asymptotic error, the overlap, and what is wrong: a failed or silently unconverged
        solver gives NaN and a warning, never a number.

    Source: Bennett, J. Comput. Phys. 22, 245 (1976); solved by pymbar.
    """
    forward, reverse = np.asarray(forward, np.float64), np.asarray(reverse, np.float64)
    if min(forward.size, reverse.size) < 2 or not (np.isfinite(forward).all() and np.isfinite(reverse).all()):
        raise ValueError("BAR needs at least 2 finite works in each direction")
    pymbar, problems = _pymbar(), []
    value = stderr = overlap = math.nan
    work = np.concatenate([forward, -reverse])
    try:
        with warnings.catch_warnings(record=True), np.errstate(all="ignore"):
            if np.ptp(work) < LEAST_SPREAD:  # which would leave the solver no bracket
                value = float(work.mean())
            else:
                options = {"method": "bisection", "maximum_iterations": 500, "relative_tolerance": 1e-10}
                value = float(pymbar.bar(forward, reverse, compute_uncertainty=False, **options)["Delta_f"])
    except Exception as error:  # the solver's own exceptions share no base class
        problems.append(f"BAR failed: {error}")
    if math.isfinite(value):
        overlap, stderr = _two_state_overlap(forward, reverse, value), _bar_stderr(forward, reverse, value)
    if math.isfinite(value) and not _bar_imbalance(forward, reverse, value) < 1e-4:
        problems.append("BAR did not converge: its equation is not satisfied")
        value = stderr = math.nan
    if not math.isfinite(stderr):
        value = stderr = math.nan
        problems = problems or ["BAR gave no finite value"]
    if math.isfinite(overlap) and overlap < LEAST_OVERLAP:
        problems.append(f"overlap {overlap:.2g} is below {LEAST_OVERLAP}: add a state in between or more samples")
    return FreeEnergyResult(value, stderr, overlap, tuple(problems))


def _mbar_residual(u: np.ndarray, counts: np.ndarray, f: np.ndarray) -> float:
    """Largest violation of MBAR's self-consistency, in kT; states without samples included."""
    with np.errstate(divide="ignore"):
        log_counts = np.log(counts)[:, None]
    mixture = np.logaddexp.reduce(log_counts + f[:, None] - u, axis=0)
    consistent = -np.logaddexp.reduce(-u - mixture, axis=1)
    return float(np.max(np.abs((consistent - consistent[0]) - (f - f[0]))))


def mbar(reduced: Float[np.ndarray, "state sample"], counts: Int[np.ndarray, " state"]) -> FreeEnergies:
    """Multistate Bennett acceptance ratio over a ladder of states.

    Args:
        reduced: u_k(x_n) = β_k U of every sample in every state, samples ordered by the state they come from;
            independent samples (thin correlated ones by their statistical inefficiency first).
        counts: samples from each state, summing to the number of columns; 0 is allowed.

    Returns:
        Free energies relative to state 0 with errors and the overlap matrix; a failed or silently unconverged
        solver gives NaN and a warning.

    Source: Shirts, Chodera, J. Chem. Phys. 129, 124105 (2008); solved by pymbar.
    """
    u, n = np.asarray(reduced, np.float64), np.asarray(counts, np.int64)
    if u.ndim != 2 or n.shape != u.shape[:1] or n.sum() != u.shape[1] or (n < 0).any() or not np.isfinite(u).all():
        raise ValueError(f"MBAR needs finite (state, sample) energies with counts that add up, found {u.shape}, {n}")
    states, problems = len(n), []
    values = stderrs = np.full(states, math.nan)
    overlap = np.full((states, states), math.nan)
    pymbar = _pymbar()
    try:
        with warnings.catch_warnings(record=True), np.errstate(all="ignore"):
            solver = pymbar.MBAR(u, n, solver_protocol="robust")
            found = solver.compute_free_energy_differences()
            values, stderrs = np.array(found["Delta_f"][0]), np.array(found["dDelta_f"][0])
            overlap = np.array(solver.compute_overlap()["matrix"])
    except Exception as error:  # the solver's own exceptions share no base class
        problems.append(f"MBAR failed: {error}")
    if np.isfinite(values).all():
        residual = _mbar_residual(u, n, values)
        if not residual < 1e-5:
            problems.append(f"MBAR did not converge: its equations are violated by {residual:.2g} kT")
            values = stderrs = np.full(states, math.nan)
    if not np.isfinite(stderrs).all():
        problems = problems or ["MBAR gave no finite errors"]
        values = stderrs = np.full(states, math.nan)
    sampled = np.flatnonzero(n)
    for a, b in itertools.pairwise(sampled):
        shared = min(overlap[a, b], overlap[b, a])
        if shared < LEAST_OVERLAP:
            problems.append(f"states {a} and {b} overlap by {shared:.2g}, below {LEAST_OVERLAP}: add one in between")
    return FreeEnergies(values, stderrs, overlap, tuple(problems))
