"""g(r), S(q) and energy histograms against ideal gases, brute force and freud."""

import itertools
import math

import numpy as np
import pytest

from particlegen.estimate import energy_histogram, rdf, structure_factor

BOXES = [(3.0, 4.0), (3.0, 3.5, 5.0)]
SPECIES = np.array([0, 0, 0, 1, 1])


def gas(lengths, frames, seed=0, particles=5):
    return np.random.default_rng(seed).uniform(0, 1, size=(frames, particles, len(lengths))) * np.array(lengths)


def brute_force_rdf(positions, lengths, species, pair, weights, edges):
    """The definition, pair by pair."""
    box, total = np.array(lengths), np.zeros(len(edges) - 1)
    for x, w in zip(positions, weights, strict=True):
        for i, j in itertools.permutations(range(len(x)), 2):
            if (species[i], species[j]) == pair:
                delta = x[j] - x[i]
                delta -= box * np.round(delta / box)
                total += w * np.histogram(np.linalg.norm(delta), edges)[0]
    n_a, n_b = np.sum(species == pair[0]), np.sum(species == pair[1])
    dim = len(lengths)
    ball = {2: math.pi, 3: 4 * math.pi / 3}[dim]
    return total * box.prod() / (n_a * (n_b - (pair[0] == pair[1])) * ball * np.diff(edges**dim))


@pytest.mark.parametrize("dense_pairs", [0, 2500], ids=["freud", "dense"])
@pytest.mark.parametrize("lengths", BOXES)
@pytest.mark.parametrize("pair", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_weighted_rdf_is_the_brute_force_sum(lengths, pair, dense_pairs, monkeypatch):
    monkeypatch.setattr("particlegen.estimate.observables.DENSE_PAIRS", dense_pairs)
    x = gas(lengths, 12)
    log_w = np.random.default_rng(1).normal(size=12)
    w = np.exp(log_w) / np.exp(log_w).sum()
    found = rdf(x, lengths, SPECIES, pair, log_w, bins=8, r_max=1.4)
    truth = brute_force_rdf(x, lengths, SPECIES, pair, w, np.linspace(0, 1.4, 9))
    assert found.value == pytest.approx(truth, rel=1e-9)
    equal = brute_force_rdf(x, lengths, SPECIES, pair, np.full(12, 1 / 12), np.linspace(0, 1.4, 9))
    assert not np.allclose(found.value, equal)


@pytest.mark.parametrize("lengths", BOXES)
@pytest.mark.parametrize("pair", [None, (0, 0), (0, 1)])
def test_ideal_gas_has_no_structure(lengths, pair):
    """Within 4 standard errors everywhere, and the errors are right: χ² per point is near 1."""
    x = gas(lengths, 3000, seed=2)
    found = rdf(x, lengths, SPECIES, pair, bins=12)
    # The first bins hold a handful of pairs, too few for a normal law.
    pull = (found.value - 1)[2:] / found.stderr[2:]
    assert np.all(np.abs(pull) < 4) and 0.2 < np.mean(pull**2) < 2.5
    assert np.all(found.stderr[2:] < 0.25) and np.all(found.stderr[6:] < 0.08)
    found = structure_factor(x, lengths, SPECIES, pair, bins=12)
    pull = (found.value - (0 if pair == (0, 1) else 1)) / found.stderr
    assert np.all(np.abs(pull) < 4) and 0.2 < np.mean(pull**2) < 2.5


def test_ideal_gas_check_notices_a_wrong_normalisation():
    """The mutation: counting N_a N_b pairs where N_a (N_b − 1) exist."""
    found = rdf(gas(BOXES[0], 3000, seed=2), BOXES[0], SPECIES, (0, 0), bins=12)
    assert np.any(np.abs(found.value * 2 / 3 - 1)[1:] > 4 * found.stderr[1:])


def test_rdf_agrees_with_freud_and_ignores_the_choice_of_image():
    freud = pytest.importorskip("freud")
    x = gas((4.0, 4.0, 4.0), 5, particles=60)
    ours = rdf(x, (4.0, 4.0, 4.0), np.zeros(60, int), bins=20, r_max=1.9)
    theirs = freud.density.RDF(bins=20, r_max=1.9, normalization_mode="finite_size")
    for frame in x:
        theirs.compute((freud.box.Box.cube(4.0), frame - 2.0), reset=False)
    assert ours.value == pytest.approx(theirs.rdf, rel=2e-3, abs=2e-3)
    moved = rdf(
        x + 4.0 * np.random.default_rng(0).integers(-2, 3, size=x.shape), (4.0,) * 3, np.zeros(60, int), bins=20
    )
    assert moved.value == pytest.approx(rdf(x, (4.0,) * 3, np.zeros(60, int), bins=20).value, rel=1e-3, abs=1e-3)


def test_structure_factor_agrees_with_freud():
    freud = pytest.importorskip("freud")
    # freud sums one octant of wave vectors: mirror images make all octants alike, narrow bins hold one |q| each.
    quarter = gas((6.0, 6.0, 6.0), 1, particles=25)[0] - 3.0
    x = np.concatenate([quarter * signs for signs in itertools.product((1, -1), repeat=3)])
    ours = structure_factor(x[None], (6.0,) * 3, np.zeros(200, int), bins=300, q_max=3.0)
    theirs = freud.diffraction.StaticStructureFactorDirect(bins=300, k_max=3.0, k_min=0.0)
    theirs.compute((freud.box.Box.cube(6.0), x))
    filled = np.isfinite(theirs.S_k) & (theirs.bin_centers > 0.5)
    assert len(ours.value) == 7
    assert ours.value == pytest.approx(theirs.S_k[filled], rel=1e-3)


def test_structure_factor_of_a_lattice_and_its_weights():
    """A square lattice of spacing 1 has Bragg peaks S = N at 2π, nothing below; weights choose among frames."""
    lattice = np.array(list(itertools.product(range(4), range(4))), dtype=float)
    other = gas((4.0, 4.0), 1, particles=16)
    x = np.concatenate([lattice[None], other])
    log_w = np.array([0.0, -np.inf])
    found = structure_factor(x, (4.0, 4.0), np.zeros(16, int), log_w=log_w, bins=400, q_max=6.4)
    peak = np.argmin(abs(found.x - 2 * math.pi))
    assert found.value[peak] == pytest.approx(16) and np.all(found.value[:peak] < 1e-9)


def test_frames_without_weight_may_hold_anything():
    x = gas(BOXES[0], 4)
    x[2] = math.nan
    log_w = np.array([0.0, 0.0, -np.inf, 0.0])
    kept = rdf(x[[0, 1, 3]], BOXES[0], SPECIES)
    assert rdf(x, BOXES[0], SPECIES, log_w=log_w).value == pytest.approx(kept.value)
    with pytest.raises(ValueError, match="finite"):
        rdf(x, BOXES[0], SPECIES)


def test_bad_input_is_named():
    x = gas(BOXES[0], 3)
    for wrong, match in (
        ({"r_max": 1.6}, "half the shortest"),
        ({"pair": (0, 7)}, "no pairs"),
        ({"bins": 0}, "bins"),
    ):
        with pytest.raises(ValueError, match=match):
            rdf(x, BOXES[0], SPECIES, **wrong)
    with pytest.raises(ValueError, match="below the first"):
        structure_factor(x, BOXES[0], SPECIES, q_max=0.1)
    with pytest.raises(ValueError, match="wave vectors"):
        structure_factor(x, BOXES[0], SPECIES, q_max=1e5)


def test_energy_histograms():
    rng = np.random.default_rng(7)
    raw, reference = rng.normal(1.0, 1.0, 40_000), rng.normal(0.0, 1.0, 40_000)
    log_w = -raw
    found = energy_histogram(raw, log_w, reference, bins=30, span=(-2.0, 2.0))
    width = np.diff(found.edges)
    for curve in found.curves.values():
        assert (curve.value * width).sum() + found.outside[curve.label] == pytest.approx(1)
    a, b = found.curves["reweighted"], found.curves["reference"]
    pull = (a.value - b.value) / np.hypot(a.stderr, b.stderr)
    assert np.all(np.abs(pull) < 4) and 0.3 < np.mean(pull**2) < 2
    assert np.max(np.abs(found.curves["raw"].value - b.value) / b.stderr) > 20
    broken = np.concatenate([raw, [math.nan, math.inf]])
    again = energy_histogram(broken, np.concatenate([log_w, [-np.inf] * 2]), reference, bins=30, span=(-2.0, 2.0))
    assert again.curves["reweighted"].value == pytest.approx(a.value)
    assert again.outside["raw"] > found.outside["raw"]
    assert energy_histogram(raw, log_w).edges.size == 61
    with pytest.raises(ValueError, match="no range"):
        energy_histogram(np.array([math.nan, 1.0]), np.zeros(2))


def test_results_draw_themselves():
    plt = pytest.importorskip("matplotlib.figure")
    ax = plt.Figure().subplots()
    x = gas(BOXES[0], 20)
    rdf(x, BOXES[0], SPECIES, (0, 1), names=("A", "B")).plot(ax)
    assert ax.get_xlabel() == "r" and ax.lines[0].get_label() == "A-B"
    energy_histogram(np.arange(9.0), np.zeros(9)).plot(ax)
    assert rdf(x, BOXES[0], SPECIES, bins=3).as_dict()["label"] == "all"
