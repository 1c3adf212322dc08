"""Sums, scales and λ-paths of providers."""

import math

import pytest
import torch
from test_energy_pair import lattice

from particlegen.energy import (
    Counted,
    Ledger,
    LinearEnergy,
    SystemSettings,
    TorchPairEnergy,
    build_system,
    lambda_derivative,
    lambda_path,
)
from particlegen.testing import ContractViolation, check_energy_provider

WANT = ("energy", "forces", "virial")


def pair(card="lj_bulk", potential="lj_cut", **settings):
    built = build_system(SystemSettings(card=card, potential=potential, **settings))
    return TorchPairEnergy(built.system, built.potential)


@pytest.fixture
def ends():
    return pair(), pair(potential="lj_cut_shift")


def test_a_combination_keeps_the_contract(ends):
    combination = LinearEnergy((0.3, ends[0]), (-1.2, ends[1]))
    x = lattice(ends[0], 2)
    check_energy_provider(combination, x)
    parts, found = [end.evaluate(x, WANT) for end in ends], combination.evaluate(x, WANT)
    for name in WANT:
        expected = 0.3 * getattr(parts[0], name) - 1.2 * getattr(parts[1], name)
        assert torch.allclose(getattr(found, name), expected, rtol=1e-13)
    assert combination.name == "0.3 torch_pair + -1.2 torch_pair"

    class Careless(LinearEnergy):
        def evaluate(self, positions, want=("energy",)):
            found = super().evaluate(positions, want)
            found.energy.mul_(2.0)
            return found

    with pytest.raises(ContractViolation, match="forces"):
        check_energy_provider(Careless((1.0, ends[0])), x)


def test_the_path_and_its_derivative(ends):
    x = lattice(ends[0], 3)
    start, end = (e.evaluate(x).energy for e in ends)
    derivative = lambda_derivative(*ends).evaluate(x).energy
    h = 1e-4
    for at in (0.1, 0.5, 0.9):
        assert torch.allclose(lambda_path(*ends, at).evaluate(x).energy, (1 - at) * start + at * end, rtol=1e-13)
        difference = lambda_path(*ends, at + h).evaluate(x).energy - lambda_path(*ends, at - h).evaluate(x).energy
        assert torch.allclose(derivative, difference / (2 * h), rtol=1e-7)
    assert (derivative > 1.0).all()
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            lambda_path(*ends, wrong)


def test_an_end_that_does_not_count_is_not_paid_for(ends):
    ledger = Ledger()
    path = lambda_path(Counted(ends[0], ledger, "start"), Counted(ends[1], ledger, "end"), 1.0)
    x = lattice(ends[0], 4)
    x[0, 0] = x[0, 1]  # coincident particles
    found = path.evaluate(x)
    assert {key: entry.calls for key, entry in ledger.entries.items()} == {("torch_pair", "end"): 4}
    assert found.energy[0] == torch.inf and found.ok.all()
    difference = lambda_derivative(*ends).evaluate(x, WANT)
    assert difference.ok.tolist() == [False, True, True, True] and difference.energy[0].isnan()
    assert "do not add up" in difference.reasons[0] and difference.forces[0].isnan().all()


def test_combinations_that_make_no_sense_are_refused(ends):
    with pytest.raises(ValueError, match="at least one"):
        LinearEnergy()
    with pytest.raises(ValueError, match="finite number"):
        LinearEnergy((math.nan, ends[0]))
    with pytest.raises(ValueError, match="another system"):
        LinearEnergy((1.0, ends[0]), (1.0, pair(particles=32, truncated_image=True)))
