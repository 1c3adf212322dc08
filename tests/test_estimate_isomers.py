"""Free energies of isomers against closed forms and quadrature, with coverage of the intervals; wrong variants fail."""

import json
import math

import numpy as np
import pytest

from particlegen import estimate
from particlegen.estimate import ErrorBudget, Estimate

Z = 1.959964
LOG_2PI = math.log(2 * math.pi)


def covers(hits) -> bool:
    """Whether the share of intervals that hold the truth is 95 % within 4 sigma of that share.

    `benchmarks/isomer_intervals.py` does the same with 4,000 repeats.
    """
    hits = np.asarray(hits)
    return abs(hits.mean() - 0.95) < 4 * math.sqrt(0.95 * 0.05 / hits.size)


def holds(found: Estimate, truth: float) -> bool:
    return abs(found.value - truth) < Z * found.stderr


def autoregressive(rng, chains, steps, dimension, memory):
    """r² along chains of the unit normal law whose coordinates remember `memory` of the last step."""
    x, square = rng.normal(size=(*chains, dimension)), np.empty((*chains, steps))
    for step in range(steps):
        square[..., step] = np.sum(x**2, axis=-1)
        x = memory * x + math.sqrt(1 - memory**2) * rng.normal(size=x.shape)
    return square


def harmonic_log_w(square, dimension, width):
    """U = r²/2 and a normal flow of that width; F = −(d/2) ln 2π."""
    return -square / 2 + square / (2 * width**2) + dimension * math.log(width) + dimension / 2 * LOG_2PI


@pytest.mark.parametrize(("dimension", "width"), [(1, 1.3), (4, 2.0), (12, 1.5)])
def test_flow_intervals_cover(dimension, width):
    rng, truth = np.random.default_rng(3), -dimension / 2 * LOG_2PI
    square = width**2 * rng.chisquare(dimension, size=(1000, 300))
    found = [estimate.flow_free_energy(row) for row in harmonic_log_w(square, dimension, width)]
    assert covers([one.interval[0] < truth < one.interval[1] for one in found])
    assert covers([holds(one.estimate, truth) for one in found])


def test_flow_intervals_cover_where_those_of_the_delta_method_do_not():
    """Some 6 effective samples of 400: skewed weights whose variance is hardly known."""
    rng, truth = np.random.default_rng(4), -6 * LOG_2PI
    rows = harmonic_log_w(4 * rng.chisquare(12, size=(4000, 400)), 12, 2.0)
    found = [estimate.flow_free_energy(row) for row in rows]
    assert covers([one.interval[0] < truth < one.interval[1] for one in found])
    assert not covers([holds(estimate.free_energy_excess(row, 0.0), truth) for row in rows])
    assert np.median([one.ess_per_sample for one in found]) * 400 < 10
    assert sum(bool(one.warnings) for one in found) > 2000


def test_draws_outside_the_basin_count():
    """A uniform flow on [0, 1) and a basin that is half of it: F = ln 2."""
    rng = np.random.default_rng(5)
    log_w = np.where(rng.random((1000, 200)) < 0.5, 0.0, -np.inf)
    found = [estimate.flow_free_energy(row) for row in log_w]
    assert covers([one.interval[0] < math.log(2) < one.interval[1] for one in found])
    assert found[0].samples == 200
    assert not covers([holds(estimate.flow_free_energy(row[row == 0]).estimate, math.log(2)) for row in log_w[:400]])
    # All but one draw outside: nothing bounds the free energy from above, and that is said.
    one = estimate.flow_free_energy(np.concatenate([np.full(99, -np.inf), [0.0]]))
    assert one.interval[0] < math.log(100) and one.interval[1] == math.inf == one.estimate.stderr
    assert one.estimate.as_dict()["stderr"] is None and len(one.warnings) == 2
    for wrong in (np.full(3, -np.inf), np.array([0.0, math.nan]), np.array([0.0, math.inf])):
        with pytest.raises(ValueError, match="weight"):
            estimate.flow_free_energy(wrong)


def test_logarithm_bias_is_taken_out():
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(2000, 20))
    found = np.array([estimate.flow_free_energy(row).estimate.value for row in rows])
    plain = np.array([estimate.free_energy_excess(row, 0.0).value for row in rows])
    error = 4 * found.std() / math.sqrt(2000)
    bias = (math.e - 1) / 40
    assert abs(found.mean() + 0.5) < bias / 3 + error < abs(plain.mean() + 0.5) + 2 * error
    assert abs(plain.mean() + 0.5) > error


def test_affine_flows_between_gaussians_do_work_without_spread():
    """The flow is the target: F exact with error 0 by every estimator, whatever the map."""
    rng = np.random.default_rng(7)
    matrix, z = rng.normal(size=(5, 5)), rng.normal(size=(240, 5))
    x = z @ matrix.T + 3.0
    precision = np.linalg.inv(matrix @ matrix.T)
    log_det = np.linalg.slogdet(matrix)[1]
    energy = 0.5 * np.einsum("ni,ij,nj->n", x - 3, precision, x - 3)
    log_w = estimate.log_weights(-0.5 * np.sum(z**2, axis=1) - 2.5 * LOG_2PI - log_det, energy, 1.0)
    truth = -2.5 * LOG_2PI - log_det
    flow = estimate.flow_free_energy(log_w).estimate
    both = estimate.flow_bar(log_w[:120], log_w[120:].reshape(4, 30))
    for found in (flow, both.estimate):
        assert found.value == pytest.approx(truth, abs=1e-9) and found.stderr < 1e-9
    assert both.overlap == pytest.approx(1.0) and not both.warnings
    for spread in (1e-9, 1e-7, 1e-5, 1e-3):
        noise = spread * rng.normal(size=240)
        noisy = estimate.flow_bar((log_w + noise)[:120], (log_w + noise)[120:].reshape(4, 30))
        assert abs(noisy.value - truth) < 5 * noisy.stderr + 1e-12 and noisy.stderr < 2 * spread / math.sqrt(120)
    # Half of the draws put outside: only their share is uncertain.
    half = estimate.flow_bar(np.where(np.arange(120) % 2, log_w[:120], -np.inf), log_w[120:].reshape(4, 30))
    assert half.value == pytest.approx(truth + math.log(2), abs=1e-9)
    assert half.stderr == pytest.approx(math.sqrt((1 - 0.5) / (0.5 * 119)), rel=1e-6)


def test_bar_between_harmonic_wells_is_ln_2():
    rng = np.random.default_rng(8)
    x0, x1 = rng.normal(size=20_000) / math.sqrt(0.5), rng.normal(size=(4, 5000)) / math.sqrt(2)
    found = estimate.flow_bar(-0.75 * x0**2, -0.75 * x1**2)
    assert found.estimate.distance(math.log(2)) < 4 and found.stderr < 0.01
    assert estimate.two_sided(0.75 * x0**2, 0.75 * x1**2) == found
    plain = estimate.bar(0.75 * x0**2, -0.75 * x1.ravel() ** 2)
    assert found.value == pytest.approx(plain.value, abs=1e-4) and found.stderr == pytest.approx(plain.stderr, rel=0.1)


@pytest.mark.parametrize(("dimension", "width"), [(1, 1.3), (12, 0.85)])
def test_bar_intervals_cover_with_correlated_chains(dimension, width):
    rng, truth, repeats = np.random.default_rng(9), -dimension / 2 * LOG_2PI, 600
    draws = harmonic_log_w(width**2 * rng.chisquare(dimension, size=(repeats, 200)), dimension, width)
    chains = harmonic_log_w(autoregressive(rng, (repeats, 8), 300, dimension, 0.8), dimension, width)
    found = [estimate.flow_bar(*row).estimate for row in zip(draws, chains, strict=True)]
    assert covers([holds(one, truth) for one in found])
    values = np.array([one.value for one in found])
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(repeats)
    # Ignoring the correlation: the same states in random order.
    mixed = rng.permuted(chains.reshape(repeats, -1), axis=1).reshape(chains.shape)
    wrong = [estimate.flow_bar(*row).estimate for row in zip(draws[:150], mixed[:150], strict=True)]
    assert not covers([holds(one, truth) for one in wrong])


def test_bar_that_fails_says_so():
    rng = np.random.default_rng(1)
    far = estimate.flow_bar(rng.normal(size=50) - 400, rng.normal(size=(2, 50)) + 400)
    assert far.warnings and (not far.ok or far.overlap < 0.03)
    with pytest.raises(ValueError, match="positive at every state"):
        estimate.flow_bar(np.zeros(5), np.array([[0.0, 1.0, math.inf, 0.0]]))
    with pytest.raises(ValueError, match="at least 2 finite works"):
        estimate.flow_bar(np.array([0.0, math.nan, 1.0]), np.zeros((2, 8)))


def test_work_distributions_obey_crooks():
    """ln P_chain/P_flow = F − W in every bin, within 5 of its errors; and the densities of known works."""
    rng, width = np.random.default_rng(10), 1.2
    draws = harmonic_log_w(width**2 * rng.chisquare(12, size=40_000), 12, width)
    draws = np.concatenate([draws, np.full(10_000, -np.inf)])
    chains = harmonic_log_w(autoregressive(rng, (40,), 2000, 12, 0.5), 12, width)
    flow, chain = estimate.work_distributions(draws, chains, bins=12)
    truth = -6 * LOG_2PI + math.log(5 / 4)
    bin_width = flow.x[1] - flow.x[0]
    both = (flow.value > 8 * flow.stderr) & (chain.value > 8 * chain.stderr)
    assert both.sum() >= 4
    ratio = np.log(chain.value[both] / flow.value[both]) - (truth - flow.x[both])
    error = np.hypot(chain.stderr[both] / chain.value[both], flow.stderr[both] / flow.value[both])
    assert np.all(np.abs(ratio) < 5 * error + bin_width**2 / 8)
    assert flow.value.sum() * bin_width == pytest.approx(0.8, abs=0.03)
    assert flow.as_dict()["label"] == "flow"


def test_one_sided_intervals_cover():
    """Gaussian delta of mean m and spread s: m − s²/2, by the average and by the cumulant; m alone is wrong."""
    rng = np.random.default_rng(11)
    for spread in (0.2, 1.2):
        deltas, truth = 0.3 + spread * rng.normal(size=(4000, 200)), 0.3 - spread**2 / 2
        found = [estimate.one_sided(row) for row in deltas]
        assert covers([one.average.interval[0] < truth < one.average.interval[1] for one in found])
        assert covers([holds(one.cumulant, truth) for one in found])
        error = spread / math.sqrt(200)
        assert not covers([holds(Estimate(float(row.mean()), error), truth) for row in deltas])
        assert np.mean([estimate.agree(one.estimate, one.cumulant) for one in found]) < 1


def test_one_sided_says_when_the_surrogate_is_too_far():
    rng = np.random.default_rng(12)
    bad = estimate.one_sided(6 * rng.normal(size=200))
    assert bad.average.warnings and bad.average.ess_per_sample < 0.1
    assert estimate.agree(bad.estimate, bad.cumulant) > 1
    near = estimate.one_sided(0.2 * rng.normal(size=200))
    assert not near.average.warnings and near.estimate.stderr < 0.02
    infinite = estimate.one_sided(np.concatenate([0.2 * rng.normal(size=100), [np.inf]]))
    assert math.isfinite(infinite.estimate.value) and math.isnan(infinite.cumulant.value)


def test_two_sided_covers_and_agrees_with_one_sided():
    """From stiffness 1 to 1.15 in 12 dimensions, delta = 0.075 r²: 6 ln 1.15, the exact side a correlated chain."""
    rng, repeats, truth = np.random.default_rng(13), 400, 6 * math.log(1.15)
    near = 0.075 * rng.chisquare(12, size=(repeats, 200))
    far = 0.075 / 1.15 * autoregressive(rng, (repeats, 4), 200, 12, 0.8)
    found = [estimate.two_sided(*row).estimate for row in zip(near, far, strict=True)]
    assert covers([holds(one, truth) for one in found])
    plain = [estimate.bar(a, -b.ravel()).estimate for a, b in zip(near[:150], far[:150], strict=True)]
    assert not covers([holds(one, truth) for one in plain])
    single = estimate.one_sided(near[0]).estimate
    assert estimate.agree(single, found[0]) == single.distance(found[0].value, found[0].stderr) < 4
    with pytest.raises(ValueError, match="cannot compare 'kT' with 'eV'"):
        estimate.agree(single, single.scaled(0.03, "eV"))


POINTS = np.linspace(-2.5, 2.5, 20_001)


def double_well(x):
    return 4 * (x**2 - 1) ** 2 + 0.6 * x


def free_energy_of(inside) -> float:
    """−ln ∫ e^{−U} over part of the axis, by quadrature."""
    return -math.log(np.trapezoid(np.exp(-double_well(POINTS)) * inside, POINTS))


def exact_draws(rng, shape, inside):
    cumulative = np.cumsum(np.exp(-double_well(POINTS)) * inside)
    return np.interp(rng.random(shape) * cumulative[-1], cumulative, POINTS)


def mixture_labels(rng, chains, steps, bias, summed):
    """Labels of Metropolis chains over (k, x) with two flows that reach into each other's basin."""
    means, widths, shares = np.array([-0.8, 0.8]), np.array([0.7, 0.7]), np.array([0.3, 0.7])

    def log_weight(k, x):
        logs = np.log(shares / widths) - 0.5 * ((x[..., None] - means) / widths) ** 2
        density = np.logaddexp(logs[..., 0], logs[..., 1]) if summed else np.where(k == 0, logs[..., 0], logs[..., 1])
        return np.where((x > 0) == (k == 1), np.take(bias, k) - double_well(x) - density, -np.inf)

    weight = np.exp(np.array(bias) - [free_energy_of(POINTS < 0), free_energy_of(POINTS > 0)])
    k = (rng.random(chains) < weight[1] / weight.sum()).astype(np.int64)
    x = np.where(k == 0, exact_draws(rng, chains, POINTS < 0), exact_draws(rng, chains, POINTS > 0))
    labels, now = np.empty((*chains, steps), np.int64), log_weight(k, x)
    for step in range(steps):
        labels[..., step] = k
        new = (rng.random(chains) < shares[1]).astype(np.int64)
        y = means[new] + widths[new] * rng.normal(size=chains)
        then = log_weight(new, y)
        accept = np.log(rng.random(chains)) < then - now
        k, x, now = np.where(accept, new, k), np.where(accept, y, x), np.where(accept, then, now)
    return labels


def test_populations_of_a_mixture_chain_cover():
    """An asymmetric double well with a bias of 1 kT, 16 chains; by quadrature."""
    rng, bias = np.random.default_rng(14), (0.0, 1.0)
    truth = free_energy_of(POINTS > 0) - free_energy_of(POINTS < 0)
    labels = mixture_labels(rng, (4000, 16), 150, bias, summed=False)

    def difference(row):
        return estimate.label_populations(row, 2, bias).estimate(1, 0)

    found = [difference(row) for row in labels]
    assert covers([holds(one, truth) for one in found])
    assert np.median([one.stderr for one in found]) < 0.2
    mixed = rng.permuted(labels[:400].reshape(400, -1), axis=1).reshape(400, 16, 150)
    assert not covers([holds(difference(row), truth) for row in mixed])
    summed = mixture_labels(rng, (400, 16), 150, bias, summed=True)
    assert not covers([holds(difference(row), truth) for row in summed])
    assert not covers([holds(estimate.label_populations(row, 2).estimate(1, 0), truth) for row in labels[:400]])


def test_populations_of_three_isomers():
    labels = np.random.default_rng(15).choice(4, p=[0.5, 0.3, 0.1, 0.1], size=(8, 1000)) - 1
    found = estimate.label_populations(labels, 3)
    counts = np.bincount(labels.ravel() + 1)
    assert found.populations == pytest.approx(counts[1:] / 8000) and not found.warnings
    assert found.estimate(2, 0).value == pytest.approx(-math.log(counts[3] / counts[1]))
    assert np.array_equal(found.differences, -found.differences.T)
    assert found.differences[0, 1] + found.differences[1, 2] == pytest.approx(found.differences[0, 2])
    # Of independent labels: 1/n_a + 1/n_b.
    assert found.stderrs[0, 2] == pytest.approx(math.sqrt(1 / counts[1] + 1 / counts[3]), rel=0.15)


def test_populations_that_are_not_known_say_so():
    stuck = estimate.label_populations(np.array([[0] * 20, [1] * 20]), 3)
    assert stuck.warnings[0] == "isomer 2 was never visited"
    assert stuck.warnings[1].startswith("0 moves between isomers 0 and 1")
    assert math.isnan(stuck.estimate(2, 0).value) and stuck.stderrs[0, 1] > 1
    for labels, isomers, bias in (
        (np.zeros((2, 3), np.int64), 2, None),
        (np.full((2, 8), 2), 2, None),
        (np.full((2, 8), -2), 2, None),
        (np.zeros((2, 8), np.int64), 2, [0.0]),
        (np.zeros((2, 8), np.int64), 2, [0.0, math.nan]),
    ):
        with pytest.raises(ValueError, match="expected"):
            estimate.label_populations(labels, isomers, bias)


def test_difference_adds_errors():
    b, a = Estimate(5.0, 0.3, "kT", "BAR"), Estimate(2.0, 0.4, "kT", "BAR")
    assert estimate.difference(b, a) == Estimate(3.0, 0.5, "kT", "BAR")
    assert estimate.difference(b, Estimate(2.0, 0.4, "kT", "flow")).method == "BAR; minus flow"
    with pytest.raises(ValueError, match=r"cannot subtract 'eV' from 'kT'.*scaled"):
        estimate.difference(b, a.scaled(0.03, "eV"))
    assert a.scaled(-2.0, "x") == Estimate(-4.0, 0.8, "x", "BAR")


def part(value: float, unit: str = "kT") -> Estimate:
    return Estimate(value, math.nan, unit, "by hand")


def test_budget():
    budget = ErrorBudget(part(0.3), part(0.4), part(1.2), part(0.0))
    assert budget.total == pytest.approx(1.3) and budget.half_width == pytest.approx(1.3 * Z)
    meV = budget.scaled(30.16, "meV")
    assert meV.unit == "meV" and meV.total == pytest.approx(1.3 * 30.16)
    stored = json.loads(json.dumps(meV.as_dict(), allow_nan=False))
    assert list(stored) == ["statistical", "surrogate", "basin", "scf", "half_width"]
    assert stored["basin"] == {"value": 1.2 * 30.16, "stderr": None, "unit": "meV", "method": "by hand"}
    assert stored["half_width"]["value"] == pytest.approx(1.3 * 30.16 * Z)
    unknown = ErrorBudget(part(0.3), part(math.nan), part(1.2), part(0.0))
    assert math.isnan(unknown.total) and unknown.as_dict()["half_width"]["value"] is None
    with pytest.raises(ValueError, match="one unit"):
        ErrorBudget(part(0.3), part(0.4), part(1.2, "eV"), part(0.0))
    with pytest.raises(ValueError, match=r"'scf' is -0\.1"):
        ErrorBudget(part(0.3), part(0.4), part(1.2), part(-0.1))


def test_error_of_independent_estimates():
    found = estimate.error_of(Estimate(7.0, 0.3, "kT", "one"), Estimate(-5.0, 0.4, "kT", "two"))
    assert (found.value, found.unit, found.method) == (0.5, "kT", "one; two") and math.isnan(found.stderr)
    for wrong in ([], [Estimate(1.0, 0.1, "kT"), Estimate(1.0, 0.1, "eV")]):
        with pytest.raises(ValueError, match="one unit"):
            estimate.error_of(*wrong)


def shift_by_quenches(edge: float) -> tuple[np.ndarray, list[float], float]:
    """Shares f_ij of a double well cut at `edge` whose quenches part at its maximum; F_i by the cut; how ΔF moves."""
    top = float(POINTS[np.argmax(np.where(np.abs(POINTS) < 0.5, double_well(POINTS), -1))])
    cut, quench = ([edge > POINTS, edge <= POINTS] for edge in (edge, top))
    by_cut = [free_energy_of(inside) for inside in cut]
    mass = np.exp(-double_well(POINTS))
    shares = np.array([[np.sum(mass * i * j) / np.sum(mass * i) for j in quench] for i in cut])
    moved = free_energy_of(quench[1]) - free_energy_of(quench[0]) - (by_cut[1] - by_cut[0])
    return shares, by_cut, moved


@pytest.mark.parametrize("edge", [-0.4, -0.1, 0.3, 0.5])
def test_basin_term_is_the_shift_of_a_misplaced_boundary(edge):
    """With the boundary off to one side the bound is reached; losses alone, the usual bound, fall short of it."""
    shares, free_energies, moved = shift_by_quenches(edge)
    audit = np.rint(1e9 * np.column_stack([shares, [0.0, 0.0]])).astype(np.int64)
    found = estimate.basin_term(audit, free_energies, 1, 0)
    assert found.value == pytest.approx(abs(moved), rel=1e-4, abs=1e-6) and found.stderr < 1e-3
    moved_zero = estimate.basin_term(audit, [f - 9.0 for f in free_energies], 1, 0)
    assert moved_zero.value == pytest.approx(found.value) and moved_zero.method == found.method
    assert -math.log(shares[0, 0] * shares[1, 1]) < abs(moved) * 0.8


def test_basin_term_of_small_audits_covers():
    """Audits of 400 quenches: within 1.96 of its binomial errors of the bound that all quenches would give."""
    rng, (shares, free_energies, moved) = np.random.default_rng(16), shift_by_quenches(0.3)
    audits = np.stack([rng.multinomial(400, [*row, 0.0], size=1000) for row in shares], axis=1)
    found = [estimate.basin_term(audit, free_energies, 1, 0) for audit in audits]
    hits = np.mean([holds(one, abs(moved)) for one in found])
    assert 0.93 < hits < 0.99


def test_basin_term_without_disagreement_is_the_resolution_of_the_audit():
    for n in (100, 10_000):
        found = estimate.basin_term(np.array([[n, 0, 0], [0, n, 0]]), [0.0, 5.0], 1, 0)
        assert found.value == pytest.approx(1 / (n + 1), rel=0.02) and 0 < found.stderr < 2 / n
    assert (
        "0 of 100 configurations of isomer 0"
        in estimate.basin_term(np.array([[100, 0, 0], [0, 9, 1]]), [0.0, 0.0], 1, 0).method
    )
    named = estimate.basin_term(np.array([[100, 0, 0], [0, 9, 1]]), [0.0, 0.0], 1, 0, ["ring", "chain"])
    assert "0 of 100 configurations of isomer ring and 1 of 10 of isomer chain" in named.method
    for wrong in ([[100, 0], [0, 100]], [[0, 0, 0], [0, 9, 1]], [[100, 0, -1], [0, 9, 1]]):
        with pytest.raises(ValueError, match="an audit of 2 isomers needs"):
            estimate.basin_term(np.array(wrong), [0.0, 0.0], 1, 0)
    for free_energies, b, a in (([0.0, 0.0], 1, 1), ([0.0, 0.0], 2, 0), ([0.0, math.nan], 1, 0)):
        with pytest.raises(ValueError, match="expected two of 2 isomers"):
            estimate.basin_term(np.array([[9, 1, 0], [0, 9, 1]]), free_energies, b, a)


def test_basin_term_counts_visitors_from_a_more_stable_isomer():
    """1 % of isomer 0, which is e⁴ times as likely as isomer 1, quenches to 1: far more than isomer 1 loses."""
    audit = np.array([[9900, 100, 0], [50, 9950, 0]])
    found = estimate.basin_term(audit, [0.0, 4.0], 1, 0)
    gain = math.log1p(0.01 * math.exp(4))
    assert found.value == pytest.approx(gain - math.log1p(-100.5 / 10_001)) and found.value > 0.4
    error = math.exp(4) * math.sqrt(0.01 * 0.99 / 10_000) / (1 + 0.01 * math.exp(4))
    assert found.stderr == pytest.approx(error + math.sqrt(0.01 / 0.99 / 10_000), rel=0.01)


@pytest.mark.parametrize("right", [True, False])
def test_averages_move_to_the_exact_ensemble(right):
    """A surrogate normal law, and an exact one that is shifted and wider: second moment, and energy in kT."""
    rng, mean, width, repeats = np.random.default_rng(5), 0.1, 1.05, 1_000
    truth = np.array([mean**2 + width**2 - 1.0, 0.0])
    shifts, errors = np.zeros((repeats, 2)), np.zeros((repeats, 2))
    for number, x in enumerate(rng.standard_normal((repeats, 500))):
        surrogate, exact = x**2 / 2, (x - mean) ** 2 / (2 * width**2)
        log_w = surrogate - exact if right else np.zeros_like(x)
        pairs = np.stack([x**2, exact], 1), np.stack([x**2, surrogate], 1)
        shifts[number], errors[number] = estimate.average_shift(log_w, *pairs)
    spread = shifts.std(0)
    near = np.abs(shifts.mean(0) - truth) < 4 * spread / repeats**0.5 + 0.05 * spread  # and the bias of a ratio
    inside = (np.abs(shifts - truth) < Z * errors).mean(0)
    assert (near.all() and (inside > 0.8).all()) == right
    if right:
        np.testing.assert_allclose(np.sqrt(np.mean(errors**2, 0)), spread, rtol=0.1)
