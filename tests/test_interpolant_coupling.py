"""Couplings: optimal, within species, and leaving both marginals as they are."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import linear_sum_assignment

from particlegen.geometry import FlatTorus
from particlegen.interpolant import Coupling, InterpolantSettings
from particlegen.interpolant.assignment import couple
from particlegen.system import ParticleSystem

SPECIES = (0, 0, 0, 0, 1, 1, 2)


def system(lengths=(3.0, 4.0), species=SPECIES, diameters=None):
    return ParticleSystem("s", FlatTorus(lengths), species, ("A", "B", "C"), diameters)


def coupling(of, *minimised, starts=2):
    return Coupling(of, InterpolantSettings(coupling=minimised, starts=starts))


def uniform(of, n, seed):
    return of.torus.uniform((n, of.n_particles), torch.Generator().manual_seed(seed))


def cost(of, x0, x1):
    return of.torus.displacement(x0, x1).square().sum((1, 2))


def only_permutations(x0, x1, lengths, species):
    shifts = np.zeros((len(x0), 1, len(lengths)))
    return couple(x0.numpy(), x1.numpy(), lengths, species, np.eye(len(lengths))[None], shifts)


@pytest.mark.parametrize(
    ("lengths", "species"),
    [
        ((3.0, 4.0), SPECIES),
        ((2.0, 2.0, 2.5), (0,) * 5),
        ((5.0,), (0, 0, 0, 2, 2)),
        ((9.4, 9.4), (0,) * 22 + (1,) * 22),
    ],
)
def test_assignment_is_optimal(lengths, species):
    """The same cost as scipy's assignment, species by species; the order at hand is nearly always dearer."""
    of = system(lengths, species)
    x0, x1 = uniform(of, 12, 0), uniform(of, 12, 1)
    image = torch.from_numpy(only_permutations(x0, x1, lengths, species))
    kinds = np.array(species)
    for a, b, found in zip(x0, x1, cost(of, x0, image), strict=True):
        expected = 0.0
        for kind in set(species):
            members = torch.from_numpy(np.flatnonzero(kinds == kind))
            table = of.torus.displacement(a[members][:, None], b[members][None]).square().sum(-1).numpy()
            expected += table[linear_sum_assignment(table)].sum()
        assert math.isclose(found, expected, rel_tol=1e-12)
    assert (cost(of, x0, x1) > cost(of, x0, image) + 1e-9).sum() >= 10


def test_permutations_stay_within_species():
    of = system()
    x0, x1 = coupling(of, "species")(uniform(of, 50, 2), uniform(of, 50, 3), torch.Generator().manual_seed(0))
    assert torch.equal(x0, uniform(of, 50, 2))
    same = (x1[:, :, None] == uniform(of, 50, 3)[:, None]).all(-1).double()
    assert torch.equal(same.sum(1), torch.ones(50, 7)) and torch.equal(same.sum(2), torch.ones(50, 7))
    kinds = torch.tensor(SPECIES)
    assert not same[:, kinds[:, None] != kinds].any()


def pair_distances(of, x):
    """Distances of every pair of species, each list sorted: what all symmetries of the energy leave alone."""
    n, kinds = of.n_particles, torch.tensor(of.species)
    i, j = torch.triu_indices(n, n, 1)
    r = of.torus.displacement(x[:, i], x[:, j]).norm(dim=-1)
    label = torch.minimum(kinds[i], kinds[j]) * 10 + torch.maximum(kinds[i], kinds[j])
    return [r[:, label == k].sort(-1).values for k in label.unique()]


@pytest.mark.parametrize("lengths", [(3.0, 3.0), (3.0, 4.0), (2.0, 2.0, 3.0)])
def test_data_keep_every_pair_distance(lengths):
    """So do energies: data are only permuted, translated, turned; the base too, by the common element."""
    of = system(lengths)
    for minimised in (("species", "translation"), ("species", "translation", "point_group")):
        before = uniform(of, 40, 4), uniform(of, 40, 5)
        after = coupling(of, *minimised)(before[0].clone(), before[1].clone(), torch.Generator().manual_seed(1))
        for old, new in zip(before, after, strict=True):
            assert ((new >= 0) & (new < torch.tensor(lengths))).all()
            for a, b in zip(pair_distances(of, old), pair_distances(of, new), strict=True):
                assert torch.allclose(a, b, atol=1e-12)


def test_more_to_minimise_over_gives_shorter_paths():
    of, n = system((3.0, 3.0)), 300
    choices = [(), ("species",), ("species", "translation"), ("species", "translation", "point_group")]
    costs = []
    for minimised in choices:
        x0, x1 = coupling(of, *minimised)(uniform(of, n, 6), uniform(of, n, 7), torch.Generator().manual_seed(2))
        costs.append(cost(of, x0, x1))
    assert (costs[1] <= costs[0] + 1e-12).all()
    means = [float(c.mean()) for c in costs]
    assert means == sorted(means, reverse=True) and means[3] < 0.8 * means[1]
    more = coupling(of, "species", "translation", starts=8)
    x0, x1 = more(uniform(of, n, 6), uniform(of, n, 7), torch.Generator().manual_seed(2))
    assert cost(of, x0, x1).mean() < means[2]


def test_the_same_generator_couples_alike():
    of = system()
    pairs = [
        coupling(of, "species", "translation")(uniform(of, 9, 0), uniform(of, 9, 1), torch.Generator().manual_seed(s))
        for s in (5, 5, 6)
    ]
    assert torch.equal(pairs[0][0], pairs[1][0]) and torch.equal(pairs[0][1], pairs[1][1])
    assert not torch.equal(pairs[0][0], pairs[2][0])


def score(values):
    """Mean in standard errors."""
    return float(values.mean() / values.std() * math.sqrt(len(values)))


def leaning(of, x, centre):
    """How close particles lie to fixed points: mean 0 over uniform x."""
    return torch.cos(2 * math.pi * (x - centre) / torch.tensor(of.torus.lengths)).mean((1, 2))


def squareness(of, x):
    """Odd under the exchange of the axes of a square box."""
    angles = 2 * math.pi * (x[:, :, None] - x[:, None]) / torch.tensor(of.torus.lengths)
    return torch.cos(angles).sum((1, 2)) @ torch.tensor([1.0, -1.0], dtype=x.dtype)


def test_both_marginals_stay():
    """One datum, paired with 1,500 bases: the base stays uniform, the datum is spread over the symmetries."""
    of, n = system((3.0, 3.0), (0, 0, 0, 1, 1)), 1500
    datum = uniform(of, 1, 8)
    x0, x1 = coupling(of, "species", "translation", "point_group")(
        uniform(of, n, 9), datum.expand(n, -1, -1).clone(), torch.Generator().manual_seed(3)
    )
    assert stats.kstest(x0.flatten() / 3.0, "uniform").pvalue > 6e-5
    assert stats.kstest(x1[:, 0, 0] / 3.0, "uniform").pvalue > 6e-5
    for k in range(5):
        assert abs(score(leaning(of, x0, datum[:, k]))) < 4
        assert abs(score(leaning(of, x1, datum[:, k]))) < 4
    assert abs(score(squareness(of, x0))) < 4
    assert abs(score(squareness(of, x1))) < 4 and squareness(of, datum).abs() > 0.5

    # the mutant moves the base onto the datum and leaves out the common element
    shifts = of.torus.uniform((n, 2), torch.Generator().manual_seed(4)).numpy()
    group = of.torus.point_group().numpy()
    onto = datum.expand(n, -1, -1).numpy().copy()
    moved = torch.from_numpy(
        couple(onto, uniform(of, n, 9).numpy(), of.torus.lengths, of.species, group, shifts, rounds=5)
    )
    assert max(abs(score(leaning(of, moved, datum[:, k]))) for k in range(5)) > 4
    assert abs(score(squareness(of, moved))) > 4


def test_permutations_keep_every_diameter_in_its_place():
    """With one diameter for all, the particles are exchanged; with two, only those of the same."""
    moved = {}
    for sizes in ((1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.4, 1.4)):
        of = system(species=(0, 0, 0, 0), diameters=sizes)
        data = uniform(of, 200, 3)
        _, image = coupling(of, "species")(uniform(of, 200, 2), data, torch.Generator().manual_seed(0))
        origin = torch.cdist(image, data).argmin(-1)
        unlike = torch.tensor(sizes)[origin] != torch.tensor(sizes)
        moved[sizes[-1]] = (origin // 2 != torch.arange(4) // 2).any().item(), unlike.any().item()
        assert (torch.cdist(image, data).min(-1).values < 1e-9).all() and (origin != torch.arange(4)).any()
    assert moved == {1.0: (True, False), 1.4: (False, False)}


def test_unsorted_blocks_are_refused():
    x = torch.rand(1, 3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="sorted"):
        only_permutations(x, x, (3.0, 3.0), (0, 1, 0))


@pytest.mark.parametrize("lone", [("translation",), ("point_group",), ("translation", "point_group")])
def test_translations_without_permutations_are_refused(lone):
    with pytest.raises(ValueError, match="species"):
        InterpolantSettings(coupling=lone)


@pytest.mark.parametrize("minimised", [("species",), ("species", "translation", "point_group")])
def test_a_pool_shares_out_its_data_at_the_least_cost(minimised):
    """As scipy assigns the costs of all pairs; every datum once; the last, smaller pool too."""
    of, n, pool = system((3.0, 3.0)), 10, 4
    x0, x1 = uniform(of, n, 8), uniform(of, n, 9)
    shifts = uniform(of, n, 10)[:, :2].numpy() if "translation" in minimised else np.zeros((n, 1, 2))
    elements = of.torus.point_group().numpy() if "point_group" in minimised else np.eye(2)[None]
    rounds = 5 if "translation" in minimised else 0
    fixed = of.torus.lengths, of.blocks, elements
    pooled = torch.from_numpy(couple(x0.numpy(), x1.numpy(), *fixed, shifts, rounds, pool))
    for first in range(0, n, pool):
        size = min(pool, n - first)
        mine = slice(first, first + size)
        table = np.empty((size, size))
        for j in range(size):
            same = x1[first + j].expand(size, -1, -1).contiguous()
            alone = couple(x0[mine].numpy(), same.numpy(), *fixed, shifts[mine], rounds)
            table[:, j] = cost(of, x0[mine], torch.from_numpy(alone))
        rows, columns = linear_sum_assignment(table)
        found = cost(of, x0[mine], pooled[mine])
        assert torch.allclose(found, torch.from_numpy(table[rows, columns]), rtol=1e-12)
        assert size < pool or found.sum() < table.trace()
        for row, column in zip(rows, columns, strict=True):
            pairs = zip(
                pair_distances(of, pooled[first + row][None]),
                pair_distances(of, x1[first + column][None]),
                strict=True,
            )
            assert all(torch.allclose(a, b, atol=1e-12) for a, b in pairs)
