"""Do the 95 % intervals of the isomers' estimators hold the truth in 95 % of repeats? Wells of 1 to 12 dimensions.

Writes `results/isomer_intervals.json`: for each case the share of 4,000 seeded repeats whose interval holds the
analytic value or the quadrature (4 sigma of that share is 1.4 %), the mean error in standard deviations of the
estimate, the ratio of quoted and found error, and the same share for a wrong variant, which has to be off. Minutes on
one core.

    python benchmarks/isomer_intervals.py [--repeats 4000]
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from _machine import machine, one_thread

from particlegen.estimate import (
    Estimate,
    bar,
    difference,
    flow_bar,
    flow_free_energy,
    free_energy_excess,
    label_populations,
    log_weights,
    normalised_weights,
    one_sided,
    two_sided,
)
from particlegen.streams import numpy_stream

RESULT = Path(__file__).parent / "results" / "isomer_intervals.json"
SEED, Z = 7, 1.959964
BARRIER, TILT = 4.0, 0.6
POINTS = np.linspace(-2.5, 2.5, 20_001)

Found = tuple[float, float, tuple[float, float]]
"""Value, standard error, 95 % interval."""

Data = tuple[np.ndarray, ...]


def found(estimate: Estimate, interval: tuple[float, float] | None = None) -> Found:
    half = Z * estimate.stderr
    return estimate.value, estimate.stderr, interval or (estimate.value - half, estimate.value + half)


def symmetric(estimator: Callable[..., Estimate]) -> Callable[..., Found]:
    return lambda *data: found(estimator(*data))


def reweighted(log_w: np.ndarray) -> Found:
    one = flow_free_energy(log_w)
    return found(one.estimate, one.interval)


def corrected(delta: np.ndarray) -> Found:
    one = one_sided(delta)
    return found(one.estimate, one.average.interval)


def second_moment(log_w: np.ndarray) -> Estimate:
    w = normalised_weights(log_w)
    return Estimate(free_energy_excess(log_w, 0.0).value, math.sqrt(float(w @ w)))


# Harmonic wells U = r²/2 in d dimensions under β = 1, a flow of width s: F = −(d/2) ln 2π.


def harmonic_log_w(square: np.ndarray, dimension: int, width: float) -> np.ndarray:
    log_q = -square / (2 * width**2) - dimension * math.log(width) - dimension / 2 * math.log(2 * math.pi)
    return -square / 2 - log_q


def harmonic_draws(rng: np.random.Generator, shape: tuple[int, ...], dimension: int, width: float) -> np.ndarray:
    return harmonic_log_w(width**2 * rng.chisquare(dimension, size=shape), dimension, width)


def autoregressive(rng: np.random.Generator, chains: tuple[int, ...], steps: int, dimension: int, memory: float):
    """r² along stationary chains x' = memory x + √(1 − memory²) noise of the unit normal law, `(*chains, step)`."""
    x, square = rng.normal(size=(*chains, dimension)), np.empty((*chains, steps))
    for step in range(steps):
        square[..., step] = np.sum(x**2, axis=-1)
        x = memory * x + math.sqrt(1 - memory**2) * rng.normal(size=x.shape)
    return square


# A double well U = 4 (x² − 1)² + 0.6 x with d − 1 harmonic coordinates; basins by the sign of x.


def double_well(x: np.ndarray) -> np.ndarray:
    return BARRIER * (x**2 - 1) ** 2 + TILT * x


def quadrature(inside: np.ndarray) -> float:
    return -math.log(float(np.trapezoid(np.exp(-double_well(POINTS)) * inside, POINTS)))


def exact_draws(rng: np.random.Generator, shape: tuple[int, ...], inside: np.ndarray) -> np.ndarray:
    cumulative = np.cumsum(np.exp(-double_well(POINTS)) * inside)
    return np.interp(rng.random(shape) * cumulative[-1], cumulative, POINTS)


def metropolis(rng: np.random.Generator, chains: tuple[int, ...], steps: int, side: int, move: float) -> np.ndarray:
    """x along chains of the double well that stay on one side of 0, started from their law, `(*chains, step)`."""
    x, path = exact_draws(rng, chains, POINTS * side > 0), np.empty((*chains, steps))
    for step in range(steps):
        path[..., step] = x
        y = x + move * rng.normal(size=x.shape)
        accept = (y * side > 0) & (rng.random(x.shape) < np.exp(np.minimum(double_well(x) - double_well(y), 0)))
        x = np.where(accept, y, x)
    return path


def basin_log_w(x: np.ndarray, square: np.ndarray, dimension: int, side: int, width: float) -> np.ndarray:
    """log w of a normal flow about ±0.95 of width 0.7, the other coordinates as `harmonic_log_w`."""
    log_q = -0.5 * ((x - 0.95 * side) / 0.7) ** 2 - math.log(0.7 * math.sqrt(2 * math.pi))
    log_w = log_weights(log_q, double_well(x), 1.0)
    if dimension > 1:
        log_w = log_w + harmonic_log_w(square, dimension - 1, width)
    return np.where(x * side > 0, log_w, -np.inf)


def basin_draws(rng: np.random.Generator, shape: tuple[int, ...], dimension: int, side: int, width: float):
    x = 0.95 * side + 0.7 * rng.normal(size=shape)
    return basin_log_w(x, width**2 * rng.chisquare(max(dimension - 1, 1), size=shape), dimension, side, width)


def basin_free_energy(dimension: int, side: int) -> float:
    return quadrature(POINTS * side > 0) - (dimension - 1) / 2 * math.log(2 * math.pi)


LOG_BIAS, FLOWS, PROPOSED = (0.0, 1.0), ((-0.8, 0.7), (0.8, 0.7)), (0.3, 0.7)
"""Weights of the isomers in the law of the mixture chain, mean and width of its flows, shares of its proposals."""


def mixture_labels(
    rng: np.random.Generator, chains: tuple[int, ...], steps: int, summed: bool, moves: int = 2
) -> np.ndarray:
    """Labels of chains over (k, x) whose flows reach into each other's basin; `summed` is the wrong acceptance."""

    def log_weight(k: np.ndarray, x: np.ndarray) -> np.ndarray:
        densities = np.stack(
            [
                math.log(p) - 0.5 * ((x - mean) / width) ** 2 - math.log(width)
                for p, (mean, width) in zip(PROPOSED, FLOWS, strict=True)
            ]
        )
        density = np.logaddexp(*densities) if summed else np.where(k == 0, *densities)
        inside = np.where(k == 0, x < 0, x > 0)
        return np.where(inside, np.take(LOG_BIAS, k) - double_well(x) - density, -np.inf)

    share = np.exp(np.array(LOG_BIAS) - [quadrature(POINTS < 0), quadrature(POINTS > 0)])
    k = (rng.random(chains) < share[1] / share.sum()).astype(np.int64)
    x = np.where(k == 0, exact_draws(rng, chains, POINTS < 0), exact_draws(rng, chains, POINTS > 0))
    labels, current = np.empty((*chains, steps), np.int64), log_weight(k, x)
    for step in range(steps):
        labels[..., step] = k
        for _ in range(moves):
            new = (rng.random(chains) < PROPOSED[1]).astype(np.int64)
            mean, width = (np.take(column, new) for column in zip(*FLOWS, strict=True))
            y = mean + width * rng.normal(size=chains)
            proposed = log_weight(new, y)
            accept = np.log(rng.random(chains)) < proposed - current
            k, x, current = np.where(accept, new, k), np.where(accept, y, x), np.where(accept, proposed, current)
    return labels


def shuffled(rng: np.random.Generator, chains: np.ndarray) -> np.ndarray:
    """The same states in random order: what an estimator sees that ignores correlation."""
    return rng.permuted(chains.ravel()).reshape(chains.shape)


def judge(repeats: Iterator[Found], truth: float) -> dict[str, float]:
    values, errors, low, high = (np.array(column) for column in zip(*((v, s, *i) for v, s, i in repeats), strict=True))
    return {
        "coverage": float(np.mean((low <= truth) & (truth <= high))),
        "coverage_of_value_and_stderr": float(np.mean(np.abs(values - truth) < Z * errors)),
        "mean_error_in_sd": float((values.mean() - truth) / values.std()),
        "quoted_over_found_error": float(np.median(errors) / values.std()),
    }


def cases(repeats: int) -> Iterator[tuple[str, dict]]:
    """Name and verdict of every case."""

    def verdict(name: str, truth: float, right: Callable, data: Data, *wrong: tuple[str, Callable, Data]):
        entry = judge((right(*row) for row in zip(*data, strict=True)), truth)
        off = [
            {"what": what, "coverage": judge((f(*row) for row in zip(*x, strict=True)), truth)["coverage"]}
            for what, f, x in wrong
        ]
        return name, {"truth": truth, **entry, "wrong": off}

    def rng(name: str) -> np.random.Generator:
        return numpy_stream(SEED, name)

    delta = ("delta-method error", symmetric(lambda log_w: free_energy_excess(log_w, 0.0)))
    uncentred = ("second moment in place of the variance", symmetric(second_moment))
    dropped = ("draws outside the basin left out of n", lambda log_w: reweighted(log_w[np.isfinite(log_w)]))
    wells = (
        (1, 1.3, 400, uncentred),
        (4, 2.0, 400, uncentred),
        (12, 1.5, 400, delta),
        (12, 2.0, 400, delta),
        (12, 0.8, 2000, delta),
    )
    for dimension, width, n, wrong in wells:
        name = f"flow, harmonic, {dimension} dimensions, width {width}, {n} draws"
        log_w = harmonic_draws(rng(name), (repeats, n), dimension, width)
        truth = -dimension / 2 * math.log(2 * math.pi)
        yield verdict(name, truth, reweighted, (log_w,), (*wrong, (log_w,)))
    for dimension in (1, 4, 12):
        name = f"flow, double well, {dimension} dimensions, 400 draws"
        log_w = basin_draws(rng(name), (repeats, 400), dimension, 1, 1.2)
        yield verdict(name, basin_free_energy(dimension, 1), reweighted, (log_w,), (*dropped, (log_w,)))

    def uncorrelated(log_w: np.ndarray, chains: np.ndarray) -> Found:
        return found(flow_bar(log_w, shuffled(np.random.default_rng(1), chains)).estimate)

    bennett = symmetric(lambda log_w, chains: flow_bar(log_w, chains).estimate)
    for dimension, width in ((1, 1.3), (4, 0.8), (12, 1.3)):
        name = f"BAR, harmonic, {dimension} dimensions, width {width}, 300 draws, 8 chains of 300"
        draws = harmonic_draws(rng(name), (repeats, 300), dimension, width)
        square = autoregressive(rng(name + ", chains"), (repeats, 8), 300, dimension, 0.9)
        chains, truth = harmonic_log_w(square, dimension, width), -dimension / 2 * math.log(2 * math.pi)
        data = (draws, chains)
        yield verdict(name, truth, bennett, data, ("correlation ignored", uncorrelated, data))
    for dimension in (1, 12):
        name = f"BAR, double well, {dimension} dimensions, 300 draws, 8 chains of 300"
        draws = basin_draws(rng(name), (repeats, 300), dimension, 1, 1.2)
        x = metropolis(rng(name + ", chains"), (repeats, 8), 300, 1, 0.15)
        square = autoregressive(rng(name + ", others"), (repeats, 8), 300, max(dimension - 1, 1), 0.9)
        chains = basin_log_w(x, square, dimension, 1, 1.2)
        data, truth = (draws, chains), basin_free_energy(dimension, 1)
        yield verdict(name, truth, bennett, data, ("correlation ignored", uncorrelated, data))

    name = "difference of two flows, double well, 4 dimensions, 400 draws each"
    pair = tuple(basin_draws(rng(f"{name} {side}"), (repeats, 400), 4, side, 1.2) for side in (-1, 1))
    truth = basin_free_energy(4, 1) - basin_free_energy(4, -1)
    right = symmetric(lambda a, b: difference(flow_free_energy(b).estimate, flow_free_energy(a).estimate))
    wrong = symmetric(lambda a, b: Estimate(right(a, b)[0], flow_free_energy(b).estimate.stderr))
    yield verdict(name, truth, right, pair, ("error of one of the two", wrong, pair))

    first_order = symmetric(lambda delta: Estimate(float(delta.mean()), float(delta.std()) / math.sqrt(delta.size)))
    cumulant = symmetric(lambda delta: one_sided(delta).cumulant)
    for spread, n in ((0.2, 200), (1.0, 200), (1.5, 200)):
        name = f"one-sided, Gaussian delta of spread {spread}, {n} labels"
        deltas, truth = 0.5 + spread * rng(name).normal(size=(repeats, n)), 0.5 - spread**2 / 2
        mean = ("first order only", first_order, (deltas,))
        yield verdict(name, truth, corrected, (deltas,), mean)
        yield verdict(name + ", cumulant", truth, cumulant, (deltas,), mean)
    # From the law of stiffness 1 to that of 1.15: delta = 0.075 r², F = (d/2) ln 1.15.
    name = "two-sided, 12 harmonic dimensions, 200 labels, 4 chains of 200"
    near = 0.075 * rng(name).chisquare(12, size=(repeats, 200))
    far = 0.075 / 1.15 * autoregressive(rng(name + ", chains"), (repeats, 4), 200, 12, 0.8)
    both = symmetric(lambda a, b: two_sided(a, b).estimate)
    plain = symmetric(lambda a, b: bar(a, -b.ravel()).estimate)
    data = (near, far)
    yield verdict(name, 6 * math.log(1.15), both, data, ("correlation ignored", plain, data))

    name, truth = "labels, mixture chain, 16 chains of 300", quadrature(POINTS > 0) - quadrature(POINTS < 0)
    good, bad = (mixture_labels(rng(name), (repeats, 16), 300, summed) for summed in (False, True))
    populations = symmetric(lambda labels: label_populations(labels, 2, LOG_BIAS).estimate(1, 0))

    def independent(labels: np.ndarray) -> Found:
        return populations(shuffled(np.random.default_rng(1), labels))

    yield verdict(
        name,
        truth,
        populations,
        (good,),
        ("sum over the flows in the acceptance", populations, (bad,)),
        ("correlation ignored", independent, (good,)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=4000)
    repeats = parser.parse_args().repeats
    one_thread()
    verdicts = {}
    for name, verdict in cases(repeats):
        verdicts[name] = verdict
        print(f"{verdict['coverage']:.4f}  {name}; wrong: {verdict['wrong']}", flush=True)
    RESULT.write_text(json.dumps({"machine": machine(), "repeats": repeats, "cases": verdicts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
