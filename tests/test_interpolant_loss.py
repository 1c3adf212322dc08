"""Paths, schedules and the loss, held to what is known exactly."""

import math

import pytest
import torch
from torch import nn

from particlegen.geometry import FlatTorus
from particlegen.interpolant import NOISE_SCHEDULES, InterpolantLoss, InterpolantSettings, geodesic_interpolant
from particlegen.interpolant.schedules import draw_times
from particlegen.system import ParticleSystem


def test_the_geodesic_runs_from_base_to_data_at_constant_speed():
    box = FlatTorus((3.0, 4.0, 5.0))
    x0, x1 = (box.uniform((40, 6), torch.Generator().manual_seed(s)) for s in (0, 1))
    at = [geodesic_interpolant(box, x0, x1, torch.full((40,), t, dtype=torch.float64)) for t in (0.0, 0.25, 0.5, 1.0)]
    assert torch.equal(at[0][0], x0)
    assert box.displacement(at[3][0], x1).abs().max() < 1e-14
    assert all(torch.equal(v, at[0][1]) for _, v in at)
    assert (at[0][1].abs() <= torch.tensor([1.5, 2.0, 2.5]) + 1e-12).all()
    assert torch.allclose(box.displacement(at[1][0], at[2][0]), at[0][1] / 4, atol=1e-13)


@pytest.mark.parametrize("name", sorted(NOISE_SCHEDULES))
def test_noise_vanishes_at_the_ends_and_its_derivative_is_right(name):
    gamma = NOISE_SCHEDULES[name]
    assert gamma(torch.tensor([0.0, 1.0], dtype=torch.float64))[0].abs().max() < 1e-15
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64, requires_grad=True)
    value, slope = gamma(t)
    assert (value >= 0).all()
    if name == "none":
        assert not value.any() and not slope.any()
        return
    (exact,) = torch.autograd.grad(value.sum(), t)
    assert torch.allclose(exact, slope, atol=1e-12)
    assert not torch.allclose(exact, 1.1 * slope, atol=1e-12)


def test_training_times_fill_the_unit_interval():
    generator = torch.Generator().manual_seed(0)
    t = draw_times(1000, 1.0, generator)
    assert torch.equal((t * 1000).floor(), torch.arange(1000.0))  # one in each of 1,000 strata
    late = draw_times(1000, 2.0, generator)
    assert abs(float(late.mean()) - 2 / 3) < 0.01 and late.min() >= 0 and late.max() <= 1


class Constant(nn.Module):
    """The same velocity everywhere."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value, dtype=torch.float64))

    def forward(self, t, x):
        return self.value.expand(x.shape)


LINE = ParticleSystem("line", FlatTorus((2.0,)), (0,), ("A",))


def loss_of(value, n=40_000, **settings):
    """Loss of a constant velocity for one particle on a circle of length 2 with uniform data, and its standard error.

    Base and data are independent and uniform, so the displacement is uniform on [−1, 1], whatever the point on the way:
    the best velocity is 0 and the loss of a constant c is 1/3 + c².
    """
    loss = InterpolantLoss(LINE, InterpolantSettings(coupling=(), **settings))
    values = []
    for k in range(16):
        generator = torch.Generator().manual_seed(k)
        data = LINE.torus.uniform((n // 16, 1), generator)
        values.append(loss(Constant(value), data, generator).item())
    values = torch.tensor(values)
    return float(values.mean()), float(values.std() / 4)


@pytest.mark.parametrize("late", [1.0, 2.0])
def test_the_loss_has_its_known_minimum(late):
    for value in (0.0, 0.2, -0.2):
        found, stderr = loss_of(value, late_times=late)
        assert abs(found - (1 / 3 + value**2)) < 4.5 * stderr
        assert stderr < 0.003
    assert abs(loss_of(0.2)[0] - 1 / 3) > 8 * loss_of(0.2)[1]


@pytest.mark.parametrize(("noise", "added"), [("quadratic", 1 / 3), ("sine_squared", math.pi**2 / 2)])
def test_noise_adds_its_mean_square_slope_to_the_loss(noise, added):
    """The target gains a γ'(t) z: a² ∫γ'² dt more. The field that minimises the loss stays 0 here."""
    found, stderr = loss_of(0.0, noise=noise, noise_amplitude=0.3)
    assert abs(found - (1 / 3 + 0.09 * added)) < 4.5 * stderr
    assert abs(found - 1 / 3) > 4.5 * stderr


def test_the_loss_follows_the_network_to_its_precision():
    system = ParticleSystem("s", FlatTorus((3.0, 3.0)), (0, 1, 1), ("A", "B"))
    data = system.torus.uniform((8, 3), torch.Generator().manual_seed(0))
    loss = InterpolantLoss(system, InterpolantSettings())
    before = data.clone()
    single = loss(Constant(0.1).float(), data, torch.Generator().manual_seed(1))
    double = loss(Constant(0.1), data, torch.Generator().manual_seed(1))
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    assert math.isclose(single.item(), double.item(), rel_tol=1e-5)
    assert torch.equal(before, data)


@pytest.mark.parametrize("wrong", [{"path": "linear"}, {"noise": "cubic"}, {"noise_amplitude": 0.0}, {"starts": 0}])
def test_settings_refuse(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        InterpolantSettings(**wrong)
