"""Features of displacements on a torus against what their docstrings promise."""

import math

import pytest
import torch

from particlegen.geometry import FlatTorus
from particlegen.networks import TorusFeatures, smooth_displacement


def _smooth(theta, order=8):
    return smooth_displacement(torch.cos(theta), torch.sin(theta), order)


def _error(order):
    theta = torch.linspace(-1.6, 1.6, 2001, dtype=torch.float64)
    return (_smooth(theta, order)[0] - theta**2).abs().max()


def test_smooth_displacement_is_the_square_of_the_angle():
    assert _error(8) < 1e-3
    assert _error(5) > 1e-3  # a shorter series fails the same check
    assert _error(60) < 1e-9


def test_smooth_angle_is_half_the_derivative_and_flat_at_the_antipode():
    theta = torch.linspace(-7.0, 7.0, 501, dtype=torch.float64, requires_grad=True)
    square, angle = _smooth(theta)
    (slope,) = torch.autograd.grad(square.sum(), theta)
    assert torch.allclose(slope / 2, angle, atol=1e-13)
    assert torch.allclose(_smooth(theta + 2 * math.pi)[0], square, atol=1e-12)
    assert _smooth(torch.tensor(math.pi, dtype=torch.float64))[1].abs() < 1e-15


@pytest.mark.parametrize("lengths", [(2.0, 2.0), (2.0, 3.0), (2.0, 2.0, 2.0), (2.0, 2.0, 3.0), (1.5, 2.0, 3.0)])
def test_invariants_stay_and_vectors_turn(lengths):
    box = FlatTorus(lengths)
    features = TorusFeatures(box, 0.8, harmonics=3, radial=6).double()
    delta = 4 * torch.rand(box.dim, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    invariants, vectors = features(delta)
    assert invariants.shape == (features.invariants, 30) and vectors.shape == (features.vectors, box.dim, 30)
    for matrix in box.point_group():
        same, turned = features(matrix @ delta)
        rows = matrix.abs().argmax(1)
        assert torch.allclose(turned, matrix @ vectors, atol=1e-13)
        assert torch.allclose(same, invariants, atol=1e-13), rows
    parts = features.dot(vectors, vectors)
    assert parts.shape == (features.vectors * len(set(lengths)), 30)
    assert torch.allclose(parts.view(len(set(lengths)), -1, 30).sum(0), vectors.square().sum(1), atol=1e-12)


def test_near_particles_have_the_plain_displacement():
    """At short range the second vector is Δ itself and the first is its direction, softened at contact."""
    box = FlatTorus((6.0, 6.0))
    features = TorusFeatures(box, 1.0, harmonics=2, radial=4).double()
    delta = torch.tensor([[0.3, -0.4], [0.05, 0.0]], dtype=torch.float64).T
    vectors = features(delta)[1]
    assert torch.allclose(vectors[1], delta, atol=1e-6)
    distance = torch.sqrt(delta.square().sum(0) + 0.01**2)
    assert torch.allclose(vectors[0], delta / distance, atol=1e-6)


def test_radial_functions_are_close_at_contact_and_wide_apart_beyond():
    """Each peaks on a scale that is even below 0.15 spacings and logarithmic above, the last one at the reach."""
    spacing, radial = 2.0, 9
    features = TorusFeatures(FlatTorus((20.0, 20.0)), spacing, harmonics=1, radial=radial).double()
    peaks = 0.15 * spacing * (torch.logspace(0, 1, radial, base=1 + 3.0 / 0.15, dtype=torch.float64) - 1)
    invariants = features(torch.stack([peaks, torch.zeros_like(peaks)]))[0][:radial]
    assert torch.equal(invariants.argmax(0), torch.arange(radial))
    assert (invariants.diagonal()[1:] > 0.99).all()
    assert torch.allclose(invariants.diagonal(1), torch.tensor(math.exp(-1.0), dtype=torch.float64), atol=0.02)
