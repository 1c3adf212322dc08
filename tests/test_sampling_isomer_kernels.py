"""Kernels of isomer chains: every choice enumerated on discrete states, the contract, failures, bad input."""

import dataclasses

import pytest
import torch
from kernel_targets import CENTRES, DiscreteFlow, Table, WellFlow, Wells, basins, from_plane, placed, read

from particlegen.sampling import (
    ISIR,
    Cycle,
    DelayedAcceptance,
    FlowIndependence,
    HamiltonianMonteCarlo,
    IsomerTarget,
    LabelledFlows,
    RandomScan,
    composite,
    delayed,
    independence,
    kernel,
    tuned,
)
from particlegen.settings import RunError
from particlegen.testing import ContractViolation, check_kernel

BETA = 1.3
EXACT = (0.1, 0.9, -0.4, 0.3, 1.1)
CHEAP = (0.4, 0.2, -0.1, 0.8, 0.5)
BASINS = torch.tensor([0, 0, 0, 1, 1])
FIRST = (0.4, 0.2, 0.25, 0.15, 0.0)
SECOND = (0.1, 0.35, 0.0, 0.25, 0.3)
CLOSE = ((0.2, 0.5, 0.3, 0.0, 0.0), (0.5, 0.1, 0.4, 0.0, 0.0))
"""Two flows of one isomer whose π/q is largest at different states under CHEAP, as moves by flows else may commute."""


class Script(torch.Generator):
    """Takes the place of chance: follows `path`, then the first option, and notes where else it could have gone."""

    def __new__(cls, path=()):
        return super().__new__(cls)

    def __init__(self, path=()):
        self.path, self.taken, self.others, self.weight = path, (), [], 1.0

    def choose(self, probabilities):
        return torch.tensor([self._one(row) for row in probabilities], dtype=torch.int64)

    def _one(self, row):
        possible = [option for option, p in enumerate(row.tolist()) if p > 0]
        if len(self.taken) < len(self.path):
            option = self.path[len(self.taken)]
        else:
            option = possible[0]
            self.others += [(*self.taken, other) for other in possible[1:]]
        self.taken, self.weight = (*self.taken, option), self.weight * float(row[option])
        return option


@pytest.fixture
def scripted(monkeypatch):
    for module in (kernel, independence, composite):
        monkeypatch.setattr(module, "choose", lambda probabilities, script: script.choose(probabilities))


def transition_matrix(tried, states) -> torch.Tensor:
    """K[i, j], the sum over every way that the step's own code can go, with its exact probability."""
    matrix = torch.zeros(len(EXACT), len(EXACT), dtype=torch.float64)
    for i in states:
        state = tried.init(placed(torch.tensor([i])))
        paths = [()]
        while paths:
            script = Script(paths.pop())
            untouched = script.get_state()
            new, _ = tried.step(state, script)
            assert torch.equal(script.get_state(), untouched), "a random choice went by another way"
            matrix[i, int(read(new.positions)[0])] += script.weight
            paths += script.others
    assert torch.allclose(matrix[list(states)].sum(1), torch.ones(len(states), dtype=torch.float64), atol=1e-14)
    return matrix


def law(states, energies=EXACT) -> torch.Tensor:
    weights = torch.zeros(len(EXACT), dtype=torch.float64)
    weights[list(states)] = (-BETA * torch.tensor(energies, dtype=torch.float64)[list(states)]).exp()
    return weights / weights.sum()


def drift(matrix, pi) -> float:
    return float((pi @ matrix - pi).abs().max())


def imbalance(matrix, pi) -> float:
    flow = pi[:, None] * matrix
    return float((flow - flow.T).abs().max())


def table_basins(x):
    return BASINS[read(x)]


def target(energies=EXACT, isomers=(0, 1)) -> IsomerTarget:
    return IsomerTarget(Table(energies), BETA, table_basins, isomers)


def flows(weights=(0.7, 0.3)) -> LabelledFlows:
    """Each flow also draws states of the other isomer, one with a state outside its cell."""
    return LabelledFlows({0: DiscreteFlow(FIRST), 1: DiscreteFlow(SECOND, outside=(1,))}, dict(enumerate(weights)))


def independence_of(at, p=FIRST):
    return FlowIndependence(at, LabelledFlows({0: DiscreteFlow(p)}))


def one_basin(make, energies=EXACT):
    return make(target(energies, (0,)), LabelledFlows({0: DiscreteFlow(FIRST, outside=(3,))}))


def block(order, at):
    """Surrogate moves by two flows of one isomer, in an order of their numbers."""
    moves = [independence_of(at, p) for p in CLOSE]
    return Cycle([moves[k] for k in order])


def screened(make_block, steps, energies=EXACT, isomers=(0,)):
    return DelayedAcceptance(target(energies, isomers), make_block(target(CHEAP, isomers)), steps)


KERNELS = {
    "independence": (lambda: one_basin(FlowIndependence), (0, 1, 2)),
    "isir": (lambda: one_basin(lambda t, f: ISIR(t, f, 3)), (0, 1, 2)),
    "mixture": (lambda: FlowIndependence(target(), flows()), range(5)),
    "mixture_isir": (lambda: ISIR(target(), flows(), 2), range(5)),
    "random_scan": (
        lambda: RandomScan(block((0, 1), target(isomers=(0,))).kernels, [3, 1]),
        (0, 1, 2),
    ),
    "palindrome": (lambda: block((0, 1, 0), target(isomers=(0,))), (0, 1, 2)),
    "delayed": (lambda: screened(independence_of, 2), (0, 1, 2)),
    "delayed_palindrome": (lambda: screened(lambda t: block((0, 1, 0), t), 1), (0, 1, 2)),
    "delayed_mixture": (lambda: screened(lambda t: FlowIndependence(t, flows()), 1, isomers=(0, 1)), range(5)),
}


@pytest.mark.parametrize("name", KERNELS)
def test_the_law_is_invariant_to_every_choice_enumerated(name, scripted):
    make, states = KERNELS[name]
    tried, pi = make(), law(states)
    matrix = transition_matrix(tried, states)
    assert drift(matrix, pi) < 1e-12
    assert tried.reversible and imbalance(matrix, pi) < 1e-12
    assert (matrix[list(states)][:, list(states)] > 0.01).all(), "it reaches every state"


def test_a_cycle_in_one_direction_is_invariant_but_not_reversible(scripted):
    tried, pi = block((0, 1), target(CHEAP, (0,))), law((0, 1, 2), CHEAP)
    matrix = transition_matrix(tried, (0, 1, 2))
    assert drift(matrix, pi) < 1e-12 and imbalance(matrix, pi) > 1e-3 and not tried.reversible


def test_delayed_acceptance_needs_a_reversible_block(scripted, monkeypatch):
    with pytest.raises(ValueError, match="'cycle' is not reversible: give a Cycle whose order reads the same"):
        screened(lambda t: block((0, 1), t), 1)
    monkeypatch.setattr(Cycle, "reversible", True)
    wrong = screened(lambda t: block((0, 1), t), 1)
    assert drift(transition_matrix(wrong, (0, 1, 2)), law((0, 1, 2))) > 1e-4


def summed(self, x, labels):
    """The mistake in print: Σ_j w_j q_j(x) although the label is part of the state."""
    each = [flow.log_prob(x)[0] for flow in self.flows.values()]
    return (torch.stack(each, 1) + self.log_weights).logsumexp(1)


def summed_draws(self, n, generator):
    x, labels, _ = DRAW(self, n, generator)
    return x, labels, summed(self, x, labels)


DRAW, PROB = LabelledFlows.sample, LabelledFlows.log_prob
MUTATIONS = {
    "no log q": ("independence", independence, "log_weight", lambda beta, energies, log_q: -beta * energies),
    "no energy": ("independence", independence, "log_weight", lambda beta, energies, log_q: -log_q),
    "no log q in i-SIR": ("isir", independence, "log_weight", lambda beta, energies, log_q: -beta * energies),
    "i-SIR without the current state's q": (
        "isir",
        LabelledFlows,
        "log_prob",
        lambda self, x, k: torch.zeros(len(x), dtype=torch.float64),
    ),
    "always accepted": ("independence", kernel, "acceptance_probability", lambda ratio: 1.0 if ratio > -1e9 else 0.0),
    "sum over j": ("mixture", LabelledFlows, ("log_prob", "sample"), (summed, summed_draws)),
    "sum over j in the current state": ("mixture", LabelledFlows, "log_prob", summed),
    "no w_k in the current state": (
        "mixture",
        LabelledFlows,
        "log_prob",
        lambda self, x, k: PROB(self, x, k) - self.log_weights[k],
    ),
    "surrogate's law kept": ("delayed", delayed, "delayed_log_ratio", lambda old, new: 0.0 * new),
    "no surrogate ratio": ("delayed", DelayedAcceptance, "work", lambda self, state: self.target.beta * state.energies),
    "the wrong way": ("delayed", delayed, "delayed_log_ratio", lambda old, new: new - old),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_ratio_is_found(name, scripted, monkeypatch):
    base, owner, attributes, replacements = MUTATIONS[name]
    pairs = [(attributes, replacements)] if isinstance(attributes, str) else zip(attributes, replacements, strict=True)
    for attribute, replacement in pairs:
        monkeypatch.setattr(owner, attribute, replacement)
    make, states = KERNELS[base]
    assert drift(transition_matrix(make(), states), law(states)) > 1e-3


@pytest.mark.parametrize("where", ["exact", "surrogate"])
def test_states_without_an_energy_are_no_part_of_the_law(where, scripted):
    exact = (0.1, float("nan"), -0.4, 0.3, 1.1)
    if where == "exact":
        tried = screened(independence_of, 1, exact)
    else:
        tried = one_basin(FlowIndependence, exact)
    assert drift(transition_matrix(tried, (0, 2)), law((0, 2))) < 1e-12


def test_the_shares_of_labels_are_the_partition_functions_for_any_weights():
    kernels = [FlowIndependence(target(), flows(w)) for w in ((0.7, 0.3), (0.2, 0.8))]
    pi = law(range(5))
    for number, tried in enumerate(kernels):
        state = tried.init(placed(torch.zeros(2000, dtype=torch.int64)))
        generator, share = torch.Generator().manual_seed(number), []
        for step in range(120):
            state, _ = tried.step(state, generator)
            share.append(float((state.labels == 1).double().mean()) if step >= 40 else torch.nan)
        # standard error by the spread of chains: at least 2000 independent ones
        assert abs(sum(share[40:]) / 80 - float(pi[3:].sum())) < 4 * 0.5 / 2000**0.5 / 2


def wells_target(provider, isomers=(0,)):
    return IsomerTarget(provider, 1.0, basins, isomers)


SURROGATE = wells_target(Wells(stiffness=(2.5, 1.8)))
WELL_FLOWS = LabelledFlows({0: WellFlow(0, 0.8)})
BOTH = LabelledFlows({0: WellFlow(0, 0.8), 1: WellFlow(1, 1.0)}, {0: 2.0, 1: 1.0})


def local(at, step=0.5, leaps=3):
    return HamiltonianMonteCarlo(at, step, leaps)


def cycle(at, with_flows=WELL_FLOWS):
    moves = (local(at), local(at, leaps=1))
    return Cycle((*moves, FlowIndependence(at, with_flows), *moves[::-1]))


CONTRACTS = {
    "hmc": lambda e: local(wells_target(e)),
    "mala": lambda e: local(wells_target(e), leaps=1),
    "flow": lambda e: FlowIndependence(wells_target(e), WELL_FLOWS),
    "isir": lambda e: ISIR(wells_target(e), WELL_FLOWS, 4),
    "mixture": lambda e: FlowIndependence(wells_target(e, (0, 1)), BOTH),
    "mixture_isir": lambda e: ISIR(wells_target(e, (0, 1)), BOTH, 4),
    "cycle": lambda e: cycle(wells_target(e, (0, 1)), BOTH),
    "random_scan": lambda e: RandomScan([local(t := wells_target(e)), FlowIndependence(t, WELL_FLOWS)], [2.0, 1.0]),
    "delayed": lambda e: DelayedAcceptance(wells_target(e), cycle(SURROGATE), 2),
    "delayed_scan": lambda e: DelayedAcceptance(
        wells_target(e), RandomScan([local(SURROGATE), FlowIndependence(SURROGATE, WELL_FLOWS)], [2.0, 1.0]), 3
    ),
}


def start(chains=6):
    return from_plane(CENTRES[0].expand(chains, -1) + torch.linspace(-0.3, 0.3, chains, dtype=torch.float64)[:, None])


@pytest.mark.parametrize("name", CONTRACTS)
def test_contract(name):
    check_kernel(CONTRACTS[name], Wells(), start() + 3.0, steps=8)


class Stale:
    """A kernel with one thing wrong."""

    def __init__(self, inner, spoil):
        self.inner, self.spoil, self.steps = inner, spoil, 0
        self.name, self.target, self.reversible, self.init = inner.name, inner.target, inner.reversible, inner.init

    def step(self, state, generator):
        self.steps += 1
        return self.spoil(self, state, *self.inner.step(state, generator), generator)


def forget_energy(self, old, new, info, generator):
    return dataclasses.replace(new, energies=old.energies), info


def remember(self, old, new, info, generator):
    return (new if self.steps % 2 else old), info


def ignore_failures(self, old, new, info, generator):
    ahead = dataclasses.replace(old, positions=-old.positions)
    return (ahead, info) if info.failed.any() else (new, info)


def write_over(self, old, new, info, generator):
    old.energies.add_(1.0)
    return new, info


def miscount(self, old, new, info, generator):
    return new, dataclasses.replace(info, calls=info.calls + 1)


def leave(self, old, new, info, generator):
    return dataclasses.replace(new, positions=-new.positions), info


class Seedless(Stale):
    """Steps of its own chance."""

    def step(self, state, generator):
        return self.inner.step(state, torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("spoil", "clause"),
    [
        (forget_energy, "energies are not those of the positions"),
        (remember, "the same state and generator give another step"),
        (ignore_failures, "moves to where there is no energy"),
        (write_over, "step changes the state it is given"),
        (miscount, "calls, the ledger counts"),
        (leave, "outside its isomer's basin"),
    ],
)
def test_the_contract_test_finds_what_is_wrong(spoil, clause):
    with pytest.raises(ContractViolation, match=clause):
        check_kernel(lambda e: Stale(local(wells_target(e)), spoil), Wells(), start())
    with pytest.raises(ContractViolation, match="another seed gives the same step"):
        check_kernel(lambda e: Seedless(local(wells_target(e)), None), Wells(), start())


@pytest.mark.parametrize("name", CONTRACTS)
def test_failures_and_ends_outside_are_rejected_and_counted(name):
    """No energy for s₁ > 0.6: no chain goes there, and the law elsewhere is left to the tests of ranks."""
    engine = Wells(fails=lambda s: s[:, 1] > 0.6)
    tried = CONTRACTS[name](engine)
    generator = torch.Generator().manual_seed(3)
    state = tried.init(start(128))
    state, total = tried.step(state, generator)
    for _ in range(15):
        state, info = tried.step(state, generator)
        total += info
    s = (state.positions[:, 1] - state.positions[:, 0]) / 2**0.5
    assert (s[:, 1] <= 0.6).all() and (basins(state.positions) == state.labels).all()
    assert total.failed.sum() > 20 and total.accepted.sum() > 200
    assert engine.evaluate(state.positions).ok.all() and state.energies.isfinite().all()
    if "delayed" not in name:
        assert total.left_basin.sum() > 20  # the surrogate's chains never leave, so the exact target sees none outside
    assert 0 < total.acceptance < 1


def test_the_engine_is_not_asked_where_the_target_has_no_weight():
    tried = FlowIndependence(wells_target(Wells()), WELL_FLOWS)
    state = tried.init(start(500))
    _, info = tried.step(state, torch.Generator().manual_seed(1))
    assert info.calls == 500 - info.left_basin.sum() and info.left_basin.sum() > 5


def test_a_block_that_ends_where_it_began_needs_no_exact_energy():
    stuck = local(SURROGATE, step=1e3, leaps=1)
    tried = DelayedAcceptance(wells_target(Wells()), stuck, 3)
    _, info = tried.step(tried.init(start()), torch.Generator().manual_seed(1))
    assert info.calls == 0 and info.proposed.sum() == 0 and info.acceptance != info.acceptance
    assert info.parts["surrogate"].proposed.tolist() == [3] * 6


def test_work_is_the_difference_of_the_two_laws():
    tried = DelayedAcceptance(wells_target(Wells()), cycle(SURROGATE), 2)
    state, info = tried.step(tried.init(start()), torch.Generator().manual_seed(1))
    exact, cheap = (wells.evaluate(state.positions).energy for wells in (Wells(), Wells(stiffness=(2.5, 1.8))))
    assert torch.allclose(tried.work(state), exact - cheap, atol=1e-12)
    assert set(info.parts) == {"surrogate", "surrogate.hmc", "surrogate.mala", "surrogate.flow"}
    assert info.parts["surrogate.hmc"].proposed.tolist() == [4] * 6 and info.calls == int(info.proposed.sum())


def test_positions_stay_centred_over_many_steps():
    tried = local(wells_target(Wells()))
    state, generator = tried.init(start()), torch.Generator().manual_seed(1)
    for _ in range(100):
        state, _ = tried.step(state, generator)
    assert state.positions.mean(1).abs().max() < 1e-15


@pytest.mark.parametrize("leaps", [1, 5])
def test_the_step_is_tuned_to_the_best_acceptance_and_frozen(leaps):
    tried = HamiltonianMonteCarlo(wells_target(Wells()), 1e-3, leaps)
    generator = torch.Generator().manual_seed(1)
    better, state = tuned(tried, tried.init(start(100)), generator)
    _, info = better.step(state, generator)
    total = info
    for _ in range(20):
        state, info = better.step(state, generator)
        total += info
    assert tried.step_size == 1e-3
    assert total.acceptance == pytest.approx(0.574 if leaps == 1 else 0.651, abs=0.08)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"chain 1 starts in basin 1, expected one of \(0,\)"):
        local(wells_target(Wells())).init(torch.stack([start(1)[0], -start(1)[0]]))
    with pytest.raises(RunError, match="chain 0: wells has no energy to start from: no energy here"):
        local(wells_target(Wells(fails=lambda s: s[:, 0] < 9))).init(start())
    with pytest.raises(ValueError, match=r"isomers are \(0,\), those with a flow \(0, 1\)"):
        FlowIndependence(wells_target(Wells()), BOTH)
    with pytest.raises(ValueError, match="need one positive weight each"):
        LabelledFlows({0: WellFlow(0, 1.0)}, {0: 0.0})
    with pytest.raises(ValueError, match="share one target object"):
        Cycle([local(wells_target(Wells())), local(wells_target(Wells()))])
    with pytest.raises(ValueError, match="2 kernels need as many positive weights"):
        RandomScan([local(SURROGATE), local(SURROGATE)], [1.0])
    with pytest.raises(ValueError, match="other isomers or basins"):
        DelayedAcceptance(wells_target(Wells(), (0, 1)), local(SURROGATE), 1)
    with pytest.raises(ValueError, match="at least 2 candidates"):
        ISIR(wells_target(Wells()), WELL_FLOWS, 1)
    with pytest.raises(ValueError, match="step_size > 0 and leaps >= 1"):
        HamiltonianMonteCarlo(SURROGATE, 0.0)
