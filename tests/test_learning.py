"""Active learning on cheap engines: selection, trust, rounds, budget, failures, going on from a stored state."""

import itertools
import json

import pytest
import torch

from particlegen.energy import (
    Cached,
    Counted,
    KernelSettings,
    LabelSet,
    LabelStore,
    LearnedSettings,
    Ledger,
    SystemSettings,
    TorchPairEnergy,
    build_system,
    fit_kernel,
    geometry_hash,
    learned_errors,
    open_engine,
    save_learned,
    settings_hash,
)
from particlegen.energy.provider import EnergyResult, Wrapper
from particlegen.isomers import Basins, optimise
from particlegen.learning import LabelSettings, Learner, TrustRegion, requests_for, select, sorted_inverse_distances
from particlegen.networks import PotentialSettings
from particlegen.sampling import sample_hamiltonian
from particlegen.sampling.local import HamiltonianMonteCarlo
from particlegen.sampling.settings import ReferenceSettings
from particlegen.sampling.target import IsomerTarget
from particlegen.settings import InputError, RunError
from particlegen.streams import torch_stream
from particlegen.system import ParticleSystem, ThermodynamicState
from particlegen.training import TrainingSettings

KERNEL = KernelSettings(tolerance=0.02, fitted_on=20, iterations=10)


@pytest.fixture(scope="module")
def engine():
    built = build_system(SystemSettings(card="lj_cluster", particles=6))
    return TorchPairEnergy(built.system, built.potential)


@pytest.fixture(scope="module")
def minimum(engine):
    """The capped bipyramid of LJ6, C2v."""
    ring = [[0.65, 0.0, 0.0], [-0.32, 0.56, 0.0], [-0.32, -0.56, 0.0]]
    start = torch.tensor([*ring, [0.0, 0.0, 0.9], [0.0, 0.0, -0.9], [0.75, 0.9, 0.7]], dtype=torch.float64)
    x, energy = optimise(engine, start, 1e-6)
    assert energy == pytest.approx(-12.302928, abs=1e-5)
    return x


@pytest.fixture(scope="module")
def thermal(engine, minimum):
    """400 configurations about it, cold enough to stay."""
    settings = ReferenceSettings(
        sampler="hmc", chains=20, frames=400, sweeps_between_frames=3, equilibration_sweeps=72, leapfrog_steps=6
    )
    state, start = ThermodynamicState(0.05), minimum.expand(20, 6, 3).clone()
    blocks = sample_hamiltonian(engine, state, settings, 3, start=start)
    return torch.cat([torch.from_numpy(block.positions) for block in blocks])


def labelled(engine, x):
    found = engine.evaluate(x, ("energy", "forces"))
    return LabelSet(engine.system, x, found.energy, found.forces)


def halves(thermal):
    """Candidates of the first chains, and configurations of the others to measure errors on."""
    return thermal[:200], thermal[200:]


def test_a_batch_is_uncertain_weighty_and_spread():
    line = torch.tensor([0.0, 0.1, 0.25, 1.0, 2.0, 2.2, 2.2], dtype=torch.float64)[:, None, None]

    def take(uncertainty, weights, budget, known=None):
        tensors = (torch.tensor(values, dtype=torch.float64) for values in (uncertainty, weights))
        return select(line, *tensors, budget, lambda x: x.flatten(1), known).tolist()

    even = [1.0] * 7
    assert take(even, even, 3) == [3, 5, 1]
    assert take(even, even, 9) == [3, 5, 1, 4, 2, 0], "equal ones are taken once"
    assert take([9, 1, 1, 1, 1, 1, 1], even, 2) == take(even, [9, 1, 1, 1, 1, 1, 1], 2) == [0, 5]
    assert take(even, [0, 0, 0, 0, 1, 1, 1], 4) == [5, 4]
    assert sorted(take([1, 1, 1, float("nan"), 1, 1, 1], even, 9)) == [0, 1, 2, 4, 5]
    assert take(even, even, 1, line[:1]) == [5]
    assert take(even, even, 0) == take(even, [0.0] * 7, 3) == []
    assert select(line[:0], *torch.ones(2, 0), 3, lambda x: x.flatten(1)).tolist() == []
    with pytest.raises(ValueError, match="not negative"):
        take(even, [-1.0] * 7, 1)


def test_requests_are_sorted_by_the_hash_of_the_geometry(engine, thermal):
    found = requests_for(engine.system, "C2v", torch.cat([thermal[:9], thermal[:3]]))
    keys = [request.id for request in found]
    assert len(keys) == 9 and keys == sorted(keys)
    assert keys == [geometry_hash(engine.system, request.positions.numpy()) for request in found]


def test_the_descriptor_is_blind_to_order_and_rotation(thermal):
    two = ParticleSystem("two", build_system(SystemSettings(card="lj_cluster")).system.geometry, (0, 1) * 3, ("A", "B"))
    descriptor, x = sorted_inverse_distances(two), thermal[:4]
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    assert descriptor(x).shape == (4, 15)
    assert torch.allclose(descriptor(x[:, [2, 5, 0, 1, 4, 3]] @ turn), descriptor(x))
    assert not torch.allclose(descriptor(x[:, [1, 0, 2, 3, 4, 5]]), descriptor(x), atol=1e-3)


def learner(engine, minimum, budget=40, first=10, per_round=10, learned=KERNEL, **settings):
    labels = LabelSettings(budget=budget, first=first, per_round=per_round, **settings)
    return Learner(engine, {"C2v": minimum}, labels, learned)


def test_the_error_falls_from_round_to_round(engine, minimum, thermal):
    candidates, test = halves(thermal)
    truth, rounds, errors = labelled(engine, test), learner(engine, minimum), []
    for number in range(4):
        told = rounds.label(rounds.request("C2v", candidates))
        assert told.asked == 10 and told.failed == 0 and (number == 0) == (told.errors == {})
        left_out = rounds.retrain()["C2v"]
        errors.append(learned_errors(rounds.potential("C2v"), truth))
    assert left_out.labels == len(rounds.labels("C2v")) == 40
    assert (
        errors[3].energy_rmse < 0.35 * errors[0].energy_rmse and errors[3].energy_rmse < 0.05 * errors[3].energy_spread
    )
    assert all(later.energy_rmse < before.energy_rmse for before, later in itertools.pairwise(errors))


def test_errors_are_told_before_the_potential_has_seen_the_labels(engine, minimum, thermal):
    rounds = learner(engine, minimum)
    rounds.label(rounds.request("C2v", thermal))
    rounds.retrain()
    requests = rounds.request("C2v", thermal)
    fresh = labelled(engine, torch.stack([request.positions for request in requests]))
    before = learned_errors(rounds.potential("C2v"), fresh)
    told = rounds.label(requests)
    assert told.errors == {"C2v": before}
    rounds.retrain()
    assert learned_errors(rounds.potential("C2v"), fresh).energy_rmse < 0.2 * before.energy_rmse


def test_selection_beats_random_labels(engine, minimum, thermal):
    """At 30 labels: mean squared and largest error on fresh configurations, summed over two sets of candidates, are
    below the medians of five random choices."""
    chosen, random = torch.zeros(2, dtype=torch.float64), torch.zeros(5, 2, dtype=torch.float64)
    for candidates, test in (halves(thermal), halves(thermal)[::-1]):
        truth = engine.evaluate(test).energy

        def errors(potential, test=test, truth=truth):
            off = potential.evaluate(test).energy - truth
            return torch.stack([off.square().mean(), off.abs().max()])

        rounds = learner(engine, minimum, budget=30)
        for _ in range(3):
            rounds.label(rounds.request("C2v", candidates))
            rounds.retrain()
        chosen += errors(rounds.potential("C2v"))
        for seed in range(5):
            some = torch.randperm(len(candidates), generator=torch_stream(seed, "test.random"))[:30]
            random[seed] += errors(fit_kernel(labelled(engine, candidates[some]), minimum, KERNEL)[0])
    assert chosen[0] < random[:, 0].median() and chosen[1] < random[:, 1].median()


def test_a_potential_is_trusted_where_it_knows(engine, minimum, thermal):
    potential, _ = fit_kernel(labelled(engine, thermal[:30]), minimum, KERNEL)
    x = torch.cat([thermal[200:300], 1.15 * thermal[200:210]])
    basins, deviation = Basins(minimum[None], engine.system.species, reach=0.5), potential.deviation(x)
    limit = float(deviation[:100].quantile(0.8))
    assert (basins.assign(x) == 0).all() and basins.assign(2 * x[:1]).tolist() == [-1]
    found = TrustRegion(basins, {0: potential}, limit)(x)
    assert torch.equal(found == 0, deviation <= limit) and 20 <= int((found == -1).sum()) < 60
    assert TrustRegion(basins, {0: potential}, limit)(2 * x[:1]).tolist() == [-1]
    assert (TrustRegion(basins, {}, limit)(x) == 0).all(), "a basin without a potential is trusted as a whole"
    for limit in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive and finite"):
            TrustRegion(basins, {0: potential}, limit)


def test_guarded_sampling_stays_where_the_potential_is_known(engine, minimum, thermal):
    """Hotter than what was learned, chains leave the labels; those that are guarded do not."""
    potential, _ = fit_kernel(labelled(engine, thermal[:20]), minimum, KERNEL)
    limit = float(4 * potential.deviation(thermal).median())
    basins, ends = Basins(minimum[None], engine.system.species), []
    for indicator in (basins.assign, TrustRegion(basins, {0: potential}, limit)):
        kernel = HamiltonianMonteCarlo(IsomerTarget(potential, 10.0, indicator, [0]), 0.03, 3)
        state, generator = kernel.init(minimum.expand(8, 6, 3)), torch.Generator().manual_seed(1)
        state, total = kernel.step(state, generator)
        for _ in range(59):
            state, info = kernel.step(state, generator)
            total += info
        ends.append(potential.deviation(state.positions))
    assert ends[0].max() > 2 * limit and ends[1].max() <= limit and total.acceptance > 0.2


def test_the_budget_is_kept_to_the_label(engine, minimum, thermal):
    ledger = Ledger()
    rounds = learner(Counted(engine, ledger, "labels"), minimum, budget=25, first=12, per_round=8)
    asked = []
    while requests := rounds.request("C2v", thermal):
        asked.append(rounds.label(requests).asked)
        rounds.retrain()
    assert asked == [12, 8, 5] and rounds.remaining == 0
    assert ledger.total_calls(engine.name) == 25 == len(rounds.labels("C2v"))
    assert len({x.numpy().tobytes() for x in rounds.labels("C2v").positions}) == 25
    with pytest.raises(ValueError, match="2 labels are asked for, the budget still allows 0"):
        rounds.label(requests_for(engine.system, "C2v", thermal[:2]))
    with pytest.raises(ValueError, match="raise the budget"):
        LabelSettings(budget=10, first=11)


class Failing(Wrapper):
    """Fails for the share of configurations with the smallest hashes."""

    differentiable = False

    def __init__(self, provider, share):
        super().__init__(provider)
        self.share = share

    def evaluate(self, positions, want=("energy",)):
        found = self._provider.evaluate(positions, want)
        keys = [geometry_hash(self.system, x.numpy()) for x in positions]
        bad = torch.tensor([int(key[:8], 16) < self.share * 16**8 for key in keys])
        energy = found.energy.masked_fill(bad, float("nan"))
        reasons = tuple("no convergence" if gone else None for gone in bad.tolist())
        return EnergyResult(energy, found.forces, found.virial, ~bad, reasons)


def test_failed_calls_are_counted_and_kept_out(engine, minimum, thermal):
    rounds = learner(Failing(engine, 0.15), minimum)
    told = rounds.label(rounds.request("C2v", thermal)), rounds.label(rounds.request("C2v", thermal))
    failed = sum(each.failed for each in told)
    assert 1 <= failed <= 6 and rounds.failed == failed and rounds.asked == 20
    held = rounds.labels("C2v")
    assert len(held) == 20 - failed and torch.allclose(held.energies, engine.evaluate(held.positions).energy)


def test_an_engine_that_fails_too_often_ends_the_run_and_keeps_the_labels(engine, minimum, thermal):
    rounds = learner(Failing(engine, 0.7), minimum)
    with pytest.raises(RunError, match=r"of 10 calls of .* failed, more than 30%; the first: no convergence"):
        rounds.label(rounds.request("C2v", thermal))
    assert rounds.asked == 10 and len(rounds.labels("C2v")) == 10 - rounds.failed > 0


def test_labels_paid_for_elsewhere_are_learned_from_and_not_counted(engine, minimum, thermal):
    rounds = learner(engine, minimum, budget=None)
    rounds.add("C2v", labelled(engine, thermal[:12]))
    assert rounds.remaining == float("inf") and rounds.asked == 0 and len(rounds.labels("C2v")) == 12
    rounds.retrain()
    assert rounds.label(rounds.request("C2v", thermal)).asked == 10, "of a later round, not a first batch"
    assert len(rounds.labels("C2v")) == 22
    spoken = Learner(engine, {"C2v": minimum}, LabelSettings(budget=25, first=12), KERNEL, reserved=20)
    assert len(spoken.request("C2v", thermal)) == spoken.remaining == 5


class Shifted(Wrapper):
    """Another engine: the same energies with the sign of a cubic term of every distance."""

    differentiable = False

    def evaluate(self, positions, want=("energy",)):
        x = positions.detach().clone().requires_grad_()
        with torch.enable_grad():
            off = 0.3 * torch.cat([torch.pdist(one) for one in x]).reshape(len(x), -1).sub(1.2).sin().sum(1)
            (slope,) = torch.autograd.grad(off.sum(), x)
        found = self._provider.evaluate(positions, ("energy", "forces"))
        assert found.forces is not None
        return EnergyResult(found.energy + off.detach(), found.forces - slope, None, found.ok, found.reasons)


def test_a_baseline_leaves_the_difference_to_be_learned(engine, minimum, thermal):
    """From as many labels the sum is closer to the target than what learns all of it; without the baseline the
    correction alone is far off."""
    candidates, test = halves(thermal)
    target, ledger = Shifted(engine), Ledger()
    truth, errors = labelled(target, test), []
    plain = Learner(target, {"C2v": minimum}, LabelSettings(budget=20), KERNEL)
    above = Learner(
        target, {"C2v": minimum}, LabelSettings(budget=20), KERNEL, baseline=Counted(engine, ledger, "baseline")
    )
    requests = plain.request("C2v", candidates)
    for rounds in (plain, above):
        rounds.label(requests)
        rounds.retrain()
        errors.append(learned_errors(rounds.energy("C2v"), truth).energy_rmse)
    assert errors[1] < 0.5 * errors[0]
    assert torch.equal(above.labels("C2v").energies, plain.labels("C2v").energies), "labels stay those of the target"
    alone = learned_errors(above.potential("C2v"), truth)
    assert alone.energy_rmse > 10 * errors[1]
    assert ledger.total_calls(engine.name) == above.baseline_calls + len(test) == 20 + len(test)
    told = above.label(requests_for(engine.system, "C2v", test[:0]))
    assert told.errors == {}
    again = Learner(target, {"C2v": minimum}, LabelSettings(budget=30), KERNEL, baseline=engine)
    again.restore(*above.state(), {"C2v": above.potential("C2v")})
    fresh = again.request("C2v", test)
    expected = learned_errors(again.energy("C2v"), labelled(target, torch.stack([one.positions for one in fresh])))
    found = again.label(fresh).errors["C2v"]
    assert found.energy_rmse == pytest.approx(expected.energy_rmse, rel=1e-9)
    with pytest.raises(InputError, match="another system"):
        other = build_system(SystemSettings(card="lj_cluster", particles=7))
        Learner(target, {"C2v": minimum}, baseline=TorchPairEnergy(other.system, other.potential))


class Forceless(Wrapper):
    differentiable = False

    def evaluate(self, positions, want=("energy",)):
        return self._provider.evaluate(positions)


def test_what_does_not_fit_is_refused(engine, minimum, thermal):
    with pytest.raises(RunError, match="gives no forces"):
        learner(Forceless(engine), minimum).label(requests_for(engine.system, "C2v", thermal[:2]))
    rounds = learner(engine, minimum)
    with pytest.raises(RunError, match="'C2v' has no potential yet"):
        rounds.potential("C2v")
    for call in (rounds.potential, rounds.labels, lambda name: rounds.request(name, thermal)):
        with pytest.raises(ValueError, match="unknown isomer 'D3h': expected one of C2v"):
            call("D3h")
    for references in ({}, {"C2v": minimum[:5]}):
        with pytest.raises(InputError, match="expected structures of shape"):
            Learner(engine, references)
    assert rounds.label([]).asked == 0


def test_a_stored_learner_goes_on_to_the_same_potential(engine, minimum, thermal, tmp_path):
    """Labels and counts by state, the potential by its card; the target is asked for nothing twice."""
    ledger, store = Ledger(), LabelStore(tmp_path / "labels.db")

    def fresh():
        return learner(Cached(Counted(engine, ledger, "labels"), store, {"engine": "lj"}, chunk=50), minimum)

    def go(rounds):
        rounds.label(rounds.request("C2v", thermal))
        rounds.retrain()

    whole, first, again = fresh(), fresh(), fresh()
    go(whole), go(first)
    tensors, numbers = first.state()
    save_learned(tmp_path / "first.yaml", first.potential("C2v"))
    opened = open_engine(engine.system, "first.yaml", relative_to=tmp_path)
    again.restore(tensors, json.loads(json.dumps(numbers)), {"C2v": opened})
    go(whole), go(again)
    assert again.asked == whole.asked == 20 and ledger.total_calls(engine.name) == 20
    assert settings_hash(again.potential("C2v").settings) == settings_hash(whole.potential("C2v").settings)
    assert torch.equal(again.labels("C2v").positions, whole.labels("C2v").positions)


@pytest.mark.parametrize("committee", [1, 2])
def test_networks_are_learned_too(engine, minimum, thermal, committee):
    training = TrainingSettings(batch=4, steps=8, warm_up=2, validate_every=4, optimiser="adam")
    network = PotentialSettings(cutoff=2.5, width=4, rounds=1)
    section = LearnedSettings(network=network, committee=committee, held_out=0.0, training=training)
    runs = [learner(engine, minimum, learned=section) for _ in range(2)]
    for rounds in runs:
        for _ in range(2):
            told = rounds.label(rounds.request("C2v", thermal))
            rounds.retrain()
        assert told.errors["C2v"].labels == 10
    one, two = (rounds.potential("C2v").evaluate(thermal[:3]).energy for rounds in runs)
    assert torch.equal(one, two) and len(runs[0].potential("C2v").members) == committee
