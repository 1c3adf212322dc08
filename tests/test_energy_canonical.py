"""The canonical frame: the same for every copy of a shape, symmetric ones and nearly symmetric ones included."""

import numpy as np
import pytest
from ase.build import molecule
from scipy.spatial.transform import Rotation

from particlegen.energy import canonical_frame
from particlegen.energy.pyscf_restart import align


def triangle(noise=0.0, seed=0):
    """A planar triangle of six silver atoms, D3h, and how it looks when displaced."""
    angles = np.deg2rad([30.0, 150.0, 270.0])
    inner = 1.61 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    x = np.concatenate([inner, -1.94 * inner])
    return x + noise * np.random.default_rng(seed).normal(size=(6, 3)), np.full(6, 47.0)


def of_ase(name):
    atoms = molecule(name)
    return atoms.positions, atoms.numbers.astype(float)


SHAPES = {
    **{name: of_ase(name) for name in ("H", "H2", "LiH", "CO2", "H2O", "NH3", "CH4", "C6H6", "CH3CH2OH")},
    "octahedron": (2.0 * np.concatenate([np.eye(3), -np.eye(3)]), np.full(6, 47.0)),
    **{f"triangle {noise}": triangle(noise) for noise in (0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-2)},
}


def copies(x, charges, n=24, seed=1):
    """Rotated, reflected, translated and renumbered ones."""
    rng = np.random.default_rng(seed)
    for k in range(n):
        turn = Rotation.random(random_state=rng).as_matrix() * (-1) ** k
        order = rng.permutation(len(x))
        yield (x @ turn.T + rng.normal(size=3))[order], charges[order]


@pytest.mark.parametrize("name", SHAPES)
def test_all_copies_share_one_frame(name):
    x, charges = SHAPES[name]
    first = canonical_frame(x, charges)
    for y, z in copies(x, charges):
        frame = canonical_frame(y, z)
        assert np.abs(frame.positions - first.positions).max() <= 1.01e-9  # a digit that rounds either way
        assert np.array_equal(frame.charges, first.charges) and (np.diff(frame.charges) >= 0).all()
        assert np.allclose(frame.axes.T @ frame.axes, np.eye(3), atol=1e-14)
        centred = y - z @ y / z.sum()
        assert np.abs(frame.to_input(frame.positions) - centred).max() < 1e-8


def test_another_shape_has_another_frame():
    x, charges = triangle(1e-2)
    moved = x.copy()
    moved[0, 0] += 1e-7
    assert np.abs(canonical_frame(x, charges).positions - canonical_frame(moved, charges).positions).max() > 2e-8


def test_principal_axes_alone_would_not_do():
    """Within the plane of a threefold top they are rounding: this is what the rule for tops is for."""
    x, charges = triangle()
    seen = []
    for y, _ in copies(x, charges):
        axes = np.linalg.eigh(y.T @ y - len(y) * np.outer(y.mean(0), y.mean(0)))[1]
        seen.append(np.sort(np.abs((y - y.mean(0)) @ axes).ravel()))
    assert np.ptp(seen, axis=0).max() > 0.1


@pytest.mark.parametrize("name", ["H", "LiH", "CO2", "H2O", "CH4", "CH3CH2OH", "triangle 0.01"])
def test_rigid_motion_is_taken_out(name):
    x, charges = SHAPES[name]
    frame = canonical_frame(x, charges)
    forces = np.random.default_rng(2).normal(size=x.shape)
    clean = frame.without_rigid_motion(forces)
    y = frame.positions - frame.positions.mean(0)
    assert np.abs(clean.sum(0)).max() < 1e-12 and np.abs(np.cross(y, clean).sum(0)).max() < 1e-12
    assert np.allclose(frame.without_rigid_motion(clean), clean, atol=1e-12)
    assert np.linalg.norm(clean) <= np.linalg.norm(forces)


@pytest.mark.parametrize("name", ["H", "LiH", "CO2", "H2O", "CH4", "CH3CH2OH", "octahedron", "triangle 0.01"])
def test_alignment_finds_a_displaced_copy(name):
    x, charges = SHAPES[name]
    x = x - charges @ x / charges.sum()
    noise = 0.02 * np.random.default_rng(3).normal(size=x.shape)
    for y, z in copies(x + noise, charges, 4):
        y = y - z @ y / z.sum()
        order, rotation = align(x, charges, y, z)
        assert np.array_equal(charges[order], z)
        assert np.sqrt(np.square(x[order] @ rotation - y).sum(1).mean()) < 0.06
