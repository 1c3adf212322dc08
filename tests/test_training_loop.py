"""The training loop: the same bytes from the same seed, stopped or not; plan, average, early stop, failure."""

import itertools
import json
import math

import pytest
import torch
from torch import nn

from particlegen import training
from particlegen.geometry import FlatTorus
from particlegen.interpolant import InterpolantLoss, InterpolantSettings
from particlegen.networks import NetworkSettings, build_network
from particlegen.settings import RunError
from particlegen.system import ParticleSystem
from particlegen.training import Trainer, TrainingSettings

DATA = torch.rand(60, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Line(nn.Module):
    """The smallest network: one vector that is fitted to the data."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(3, 2, dtype=dtype))


def distance(network, batch, generator):
    noise = torch.rand(len(batch), 1, 1, generator=generator, dtype=torch.float64)
    return (network.value - batch - 0.1 * noise).square().mean()


def trainer(seed=5, loss=distance, data=DATA, **settings):
    settings = {"steps": 12, "batch": 8, "validate_every": 3, "warm_up": 2, "learning_rate": 0.1} | settings
    return Trainer(Line(), loss, TrainingSettings(**settings), seed, data)


def torus_trainer(seed=5, **settings):
    system = ParticleSystem("s", FlatTorus((2.0, 2.0)), (0, 1, 1), ("A", "B"))
    network = build_network(NetworkSettings(width=8, rounds=1, radial=2, channels=1), system)
    settings = {"steps": 8, "batch": 4, "validate_every": 2, "validation": 6, "warm_up": 2} | settings
    return Trainer(network, InterpolantLoss(system, InterpolantSettings()), TrainingSettings(**settings), seed, DATA)


def content(trainer):
    """Everything a checkpoint would hold, but for the seconds spent."""
    tensors, metadata = trainer.state()
    return {k: v.numpy().tobytes() for k, v in tensors.items()}, {k: v for k, v in metadata.items() if k != "seconds"}


@pytest.mark.parametrize("make", [trainer, torus_trainer])
def test_the_same_seed_gives_the_same_bytes(make):
    runs = [make(seed=seed) for seed in (5, 5, 6)]
    losses = [[(p.loss, p.validation_loss) for p in run.run()] for run in runs]
    assert content(runs[0]) == content(runs[1]) and losses[0] == losses[1]
    assert content(runs[0])[0] != content(runs[2])[0]
    assert losses[0][-1][1] < losses[0][0][1] or make is torus_trainer


@pytest.mark.parametrize("make", [trainer, torus_trainer])
def test_stop_and_restore_at_any_yield_repeats_the_uninterrupted_run(make):
    whole = make()
    yields = len(list(whole.run()))
    for stop in range(1, yields + 1):
        first = make()
        reports = list(itertools.islice(first.run(), stop))
        tensors, metadata = first.state()
        again = make()
        again.restore({k: v.clone() for k, v in tensors.items()}, json.loads(json.dumps(metadata)))
        reports += list(again.run())
        assert content(again) == content(whole)
        assert reports[-1].done and len(reports) == yields
        for name, value in whole.ema_weights().items():
            assert torch.equal(value, again.ema_weights()[name])

    # the mutant forgets the optimiser's moments
    first = make()
    next(first.run())
    tensors, metadata = first.state()
    again = make()
    again.restore({k: torch.zeros_like(v) if k.startswith("optimiser") else v for k, v in tensors.items()}, metadata)
    list(again.run())
    assert content(again) != content(whole)


def test_workers_share_a_batch_in_a_fixed_order():
    """The same bytes from one thread and from four, and the gradient of the mean over the parts."""
    runs = [torus_trainer(workers=4) for _ in range(2)]
    runs[1]._parts = None  # the same parts, one after the other
    for run in runs:
        list(run.run())
    assert content(runs[0]) == content(runs[1])
    assert content(runs[0])[0] != content(torus_trainer(workers=1))[0]

    def mean(network, batch, generator):
        return ((network.value - batch) ** 2).mean()

    whole, shared = (trainer(loss=mean, steps=1, clip=1e9, workers=workers) for workers in (1, 4))
    for run in (whole, shared):
        list(run.run())
    assert torch.allclose(whole.network.value.grad, shared.network.value.grad, atol=1e-15)
    assert whole.network.value.grad.abs().min() > 1e-3


class Clock:
    """A clock that moves by a set amount whenever it is read."""

    def __init__(self, tick):
        self.now, self.tick = 0.0, tick

    def perf_counter(self):
        self.now += self.tick
        return self.now


def test_minutes_become_a_stored_number_of_steps(monkeypatch):
    monkeypatch.setattr(training, "time", Clock(0.01))
    first = trainer(steps=None, minutes=0.02, validate_every=10)
    steps = first.run()
    assert next(steps).total_steps == 0 and next(steps).total_steps == 0
    planned = next(steps)
    # 0.02 minutes at 0.01 s a step, and a little lost to reports
    assert planned.step == 30 and 100 < planned.total_steps <= 120
    tensors, metadata = first.state()
    rest = list(steps)
    assert rest[-1].done and rest[-1].step == planned.total_steps and rest[-1].seconds_left == 0.0

    monkeypatch.setattr(training, "time", Clock(0.5))  # a slower machine goes on
    again = trainer(steps=None, minutes=0.02, validate_every=10)
    again.restore(tensors, metadata)
    assert list(again.run())[-1].step == planned.total_steps
    assert content(again) == content(first)


def test_a_run_resumed_before_it_is_planned_still_ends(monkeypatch):
    monkeypatch.setattr(training, "time", Clock(0.01))
    first = trainer(steps=None, minutes=0.02, validate_every=15)
    next(first.run())
    again = trainer(steps=None, minutes=0.02, validate_every=15)
    again.restore(*first.state())
    last = list(again.run())[-1]
    assert last.done and 60 < last.step <= 120


def test_the_average_follows_its_recursion():
    made = trainer(validate_every=1, ema=0.5)
    average = torch.zeros(3, 2, dtype=torch.float64)
    for step, _ in enumerate(made.run()):
        keep = min(0.5, (1 + step) / (10 + step))
        average = keep * average + (1 - keep) * made.network.value.detach()
        assert torch.allclose(made.average.value, average, atol=1e-14)
    assert not torch.allclose(average, made.network.value.detach(), atol=1e-3)
    plain = trainer(ema=0.0)
    list(plain.run())
    assert torch.equal(plain.average.value, plain.network.value.detach())


def test_the_rate_warms_up_and_decays():
    made = trainer(steps=40, warm_up=10, validate_every=1, final_rate=0.01)
    rates = []
    for _ in made.run():
        rates.append(made.optimisers[0].param_groups[0]["lr"])
    assert math.isclose(rates[0], 0.01, rel_tol=1e-9) and max(rates) == max(rates[8:12])
    assert rates[:9] == sorted(rates[:9]) and rates[11:] == sorted(rates[11:], reverse=True)
    assert 0.001 <= rates[-1] < 0.0012


def test_muon_moves_matrices_and_adam_the_rest():
    """The first update of a matrix has singular values near Muon's rate, that of a vector Adam's rate in each entry."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix, self.narrow = nn.Parameter(torch.zeros(12, 8)), nn.Parameter(torch.zeros(12, 7))
            self.vector = nn.Parameter(torch.zeros(12))

    slopes = torch.randn(12, 16, generator=torch.Generator().manual_seed(1))

    def linear(network, batch, generator):
        return (torch.cat([network.matrix, network.narrow, network.vector[:, None]], 1) * slopes).sum()

    settings = TrainingSettings(steps=1, batch=8, warm_up=0, learning_rate=0.01)
    made = Trainer(Layer(), linear, settings, 5, DATA)
    list(made.run())
    moved = made.network
    singular = torch.linalg.svdvals(moved.matrix.detach()) / (0.05 * math.sqrt(12 / 8))
    assert ((singular > 0.6) & (singular < 1.3)).all()
    assert (moved.matrix.detach() * slopes[:, :8]).sum() < 0.0
    for parameter, slope in ((moved.narrow, slopes[:, 8:15]), (moved.vector, slopes[:, 15])):
        assert torch.allclose(parameter.detach(), -0.01 * slope.sign(), atol=1e-5)


def test_training_stops_early_and_keeps_the_best_average():
    def worse(network, batch, generator):  # falls in training, rises on the average
        value = network.value.sum()
        return value if network.value.requires_grad else (value + 0.2).square()

    made = trainer(loss=worse, steps=1000, validate_every=5, patience=3, warm_up=0, ema=0.0)
    reports = list(made.run())
    assert reports[-1].done and reports[-1].step == 20 and reports[-1].total_steps == 1000
    losses = [r.validation_loss for r in reports]
    assert losses[0] == min(losses) == made.best_loss
    best = made.ema_weights()["value"]
    assert math.isclose((float(best.sum()) + 0.2) ** 2, losses[0], rel_tol=1e-12)
    assert not torch.equal(best, made.average.value)
    again = trainer(loss=worse, steps=1000, validate_every=5, patience=3, warm_up=0, ema=0.0)
    again.restore(*made.state())
    assert list(again.run()) == []
    assert len(list(trainer(loss=worse, steps=50, validate_every=5).run())) == 10  # patience 0 never stops


def test_single_bad_steps_are_skipped():
    calls = itertools.count()

    def sometimes(network, batch, generator):
        factor = math.nan if network.value.requires_grad and next(calls) % 2 else 1.0
        return distance(network, batch, generator) * factor

    made = trainer(loss=sometimes, steps=100, validate_every=50)
    reports = list(made.run())
    assert reports[-1].done and math.isfinite(reports[-1].loss) and reports[-1].validation_loss < 0.2
    assert made.optimisers[0].state_dict()["state"][0]["step"] == 50


def test_an_enormous_gradient_counts_no_more_than_a_few_usual_ones(monkeypatch):
    """A singular configuration every 25 steps: cut to the given norm alone, it would drag the momenta along."""
    often = {"steps": 300, "validate_every": 300, "learning_rate": 0.02, "ema": 0.0, "final_rate": 1.0, "clip": 50.0}

    def drift():
        calls = itertools.count(1)

        def singular(network, batch, generator):
            if network.value.requires_grad and next(calls) % 25 == 0:
                return 1e6 * network.value.sum()
            return distance(network, batch, generator)

        made = trainer(loss=singular, **often)
        list(made.run())
        return float((made.network.value - made.data.mean(0)).detach().norm())

    bounded = drift()
    monkeypatch.setattr("particlegen.training._OUTLIER", math.inf)
    assert bounded < drift() / 3


def test_a_loss_that_stays_bad_ends_the_run():
    def broken(network, batch, generator):
        return (network.value * math.inf).sum()

    made = trainer(loss=broken, steps=1000, validate_every=10)
    with pytest.raises(RunError, match="learning_rate"):
        list(made.run())
    assert not made.network.value.any() and made.step < 30


def test_validation_frames_are_set_aside():
    made = trainer(validation=7)
    assert len(made.validation) == 7 and len(made.data) == 53
    assert not (made.validation[:, None] == made.data).all(-1).all(-1).any()
    assert len(trainer(validation=1000).validation) == 12  # at most a fifth
    with pytest.raises(RunError, match="two frames"):
        trainer(data=DATA[:1])


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({}, "exactly one"),
        ({"steps": 10, "minutes": 1.0}, "exactly one"),
        ({"steps": 0}, "steps"),
        ({"minutes": math.nan}, "minutes"),
        ({"steps": 10, "batch": -1}, "batch"),
        ({"steps": 10, "ema": 1.0}, "ema"),
        ({"steps": 10, "learning_rate": math.inf}, "learning_rate"),
        ({"steps": 10, "precision": "float16"}, "precision"),
        ({"steps": 10, "batch": 9, "workers": 2}, "workers"),
        ({"steps": 10, "epochs": 3}, "epochs"),
    ],
)
def test_settings_refuse(wrong, named):
    with pytest.raises(ValueError, match=named):
        TrainingSettings(**wrong)


def test_the_optimiser_is_a_choice():
    runs = {name: torus_trainer(optimiser=name) for name in ("muon", "adam")}
    kinds = {name: [type(one).__name__ for one in run.optimisers] for name, run in runs.items()}
    assert kinds == {"muon": ["Muon", "Adam"], "adam": ["Adam"]}
    for run in runs.values():
        list(run.run())
    assert content(runs["muon"])[0] != content(runs["adam"])[0]


def test_validation_frames_may_be_given():
    """Then all data are trained on, and the validation loss is that of the frames given."""

    def plain(network, batch, generator):
        return (network.value - batch).square().mean()

    frames = DATA[:7] + 5.0
    settings = TrainingSettings(steps=4, batch=8, validate_every=2, warm_up=2, learning_rate=0.1)
    given = Trainer(Line(), plain, settings, 5, DATA, frames)
    assert {x.numpy().tobytes() for x in given.data} == {x.numpy().tobytes() for x in DATA}
    reports = list(given.run())
    expected = (given.average.value - frames).square().mean()
    assert reports[-1].validation_loss == pytest.approx(float(expected.detach()))
    assert len(trainer().data) == 48 and len(trainer().validation) == 12
