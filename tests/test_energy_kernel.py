"""Kernel potentials: the process against slow truths, symmetry, calibration, the contract, cards."""

import math

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_energy_engines import silver

from particlegen.energy import (
    ASEEnergy,
    KernelSettings,
    LabelSet,
    UncertainPotential,
    fit_kernel,
    learned_errors,
    open_engine,
    save_learned,
    settings_hash,
)
from particlegen.energy.kernel import Folding, covariance, matern, own_covariance, points
from particlegen.energy.kernel_training import _Data, _left_out
from particlegen.geometry import FlatTorus, FreeSpace
from particlegen.settings import InputError
from particlegen.system import ParticleSystem
from particlegen.testing import check_energy_provider

OCTAHEDRON = 2.0 * torch.cat([torch.eye(3), -torch.eye(3)]).double()
CORNERS = OCTAHEDRON * torch.tensor([0.9, 1.0, 1.1]).double()
"""Stretched, with 8 operations in place of 48."""
RAMP = torch.tensor([[0.0, 0.0, 0.0], [2.5, 0.0, 0.0], [0.4, 2.6, 0.0], [0.3, 0.8, 2.4]], dtype=torch.float64)


def thermal(batch, seed):
    generator = torch.Generator().manual_seed(seed)
    return CORNERS + 0.1 * torch.randn(batch, 6, 3, generator=generator, dtype=torch.float64)


def labelled(system, x, engine="emt"):
    found = ASEEnergy(system, engine).evaluate(x, ("energy", "forces"))
    return LabelSet(system, x, found.energy, found.forces)


@pytest.fixture(scope="module")
def labels():
    """60 distorted, stretched octahedra of Ag6 by effective-medium theory."""
    return labelled(silver(), thermal(60, seed=11))


@pytest.fixture(scope="module")
def fitted(labels):
    return fit_kernel(labels.select(torch.arange(20)), CORNERS)


def alloy():
    return ParticleSystem("alloy", FreeSpace(3), (0, 1, 0, 1), ("Ag", "Cu"), units="metal")


def test_it_learns_energies_and_forces(labels, fitted):
    """On labels that it has not seen, beside what a constant is wrong by; from forces of the wrong sign it cannot."""

    def check(potential):
        errors = learned_errors(potential, labels.select(torch.arange(20, 60)))
        assert errors.energy_rmse < 0.05 * errors.energy_spread, "energy"
        assert errors.force_rmse < 0.1 * errors.force_spread, "force"

    check(fitted[0])
    wrong = LabelSet(labels.system, labels.positions, labels.energies, -labels.forces)
    with pytest.raises(AssertionError):
        check(fit_kernel(wrong.select(torch.arange(20)), CORNERS)[0])


def test_it_passes_through_its_labels_to_the_noise(labels, fitted):
    potential, _ = fitted
    on = learned_errors(potential, labels.select(torch.arange(20)))
    assert on.energy_rmse < 2 * potential.model.energy_noise and on.force_rmse < 2 * potential.model.force_noise
    assert potential.model.energy_noise < 0.02 * on.energy_spread


def calibration(errors, deviations):
    """Root mean square of errors in units of their deviation, and the share within two of them."""
    z = errors / deviations
    return float(z.square().mean().sqrt()), float((z.abs() < 2).double().mean())


def test_the_deviation_is_the_size_of_the_error(labels, fitted):
    """On labels held out: errors in units of it have a spread of 0.3 to 1.6 (effective-medium theory is smoother than
    the process supposes), and 85 % or more lie within two of it."""
    potential, _ = fitted
    held = labels.select(torch.arange(20, 60))
    found, apart = potential.judge(held.positions, ("energy", "forces"))
    spread, inside = calibration(found.energy - held.energies, apart.energy)
    assert 0.3 < spread < 1.6 and inside > 0.85
    force = (found.forces - held.forces).square().sum(2).amax(1).sqrt()
    assert 0.3 < calibration(force, apart.force)[0] < 1.6
    assert not 0.3 < calibration(found.energy - held.energies, 0.2 * apart.energy)[0] < 1.6
    far = potential.deviation(CORNERS + 6 * (held.positions - CORNERS))
    assert (far > apart.energy).all() and far.median() > 20 * apart.energy.median()


def test_deviations_of_energies_alone_are_those_of_judge(labels, fitted):
    potential, _ = fitted
    assert isinstance(potential, UncertainPotential)
    x = labels.positions[28:40].clone()
    x[3, 0, 0] = torch.nan
    mean, apart = potential.judge(x)
    assert mean.forces is None and not mean.ok[3] and apart.energy[3].isnan() and apart.force[3].isnan()
    good = torch.arange(12) != 3
    assert torch.allclose(potential.deviation(x)[good], apart.energy[good], rtol=1e-6)
    assert potential.deviation(x)[3].isnan() and potential.deviation(x[:0]).shape == (0,)


@pytest.mark.parametrize("case", ["one species", "two species", "two dimensions"])
def test_the_contract(case, fitted):
    if case == "one species":
        provider, x = fitted[0], thermal(3, seed=5)
    elif case == "two species":
        noise = 0.1 * torch.randn(15, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        provider, x = fit_kernel(labelled(alloy(), RAMP + noise), RAMP)[0], RAMP + noise[:3].flip(0)
    else:
        flat = ParticleSystem("flat", FreeSpace(2), (0, 0, 0), ("A",))
        corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.9]], dtype=torch.float64)
        noise = 0.05 * torch.randn(12, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        x = (corners + noise).requires_grad_()
        energy = (x[:, [0, 1, 2]] - x[:, [1, 2, 0]]).norm(dim=2).sub(1).square().sum(1)
        (slope,) = torch.autograd.grad(energy.sum(), x)
        x = x.detach()
        provider = fit_kernel(LabelSet(flat, x, energy, -slope), corners)[0]
    check_energy_provider(provider, x[:3], step=1e-4)


@given(st.integers(0, 2**31), st.permutations(range(6)), st.booleans())
@settings(max_examples=200, deadline=None)
def test_invariances(fitted, seed, order, mirrored):
    potential, generator = fitted[0], torch.Generator().manual_seed(seed)
    x = CORNERS + 0.15 * torch.randn(1, 6, 3, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    turn = turn * torch.linalg.det(turn) * (-1 if mirrored else 1)
    shift = torch.randn(3, generator=generator, dtype=torch.float64)
    here = potential.evaluate(x, ("energy", "forces"))
    there = potential.evaluate(x[:, order] @ turn.T + shift, ("energy", "forces"))
    assert torch.allclose(there.energy, here.energy, rtol=0, atol=1e-7)
    assert torch.allclose(there.forces, here.forces[:, order] @ turn.T, rtol=0, atol=1e-6)


def test_covariances_are_derivatives_of_the_kernel():
    """Against torch's second derivatives of the average over all images, by Cartesian coordinates."""
    folding = Folding(CORNERS, (0,) * 6, 0.1)
    x, length = thermal(2, seed=4), 0.2
    seen = points(folding, x)

    def kernel(one, other):
        features = []
        for y, like in ((one, x[0]), (other, x[1])):
            phi = torch.stack([1 / (y[i] - y[j]).norm() for i in range(6) for j in range(i)])
            order = folding.order(
                torch.stack([1 / (like[i] - like[j]).norm() for i in range(6) for j in range(i)])[None]
            )
            features.append(phi[order[0]])
        a, b = features
        return sum(matern((a - b[image]).square().sum() / length**2)[0] for image in folding.images) / 8

    value = kernel(*x)
    slope = torch.autograd.functional.jacobian(lambda other: kernel(x[0], other), x[1]).flatten()
    mixed = torch.autograd.functional.jacobian(
        lambda one: torch.autograd.functional.jacobian(lambda b: kernel(one, b), x[1], create_graph=True), x[0]
    ).reshape(18, 18)
    found = covariance(seen[:1], seen[1:], folding.images, length)[0, :, 0]
    assert len(folding.images) == 8 and found.shape == (13, 13)
    assert torch.allclose(found[0, 0], value)
    assert torch.allclose(found[0, 1:] @ seen.directions[1].T, slope, atol=1e-12)
    full = seen.directions[0] @ found[1:, 1:] @ seen.directions[1].T
    assert torch.allclose(full, mixed.T, atol=1e-10) and mixed.abs().max() > 0.01
    own = own_covariance(seen, folding.images, length)
    assert torch.allclose(own[1], covariance(seen[1:], seen[1:], folding.images, length)[0, :, 0])


def data_of(labels, count):
    folding = Folding(CORNERS, (0,) * 6, 0.1)
    some = labels.select(torch.arange(count))
    seen = points(folding, some.positions)
    slopes = -torch.einsum("lc,lcd->ld", some.forces.flatten(1), seen.directions)
    rows = torch.cat([(some.energies - labels.energies[:8].mean())[:, None], slopes], 1)
    return folding, some, _Data(seen, rows, 0.05)


def test_the_likelihood_is_that_of_a_normal_distribution(labels):
    folding, _, data = data_of(labels, 8)
    numbers = torch.tensor([4.0, 1e-3, 1e-2], dtype=torch.float64).log()
    value, weights, variance = data.likelihood(folding.images, numbers)
    size = data.rows.numel()
    matrix = covariance(data.points, data.points, folding.images, 0.2).reshape(size, size)
    matrix = matrix + torch.tensor([1e-6] + [1e-4] * 12, dtype=torch.float64).repeat(8).diag()
    truth = torch.distributions.MultivariateNormal(torch.zeros(size, dtype=torch.float64), variance * matrix)
    y = data.rows.flatten()
    constant = -0.5 * size * (math.log(2 * math.pi) + 1)
    assert float(truth.log_prob(y)) == pytest.approx(float(constant - size * value), rel=1e-8)
    assert torch.allclose(matrix @ weights, y)
    for other in (0.9 * variance, 1.1 * variance):
        worse = torch.distributions.MultivariateNormal(torch.zeros(size, dtype=torch.float64), other * matrix)
        assert worse.log_prob(y) < truth.log_prob(y)


def test_leave_one_out_is_leaving_one_out(labels):
    folding, some, data = data_of(labels, 8)
    numbers = torch.tensor([4.0, 1e-3, 1e-2], dtype=torch.float64).log()
    _, weights, _ = data.likelihood(folding.images, numbers)
    found = _left_out(data, folding.images, numbers, weights, some)
    energies, forces = [], []
    for k in range(8):
        rest = torch.arange(8) != k
        _, alone, _ = _Data(data.points[rest], data.rows[rest], 0.05).likelihood(folding.images, numbers)
        cross = covariance(data.points[k : k + 1], data.points[rest], folding.images, 0.2)
        predicted = cross.reshape(13, -1) @ alone
        residual = data.rows[k] - predicted
        energies.append(residual[0])
        forces.append(data.points.directions[k] @ residual[1:])
    assert found.energy_rmse == pytest.approx(float(torch.stack(energies).square().mean().sqrt()), rel=1e-6)
    assert found.force_rmse == pytest.approx(float(torch.stack(forces).square().mean().sqrt()), rel=1e-6)


def test_left_out_errors_foretell_those_on_new_labels(labels, fitted):
    potential, errors = fitted
    new = learned_errors(potential, labels.select(torch.arange(20, 60)))
    assert errors.labels == 20 and 0.4 < errors.energy_rmse / new.energy_rmse < 2.5
    assert 0.4 < errors.force_rmse / new.force_rmse < 2.5


def test_a_fit_goes_on_from_given_numbers(labels, fitted):
    some = labels.select(torch.arange(24))
    short = KernelSettings(iterations=1)
    warm, cold = (fit_kernel(some, CORNERS, short, start)[1] for start in (fitted[0], None))
    assert warm.energy_rmse < cold.energy_rmse
    again, _ = fit_kernel(labels.select(torch.arange(20)), CORNERS)
    assert settings_hash(again.settings) == settings_hash(fitted[0].settings)
    assert settings_hash(again.settings) != settings_hash(fit_kernel(some, CORNERS, short, again)[0].settings)


def test_folding_finds_the_copy_and_the_symmetry():
    triangle = torch.tensor([[0.0, 0, 0], [2, 0, 0], [4, 0, 0], [1, 3**0.5, 0], [3, 3**0.5, 0], [2, 12**0.5, 0]])
    for reference, species, order in (
        (OCTAHEDRON, (0,) * 6, 48),
        (triangle.double(), (0,) * 6, 6),
        (OCTAHEDRON, (0, 1, 1, 0, 1, 1), 16),
        (RAMP, (0, 1, 0, 1), 1),
    ):
        folding = Folding(reference, species, 0.1)
        assert len(folding.images) == order
        generator = torch.Generator().manual_seed(2)
        x = reference + 0.05 * torch.randn(20, *reference.shape, generator=generator, dtype=torch.float64)
        shuffle = [k for s in sorted(set(species)) for k in reversed([i for i, t in enumerate(species) if t == s])]
        places = [k for s in sorted(set(species)) for k in [i for i, t in enumerate(species) if t == s]]
        moved = x.clone()
        moved[:, places] = x[:, shuffle]
        ours, theirs = points(folding, x, False).features, points(folding, moved, False).features
        images = theirs[:, folding.images]
        assert (images - ours[:, None]).abs().amax(2).amin(1).max() < 1e-12
        assert ours.abs().max() < 0.1


def test_what_does_not_fit_is_refused(labels, fitted):
    with pytest.raises(InputError, match="362880 orders of like particles"):
        Folding(torch.randn(9, 3).double(), (0,) * 9, 0.1)
    # Distances of 1.04, 1.056 and 1.075: neighbours are alike within 0.02, the ends are not.
    bent = torch.tensor([[0.0, 0.0, 0.0], [1.04, 0.0, 0.0], [0.5, 0.93, 0.0]], dtype=torch.float64)
    with pytest.raises(InputError, match="symmetry of the reference is no group"):
        Folding(bent, (0,) * 3, 0.02)
    bare = LabelSet(labels.system, labels.positions, labels.energies, torch.full_like(labels.forces, torch.nan))
    for wrong, message in ((bare, "60 labels, 0 with forces"), (labels.select(torch.arange(1)), "1 labels")):
        with pytest.raises(InputError, match=message):
            fit_kernel(wrong, CORNERS)
    potential, _ = fitted
    boxed = ParticleSystem("box", FlatTorus((9.0,) * 3), (0,) * 6, ("Ag",), units="metal")
    for system, message in ((silver(5), "does not fit"), (alloy(), "does not fit"), (boxed, "neither boxes")):
        with pytest.raises(InputError, match=message):
            type(potential)(system, potential.model, potential.weights)


def test_failures_are_data(fitted):
    potential, x = fitted[0], thermal(4, seed=3)
    confined = type(potential)(silver(radius=6.0), potential.model, potential.weights)
    x[0, 1] = x[0, 2]
    x[1, 0, 0] = float("nan")
    x[2, 0, 0] = 7.0
    found = confined.evaluate(x, ("energy", "forces", "virial"))
    assert found.ok.tolist() == [False, False, True, True]
    assert "coincide" in found.reasons[0] and "not finite" in found.reasons[1]
    assert found.energy[2] == torch.inf and found.energy[3].isfinite()
    assert confined.deviation(x).isnan().tolist() == [True, True, True, False]


def test_a_card_brings_back_the_same_potential(tmp_path, fitted, labels):
    potential, errors = fitted
    save_learned(tmp_path / "mine.yaml", potential, errors, "a test", ["somebody 2020"])
    again = open_engine(silver(), "mine.yaml", relative_to=tmp_path)
    want, x = ("energy", "forces", "virial"), labels.positions[:3]
    ours, theirs = potential.evaluate(x, want), again.evaluate(x, want)
    assert all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in want)
    assert torch.equal(potential.deviation(x), again.deviation(x))
    assert settings_hash(again.settings) == settings_hash(potential.settings)
    good = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert good["kind"] == "kernel" and good["left_out"]["energy_rmse"] == errors.energy_rmse
    assert good["citations"][0] == "somebody 2020" and len(good["citations"]) > 2
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "mine.safetensors").read_bytes()[:-8])
    for change, message in (
        ({"length": 21.0}, "'length'; the card was edited"),
        ({"weights": "cut.safetensors"}, "damaged, its checksum"),
        ({"weights": "no.safetensors"}, "No such file"),
        ({"offset": None}, "offset"),
        ({"lenght": 4.0}, "unknown key 'lenght'"),
    ):
        (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**good, **change}))
        with pytest.raises(InputError, match=message):
            open_engine(silver(), "bad.yaml", relative_to=tmp_path)
    with pytest.raises(InputError, match="does not fit a kernel potential of Ag, Ag, Ag, Ag, Ag, Ag"):
        open_engine(silver(5), "mine.yaml", relative_to=tmp_path)
