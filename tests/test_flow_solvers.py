"""The solvers on problems with known answers: order, tolerance, one step size per trajectory."""

import itertools
import math

import pytest
import torch

from particlegen.flow import solvers
from particlegen.flow.solvers import dormand_prince, runge_kutta_4

X = torch.tensor([0.5, -0.7, 1.2, 0.0], dtype=torch.float64).view(4, 1, 1)


def shrink(t, x, rows):
    """v = −x: x(1) = x(0)/e, divergence −N d."""
    return -x, torch.full((len(x), 1), -float(x[0].numel()), dtype=x.dtype)


def square(t, x, rows):
    """v = t x²: x(1) = x(0)/(1 − x(0)/2), ∫ div dt = −2 ln(1 − x(0)/2)."""
    return t[:, None, None] * x**2, (2 * t[:, None, None] * x).sum((1, 2))[:, None]


def turn(t, x, rows):
    """v = 2 a t sin x on the circle: tan(x/2) grows by exp(a t²), so exp(∫ div dt) is known (a Möbius map)."""
    return 6 * t[:, None, None] * torch.sin(x), (6 * t[:, None, None] * torch.cos(x)).sum((1, 2))[:, None]


def turned(x, a=3.0):
    end = 2 * torch.atan(math.exp(a) * torch.tan(x / 2))
    return end, -torch.log(math.exp(-a) * torch.cos(x / 2) ** 2 + math.exp(a) * torch.sin(x / 2) ** 2).sum((1, 2))


@pytest.mark.parametrize(
    ("field", "end", "integral"),
    [
        (shrink, lambda x: x / math.e, lambda x: -torch.ones(4, dtype=x.dtype)),
        (square, lambda x: x / (1 - x / 2), lambda x: -2 * torch.log(1 - x / 2).sum((1, 2))),
        (turn, lambda x: turned(x)[0], lambda x: turned(x)[1]),
    ],
)
def test_both_solvers_reach_the_known_end(field, end, integral):
    for x, total in (
        runge_kutta_4(field, X, 0.0, 1.0, 400),
        dormand_prince(field, X, 0.0, 1.0, 1e-12)[:2],
    ):
        assert torch.allclose(x, end(X), atol=1e-8)
        assert torch.allclose(total[:, 0], integral(X), atol=1e-7)


def errors(steps):
    x, total = runge_kutta_4(turn, X[:3], 0.0, 1.0, steps)
    end, integral = turned(X[:3])
    return (x - end).abs().max().item(), (total[:, 0] - integral).abs().max().item()


def test_the_error_of_runge_kutta_falls_with_the_fourth_power():
    coarse, fine = errors(64), errors(128)
    for a, b in zip(coarse, fine, strict=True):
        assert 13.0 < a / b < 19.0


def euler(field, x, start, end, steps):
    total, rows = torch.zeros(len(x), 1, dtype=x.dtype), torch.arange(len(x))
    for k in range(steps):
        v, d = field(torch.full((len(x),), k / steps, dtype=x.dtype), x, rows)
        x, total = x + v / steps, total + d / steps
    return x, total


def test_a_lower_order_fails_the_same_check(monkeypatch):
    monkeypatch.setitem(globals(), "runge_kutta_4", euler)
    assert all(a / b < 4.0 for a, b in zip(errors(64), errors(128), strict=True))


@pytest.mark.parametrize("solve", [runge_kutta_4, dormand_prince], ids=lambda f: f.__name__)
def test_the_inverse_undoes_the_flow(solve):
    setting = 200 if solve is runge_kutta_4 else 1e-11
    end, forth = solve(turn, X, 0.0, 1.0, setting)[:2]
    start, back = solve(turn, end, 1.0, 0.0, setting)[:2]
    assert torch.allclose(start, X, atol=1e-7) and torch.allclose(back, -forth, atol=1e-6)


def test_the_error_of_dormand_prince_follows_the_tolerance():
    found = []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        x, total, estimate = dormand_prince(turn, X, 0.0, 1.0, tolerance)
        end, integral = turned(X)
        found.append(max((x - end).abs().max().item(), (total[:, 0] - integral).abs().max().item()))
        assert found[-1] < 100 * tolerance and (estimate >= 0).all()
    assert all(a > 5 * b for a, b in itertools.pairwise(found))


class Counted:
    """Counts the evaluations spent on each trajectory of a batch of decays, each with its own rate."""

    def __init__(self, rates):
        self.rates, self.calls = torch.tensor(rates, dtype=torch.float64), torch.zeros(len(rates), dtype=torch.long)

    def __call__(self, t, x, rows):
        self.calls[rows] += 1
        rate = self.rates[rows][:, None, None]
        return -rate * torch.sin(x), (-rate * torch.cos(x)).sum((1, 2))[:, None]


def test_every_trajectory_has_a_step_size_of_its_own():
    """Alone or beside a stiff neighbour: the same result from the same number of evaluations."""
    x = torch.full((2, 1, 1), 0.5, dtype=torch.float64)
    both = Counted([0.1, 60.0])
    together = dormand_prince(both, x, 0.0, 1.0, 1e-8)
    for k, rate in enumerate((0.1, 60.0)):
        one = Counted([rate])
        alone = dormand_prince(one, x[:1], 0.0, 1.0, 1e-8)
        assert both.calls[k] == one.calls[0]
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a[0], b[k])
    assert both.calls[1] > 5 * both.calls[0]
    assert together[2][0] < together[2][1]


def test_trajectories_without_an_end_have_no_integral(monkeypatch):
    """A velocity that stops being finite, and one that whirls: the others go on as if alone."""

    def broken(t, x, rows):
        v = torch.where(((rows == 1) & (t > 0.3))[:, None, None], math.nan, -x)
        whirls = (rows == 2)[:, None, None]
        return torch.where(whirls, torch.sin(1e5 * x) + 2.0, v), -torch.ones(len(x), 1, dtype=x.dtype)

    monkeypatch.setattr(solvers, "_MOST_STEPS", 100)
    x, total, error = dormand_prince(broken, X, 0.0, 1.0, 1e-8)
    assert error.isnan().tolist() == total[:, 0].isnan().tolist() == [False, True, True, False]
    assert torch.allclose(x[[0, 3]], X[[0, 3]] / math.e, atol=1e-7) and x.isfinite().all()
    assert torch.equal(x[0], dormand_prince(broken, X[:1], 0.0, 1.0, 1e-8)[0][0])
    with pytest.raises(ArithmeticError, match="every trajectory needs more than 5 steps"):
        monkeypatch.setattr(solvers, "_MOST_STEPS", 5)
        dormand_prince(turn, X[:3], 0.0, 1.0, 1e-10)
