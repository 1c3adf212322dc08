"""Free energies of isomers from flows and chains; all in kT, `log_w` = −βU − log q, (`sample`,) or `(chain, step)`.

F of one isomer is −ln ∫ e^{−βU} dx over its basin = −ln⟨w⟩ over draws of its flow q: `flow_free_energy` takes draws of
the flow alone, `flow_bar` also the states of a Markov chain in the basin. `label_populations` takes a chain that moves
between isomers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from particlegen.estimate.convergence import mean_with_correlation, statistical_inefficiency
from particlegen.estimate.free_energy import FreeEnergyResult, bar, free_energy_excess
from particlegen.estimate.observables import Curve
from particlegen.estimate.result import Estimate
from particlegen.estimate.weights import ess_per_sample, normalised_weights, pareto_k

__all__ = [
    "LEAST_ESS",
    "NORMAL_95",
    "LabelPopulations",
    "ReweightedFreeEnergy",
    "difference",
    "flow_bar",
    "flow_free_energy",
    "label_populations",
    "weight_warnings",
    "work_distributions",
]

NORMAL_95 = float(special.ndtri(0.975))
"""Half-width of a 95 % interval in standard errors."""

LARGEST_K, LEAST_ESS = 0.7, 10.0
"""Beyond these a mean of weights is not to be trusted (Vehtari et al. 2024; the intervals were tested down to here)."""

FEW_SWITCHES = 10
"""Switches between two isomers below which their population ratio is not to be trusted."""

Draws = Float[np.ndarray, " sample"]
Chains = Float[np.ndarray, "chain step"]
Chain = Float[np.ndarray, " step"]


@dataclass(frozen=True)
class ReweightedFreeEnergy:
    """−ln of a mean of weights, and whether it can be trusted.

    Args:
        estimate: in kT; ± 1.96 stderr is as wide as `interval`. The stderr is infinite where the weights leave the
            free energy without an upper limit.
        interval: 95 % interval in kT, skewed as the weights are.
        samples: n, draws without weight included.
        ess_per_sample, pareto_k: of the weights.
        warnings: what is wrong, one sentence each.
    """

    estimate: Estimate
    interval: tuple[float, float]
    samples: int
    ess_per_sample: float
    pareto_k: float
    warnings: tuple[str, ...] = ()


def _interval(w: np.ndarray) -> tuple[float, float]:
    """95 % interval of −ln⟨n w⟩ for normalised weights w, 0 ≤ w ≤ 1.

    Hall's transformation of the studentised mean takes out its skewness γ: T + γT²/3√n + γ²T³/27n + γ/6√n is nearly
    normal. Its quantiles are those of Student's t with 2n/(κ − 1) degrees of freedom, at most n − 1, κ the weights'
    kurtosis: how well their variance is known.
    """
    n = w.size
    mean, sd = 1 / n, float(np.std(w, ddof=1))
    if sd <= 1e-14 * mean:
        return 0.0, 0.0
    centred = (w - mean) / sd
    skewness, kurtosis = float(np.mean(centred**3)), float(np.mean(centred**4))
    freedom = min(2 * n / (kurtosis - 1), n - 1) if kurtosis > 1 else n - 1
    step = float(special.stdtrit(freedom, 0.975)) / math.sqrt(n)
    # Where T takes the value at which its transform is ± step.
    if abs(skewness) < 1e-6:
        low, high = -step, step
    else:
        low, high = (
            3 / skewness * (float(np.cbrt(1 + skewness * (x - skewness / (6 * n)))) - 1) for x in (-step, step)
        )
    lowest, highest = mean - sd * high, mean - sd * low
    return -math.log(n * highest), (-math.log(n * lowest) if lowest > 0 else math.inf)


def flow_free_energy(log_w: Draws) -> ReweightedFreeEnergy:
    """F = −ln⟨w⟩ in kT from independent draws of a normalised density q, w = e^{−βU}/q within the basin and 0 outside.

    Args:
        log_w: log weights, `(sample,)`; −inf for a draw outside the basin or without a usable energy. All count in n.

    Returns:
        F, free of the logarithm's bias to order 1/n (half the relative variance of the mean), with a 95 % interval
        that holds at low ESS too: the delta method's is too short there, and misses on one side.

    Raises:
        ValueError: NaN or +inf among the weights, fewer than 2, or none of them positive.

    Source: Zwanzig, J. Chem. Phys. 22, 1420 (1954); P. Hall, J. R. Stat. Soc. B 54, 221 (1992), monotone cubic
    transformation, here with Student quantiles.

    >>> found = flow_free_energy(np.log([1.0, 1.0, 1.0, 1.0]))
    >>> found.estimate.value, found.interval
    (-0.0, (0.0, 0.0))
    """
    raw = free_energy_excess(log_w, 0.0)
    low, high = _interval(normalised_weights(log_w))
    ess, k, n = ess_per_sample(log_w), pareto_k(log_w), int(np.size(log_w))
    estimate = Estimate(
        raw.value - raw.stderr**2 / 2,
        (high - low) / (2 * NORMAL_95),
        "kT",
        f"mean weight of {n} draws, bias-corrected, skewness-corrected interval",
    )
    return ReweightedFreeEnergy(estimate, (raw.value + low, raw.value + high), n, ess, k, weight_warnings(k, ess * n))


def weight_warnings(k: float, effective: float) -> tuple[str, ...]:
    """What is wrong with a mean of weights of this Pareto k and so many effective samples, one sentence each."""
    problems = []
    if k > LARGEST_K:
        problems.append(f"Pareto k {k:.2f} is above {LARGEST_K}: rare large weights may be missing from the mean")
    if effective < LEAST_ESS:
        problems.append(
            f"{effective:.1f} effective samples are fewer than {LEAST_ESS:g}: draw more or train the flow on"
        )
    return tuple(problems)


def _chains(log_w: np.ndarray) -> np.ndarray:
    chains = np.atleast_2d(np.asarray(log_w, np.float64))
    if chains.ndim != 2 or chains.shape[1] < 4 or not np.isfinite(chains).all():
        raise ValueError(
            f"chains need (chain, step) finite log weights of at least 4 steps, found shape {chains.shape} with "
            f"{int((~np.isfinite(chains)).sum())} not finite; the density must be positive at every state"
        )
    return chains


def flow_bar(log_w_flow: Draws, log_w_chain: Chains | Chain) -> FreeEnergyResult:
    """F = −ln ∫ e^{−βU} dx in kT by Bennett's acceptance ratio between a density q and chains that sample e^{−βU}.

    The work from q to the target is −log w. `bar` on the chains thinned by their statistical inefficiency g sets the
    constant C = F + ln(n_chain/(g n_flow)); Bennett's formula F = C + ln⟨f(C + log w)⟩_chain⁻ − ln⟨f(−C − log w)⟩_flow
    with the Fermi function f then uses every state, whatever the correlation, since it is exact for any C.

    Args:
        log_w_flow: independent draws of q, `(sample,)`; −inf outside the basin.
        log_w_chain: states of chains in the basin, `(chain, step)` or `(step,)`; correlated, equilibrated.

    Returns:
        The free energy, its error (delta method, with the correlation of the chains), the overlap of `bar`, and what
        is wrong; NaN when BAR failed.

    Raises:
        ValueError: NaN or +inf weights of the flow, fewer than 2 positive ones; a chain state that is not finite.

    Source: Bennett, J. Comput. Phys. 22, 245 (1976), equations 7 and 10–12.
    """
    draws, chains = np.asarray(log_w_flow, np.float64), _chains(log_w_chain)
    weighing = draws[draws != -np.inf]
    g = statistical_inefficiency(chains)
    thinned = chains[:, :: math.ceil(g)].ravel()
    method = f"BAR of {draws.size} draws and {chains.size} chain states, statistical inefficiency {g:.3g}"
    first = bar(-weighing, thinned)
    if not first.ok:
        return FreeEnergyResult(math.nan, math.nan, first.overlap, first.warnings, method)
    # BAR knows nothing of draws without weight: their share is the probability that q gives to the basin.
    start = first.value - math.log(weighing.size / draws.size)
    constant = start + math.log(chains.size / (g * draws.size))
    flow, chain = special.expit(draws + constant), special.expit(-(chains + constant))
    if not min(flow.mean(), chain.mean()) > 0:
        problem = "BAR failed: draws and chain states share no work"
        return FreeEnergyResult(math.nan, math.nan, first.overlap, (*first.warnings, problem), method)
    value = constant + math.log(chain.mean()) - math.log(flow.mean())
    stderr = math.hypot(
        float(flow.std(ddof=1)) / (float(flow.mean()) * math.sqrt(draws.size)),
        mean_with_correlation(chain).stderr / float(chain.mean()),
    )
    return FreeEnergyResult(value, stderr, first.overlap, first.warnings, method)


@dataclass(frozen=True)
class LabelPopulations:
    """Free-energy differences of isomers from how often a chain visits them.

    Args:
        populations: share of all steps, `(isomer,)`; steps outside every isomer are the rest to 1.
        differences: F_b − F_a in kT, `(isomer a, isomer b)`; NaN where one of the two was never visited.
        stderrs: of `differences`, with the correlation of successive labels.
        warnings: what is wrong, one sentence each.
    """

    populations: np.ndarray
    differences: np.ndarray
    stderrs: np.ndarray
    warnings: tuple[str, ...] = ()

    def estimate(self, b: int, a: int) -> Estimate:
        """F_b − F_a in kT."""
        value, stderr = float(self.differences[a, b]), float(self.stderrs[a, b])
        return Estimate(value, stderr, "kT", "populations of a chain that moves between isomers")


def _switches(labels: np.ndarray, a: int, b: int) -> int:
    """Moves between two labels over all chains, other labels left out."""
    kept = [chain[(chain == a) | (chain == b)] for chain in labels]
    return sum(int(np.count_nonzero(np.diff(chain))) for chain in kept)


def label_populations(
    labels: Int[np.ndarray, "chain step"], isomers: int, log_bias: Sequence[float] | None = None
) -> LabelPopulations:
    """F_b − F_a = −ln(n_b/n_a) + ln c_b − ln c_a in kT, from chains whose law is c_k e^{−βU(x)} over isomers k and x.

    A chain that proposes isomer k with probability p_k and x from its flow q_k has to accept by p_k q_k(x), the
    density of the pair (k, x). With Σ_j p_j q_j(x) in its place it samples another law (see `definitions.md`).

    Args:
        labels: isomer of every step, −1 for none, `(chain, step)`; chains of one law, equilibrated.
        isomers: how many there are; labels are below it.
        log_bias: ln c_k, `(isomer,)`, the weight that the chain's law gave each isomer on top of e^{−βU}; 0 by default.

    Returns:
        All differences. Their error is that of the series 1_b/n_b − 1_a/n_a, whose correlation within the chains and
        whose spread between them count (`mean_with_correlation`).

    Raises:
        ValueError: labels out of range, fewer than 4 steps, as many biases as there are not isomers.
    """
    series = np.asarray(labels)
    bias = np.zeros(isomers) if log_bias is None else np.asarray(log_bias, np.float64)
    if series.ndim != 2 or series.shape[1] < 4 or series.min() < -1 or series.max() >= isomers:
        raise ValueError(
            f"expected (chain, step) labels from -1 to {isomers - 1}, at least 4 steps, found shape {series.shape}"
        )
    if bias.shape != (isomers,) or not np.isfinite(bias).all():
        raise ValueError(f"expected {isomers} finite log weights of isomers, found {bias}")
    share = np.array([np.mean(series == k) for k in range(isomers)])
    differences, stderrs = np.zeros((isomers, isomers)), np.zeros((isomers, isomers))
    problems = [f"isomer {k} was never visited" for k in np.flatnonzero(share == 0)]
    for a in range(isomers):
        for b in range(a + 1, isomers):
            value = stderr = math.nan
            if share[a] > 0 and share[b] > 0:
                value = math.log(share[a] / share[b]) + bias[b] - bias[a]
                stderr = mean_with_correlation((series == b) / share[b] - (series == a) / share[a]).stderr
                switches = _switches(series, a, b)
                if switches < FEW_SWITCHES:
                    problems.append(f"{switches} moves between isomers {a} and {b}: their populations are not known")
            differences[a, b], differences[b, a] = value, -value
            stderrs[a, b] = stderrs[b, a] = stderr
    return LabelPopulations(share, differences, stderrs, tuple(problems))


def difference(b: Estimate, a: Estimate) -> Estimate:
    """F_b − F_a of two independent estimates, errors added in quadrature.

    Raises:
        ValueError: different units.
    """
    if b.unit != a.unit:
        raise ValueError(f"cannot subtract {a.unit!r} from {b.unit!r}; convert one with Estimate.scaled")
    method = b.method if b.method == a.method else f"{b.method}; minus {a.method}"
    return Estimate(b.value - a.value, math.hypot(b.stderr, a.stderr), b.unit, method)


def work_distributions(log_w_flow: Draws, log_w_chain: Chains | Chain, bins: int = 60) -> tuple[Curve, Curve]:
    """Densities of the work W = −log w from the flow's density to the target, over draws and over chain states.

    By Crooks' relation P_chain(W)/P_flow(W) = e^{F − W}: the curves cross at W = F, and BAR is good where they overlap.

    Args:
        log_w_flow, log_w_chain: as `flow_bar`.
        bins: equal bins over the central 98 % of both.

    Returns:
        The two curves (flow, chain) in 1/kT over W in kT, errors binomial, those of the chain widened by √g. Works
        outside the bins and draws without weight count in the densities but are not drawn.
    """
    draws, chains = -np.asarray(log_w_flow, np.float64), -_chains(log_w_chain)
    works = [draws[np.isfinite(draws)], chains.ravel()]
    low = min(float(np.quantile(w, 0.01)) for w in works)
    high = max(float(np.quantile(w, 0.99)) for w in works)
    margin = 0.0 if high > low else 0.5
    edges = np.linspace(low - margin, high + margin, bins + 1)
    centres, width = (edges[1:] + edges[:-1]) / 2, float(edges[1] - edges[0])
    independent = (draws.size, chains.size / statistical_inefficiency(chains))
    curves = []
    for name, work, total, count in zip(("flow", "chain"), works, (draws.size, chains.size), independent, strict=True):
        share = np.histogram(work, edges)[0] / total
        stderr = np.sqrt(share * (1 - share) / count)
        curves.append(Curve(centres, share / width, stderr / width, name, "work / kT", "density"))
    return curves[0], curves[1]
