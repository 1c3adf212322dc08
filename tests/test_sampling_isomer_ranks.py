"""Rank tests of the kernels on continuous targets (Gandy and Scott, arXiv 2001.06465, 2020), and wrong variants.

A chain in detailed balance, run both ways from an exact draw, is a stationary one: the draw's rank among its states is
uniform.
"""

import pytest
import torch
from kernel_targets import WellFlow, Wells, basins, draw_exactly, plane
from scipy import stats

from particlegen.sampling import (
    ISIR,
    Cycle,
    DelayedAcceptance,
    FlowIndependence,
    HamiltonianMonteCarlo,
    IsomerTarget,
    LabelledFlows,
    RandomScan,
    delayed,
    independence,
    kernel,
    local,
)

RANKS, LENGTH, THIN = 4000, 6, 5
EXACT = Wells(twist=0.8)
CHEAP = Wells(stiffness=(2.2, 2.0), floors=(0.2, 0.1))


def target(engine, isomers=(0,)) -> IsomerTarget:
    return IsomerTarget(engine, 1.0, basins, isomers)


def flows(isomers=(0,)) -> LabelledFlows:
    return LabelledFlows({k: WellFlow(k, 1.2) for k in isomers}, {k: 6.0 - 5.0 * k for k in isomers})


def hmc(at, leaps=3):
    return HamiltonianMonteCarlo(at, 0.7 if leaps > 1 else 0.9, leaps)


def block(isomers=(0,)):
    at = target(CHEAP, isomers)
    return Cycle([hmc(at), FlowIndependence(at, flows(isomers)), hmc(at)])


BOTH = (0, 1)
KERNELS = {
    "hmc": (lambda: hmc(target(EXACT)), (0,)),
    "mala": (lambda: hmc(target(EXACT, (1,)), 1), (1,)),
    "independence": (lambda: FlowIndependence(target(EXACT), flows()), (0,)),
    "isir": (lambda: ISIR(target(EXACT), flows(), 3), (0,)),
    "mixture": (lambda: FlowIndependence(target(EXACT, BOTH), flows(BOTH)), BOTH),
    "mixture_isir": (lambda: ISIR(target(EXACT, BOTH), flows(BOTH), 3), BOTH),
    "delayed": (lambda: DelayedAcceptance(target(EXACT), block(), 1), (0,)),
    "delayed_mixture": (lambda: DelayedAcceptance(target(EXACT, BOTH), block(BOTH), 1), BOTH),
    "random_scan": (
        lambda: RandomScan([hmc(at := target(EXACT, BOTH)), FlowIndependence(at, flows(BOTH))], [1.0, 1.0]),
        BOTH,
    ),
}


def statistics_of(state) -> torch.Tensor:
    """Energy, the coordinate towards the other well, and the label, `(chain, 3)`."""
    return torch.stack([state.energies, plane(state.positions)[:, 0], state.labels.double()], 1)


def smallest_p(make, isomers, seed=11) -> float:
    """Of three chi-square tests that ranks are uniform; ties are broken by chance."""
    tried, generator = make(), torch.Generator().manual_seed(seed)
    start = tried.init(draw_exactly(EXACT, RANKS, isomers, generator))
    runs = []
    for _ in range(2):
        state, run = start, [statistics_of(start)]
        for _ in range(LENGTH - 1):
            for _ in range(THIN):
                state, _ = tried.step(state, generator)
            run.append(statistics_of(state))
        runs.append(torch.stack(run))
    back, ahead = runs
    series = torch.cat([back[1:].flip(0), ahead])
    first = torch.randint(LENGTH, (RANKS,), generator=generator)  # how far the exact draw is from the window's start
    window = torch.stack([series[LENGTH - 1 - first + k, torch.arange(RANKS)] for k in range(LENGTH)])
    draw, chance = series[LENGTH - 1], torch.rand(window.shape, generator=generator, dtype=torch.float64)
    own = chance[first, torch.arange(RANKS)]
    ranks = ((window < draw) | ((window == draw) & (chance < own))).sum(0)
    counts = [torch.bincount(ranks[:, k], minlength=LENGTH).numpy() for k in range(3)]
    return min(float(stats.chisquare(each).pvalue) for each in counts)


def test_the_exact_draws_follow_the_law():
    x = draw_exactly(EXACT, 20000, BOTH, torch.Generator().manual_seed(1))
    edges = torch.linspace(-4, 5, 401, dtype=torch.float64)
    grid = torch.cartesian_prod((edges[1:] + edges[:-1]) / 2, (edges[1:] + edges[:-1]) / 2)
    weight = (-EXACT.evaluate(torch.stack([-grid, grid], 1) / 2**0.5).energy).exp()
    s = plane(x)
    for k in (0, 1):
        mean = (weight * grid[:, k]).sum() / weight.sum()
        spread = ((weight * (grid[:, k] - mean).square()).sum() / weight.sum()).sqrt()
        assert abs(s[:, k].mean() - mean) < 4 * spread / 20000**0.5
    share = weight[grid[:, 0] > 0].sum() / weight.sum()
    assert abs((s[:, 0] > 0).double().mean() - share) < 4 * (share * (1 - share) / 20000) ** 0.5


@pytest.mark.parametrize("name", KERNELS)
def test_ranks_are_uniform(name):
    assert smallest_p(*KERNELS[name]) > 1e-3


def energies_alone(start, end, beta):
    return beta * (start.energies - end.energies)


def summed(self, x, labels):
    each = torch.stack([flow.log_prob(x)[0] for flow in self.flows.values()], 1)
    return (each + self.log_weights).logsumexp(1)


PROB = LabelledFlows.log_prob


def unweighted(self, x, labels):
    return PROB(self, x, labels) - self.log_weights[labels]


MUTATIONS = {
    "hmc without the momenta": ("hmc", local, "energy_log_ratio", energies_alone),
    "mala without the proposal's ratio": ("mala", local, "energy_log_ratio", energies_alone),
    "mala always accepted": ("mala", kernel, "acceptance_probability", lambda ratio: float(ratio > -1e9)),
    "independence without log q": ("independence", independence, "log_weight", lambda b, u, q: -b * u),
    "isir without log q": ("isir", independence, "log_weight", lambda b, u, q: -b * u),
    "mixture with the sum over j": ("mixture", LabelledFlows, "log_prob", summed),
    "mixture without w_k": ("mixture", LabelledFlows, "log_prob", unweighted),
    "delayed without the exact engine": ("delayed", delayed, "delayed_log_ratio", lambda old, new: 0.0 * new),
    "delayed without the surrogate": ("delayed", DelayedAcceptance, "work", lambda self, state: state.energies),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_variant_fails_the_same_check(name, monkeypatch):
    base, owner, attribute, replacement = MUTATIONS[name]
    monkeypatch.setattr(owner, attribute, replacement)
    assert smallest_p(*KERNELS[base]) < 1e-6
