"""Overrides of a card: what they give, and what is refused with the key named."""

import pytest
from pydantic import ValidationError

from particlegen.energy import SystemSettings, build_system
from particlegen.geometry import FlatTorus, FreeSpace
from particlegen.settings import InputError


def build(**settings):
    return build_system(SystemSettings(**settings))


def test_published_sizes():
    assert build(card="ipl_binary_2d").system.torus.lengths == pytest.approx((4.4721, 4.4721), abs=1e-4)
    assert build(card="ipl_binary_2d", particles=44).system.torus.lengths == pytest.approx((9.3808,) * 2, abs=1e-4)
    assert build(card="ka_ternary_2d").system.composition == (20, 12, 12)
    assert build(card="ka_ternary_2d", particles=43).system.composition == (20, 11, 12)
    large = build(card="ka_ternary_2d", particles=1290)
    assert large.system.composition == (600, 330, 360)
    assert large.system.torus.lengths == pytest.approx((32.8962,) * 2, abs=5e-4)


def test_overrides():
    built = build(card="ipl_binary_2d", composition={"A": 30, "B": 10}, lengths=[8.0, 10.0], temperature=0.5)
    assert built.system.composition == (30, 10)
    assert built.system.geometry == FlatTorus((8.0, 10.0))
    assert built.state.beta == 2.0
    assert not built.truncated_image
    assert build(card="ipl_binary_2d").truncated_image
    assert build(card="ka_binary_3d", particles=1000, density=1.0).system.torus.lengths == pytest.approx((10.0,) * 3)
    assert build(card="ka_binary_3d", particles=40, truncated_image=True).system.composition == (32, 8)
    assert build(card="lj_bulk", potential="lj_cut").potential.coefficients == (4.0, -4.0, 0.0, 0.0, 0.0)
    assert build(card="lj_cluster", particles=7, radius=3.0).system.geometry == FreeSpace(3, 3.0)
    assert build(card="ipl_binary_2d", composition={"A": 3}).system.composition == (3, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"card": "ipl_binary_2d", "particles": 11}, "particles: 11 cannot be split in the card's ratio 5 : 5"),
        ({"card": "ipl_binary_2d", "particles": 10, "composition": {"A": 4, "B": 5}}, "'composition' adds up to 9"),
        ({"card": "ipl_binary_2d", "composition": {"A": 4, "C": 5}}, "'composition' names the species 'C'"),
        ({"card": "ipl_binary_2d", "composition": {"A": 0}}, "no particles"),
        ({"card": "ipl_binary_2d", "lengths": [4.0, 4.0], "density": 0.5}, "'lengths' and 'density'"),
        ({"card": "ipl_binary_2d", "lengths": [4.0, 4.0, 4.0]}, "'lengths' needs 2 numbers"),
        ({"card": "ipl_binary_2d", "radius": 4.0}, "'radius' does not apply"),
        ({"card": "lj_cluster", "density": 0.5}, "'density' does not apply"),
        ({"card": "lj_cluster", "lengths": [5.0, 5.0, 5.0]}, "'lengths' does not apply"),
        ({"card": "ka_binary_3d", "particles": 40}, "cutoff 2.5 exceeds half the box"),
        ({"card": "ka_ternary_2d", "lengths": [12.0, 4.9]}, "cutoff 2.5 exceeds half the box length 2.45"),
        ({"card": "ipl_binary_2d", "truncated_image": False}, "truncated_image"),
        ({"card": "ipl_binary_2d", "potential": "ka_binary_2d"}, "did you mean"),
        ({"card": "ipl_binary_2d", "potential": "lj_cut"}, "its potential is for"),
        ({"card": "polydisperse_3d", "potential": "lj_cut_shift"}, "belong together"),
        ({"card": "no_such_card"}, "unknown card 'no_such_card'"),
        ({"card": "missing.yaml"}, "missing.yaml: cannot be read"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"particles": 0},
        {"particles": -3},
        {"particles": 10**9},
        {"particles": 2.5},
        {"density": float("nan")},
        {"density": -0.5},
        {"temperature": 0.0},
        {"temperature": float("inf")},
        {"lengths": [4.0]},
        {"lengths": [4.0, -4.0]},
        {"composition": {"A": -1}},
        {"temprature": 0.5},
    ],
)
def test_values_that_are_refused(settings):
    with pytest.raises(ValidationError):
        SystemSettings(card="ipl_binary_2d", **settings)
