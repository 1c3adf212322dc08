"""Isomers: point groups, coordinates and their Jacobian, basins, harmonic free energies, against exact answers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from particlegen.energy import SystemSettings, TorchPairEnergy, build_system
from particlegen.isomers import Basins, EckartFrame, HarmonicIsomer, hessian, optimise, point_group
from particlegen.isomers.frame import _largest_overlap
from particlegen.settings import InputError
from particlegen.system import ThermodynamicState
from particlegen.units import HBAR_SQUARED_PER_MASS, WAVENUMBER

PHI = (1.0 + 5.0**0.5) / 2.0


def ring(n, radius=1.0, height=0.0, turn=0.0):
    angles = [2.0 * math.pi * k / n + turn for k in range(n)]
    return [[radius * math.cos(a), radius * math.sin(a), height] for a in angles]


OCTAHEDRON = [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]
TETRAHEDRON = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
ICOSAHEDRON = [[0, a, b * PHI] for a in (-1, 1) for b in (-1, 1)]
ICOSAHEDRON = ICOSAHEDRON + [[p[2], p[0], p[1]] for p in ICOSAHEDRON] + [[p[1], p[2], p[0]] for p in ICOSAHEDRON]
CHIRAL = [[0, 0, 0], [1, 0, 0], [0, 1.3, 0], [0, 0, 1.7]]

GROUPS = {
    "C1": CHIRAL,
    "Cs": [[0, 0, 0], [1, 0, 0], [0, 1.5, 0]],
    "C2": [[1, 0.2, 0.5], [-1, -0.2, 0.5], [0.3, 1.2, -0.6], [-0.3, -1.2, -0.6]],
    "C2v": [[0, 0, 0], [1, 0.6, 0], [-1, 0.6, 0]],
    "C3v": [*ring(3), [0, 0, 0.8]],
    "C5v": [*ring(5), [0, 0, 0.7]],
    "C2h": [[1, 0.4, 0], [-1, -0.4, 0], [0.5, -0.8, 0], [-0.5, 0.8, 0]],
    "Ci": [[1, 0.4, 0], [-1, -0.4, 0], [0.5, -1.3, 0.3], [-0.5, 1.3, -0.3], [0.2, 0.7, 1.4], [-0.2, -0.7, -1.4]],
    "S4": [
        [1, 0, 0.4],
        [0, 1, -0.4],
        [-1, 0, 0.4],
        [0, -1, -0.4],
        [0.5, 0.9, 1.5],
        [-0.9, 0.5, -1.5],
        [-0.5, -0.9, 1.5],
        [0.9, -0.5, -1.5],
    ],
    "D2": [[1, 0.5, 0.8], [-1, -0.5, 0.8], [1, -0.5, -0.8], [-1, 0.5, -0.8]],
    "D2d": [*ring(2, 1.0, 0.8), *ring(2, 1.0, -0.8, math.pi / 2)],
    "D2h": [[1, 0.6, 0], [-1, 0.6, 0], [1, -0.6, 0], [-1, -0.6, 0]],
    "D3": [*ring(3, 1.0, 0.8, 0.2), *ring(3, 1.0, -0.8, -0.2)],
    "D3d": [*ring(3, 1.0, 0.8), *ring(3, 1.0, -0.8, math.pi / 3)],
    "D3h": [*ring(3, 1.6), *ring(3, 0.8, 0.0, math.pi / 3)],
    "D4h": ring(4),
    "D5h": [*ring(5), [0, 0, 0.7], [0, 0, -0.7]],
    "Td": TETRAHEDRON,
    "Oh": OCTAHEDRON,
    "Ih": ICOSAHEDRON,
}
ORDERS = {
    "C1": 1,
    "Cs": 2,
    "C2": 2,
    "C2v": 4,
    "C3v": 6,
    "C5v": 10,
    "C2h": 4,
    "Ci": 2,
    "S4": 4,
    "D2": 4,
    "D2d": 8,
    "D2h": 8,
    "D3": 6,
    "D3d": 12,
    "D3h": 12,
    "D4h": 16,
    "D5h": 20,
    "Td": 24,
    "Oh": 48,
    "Ih": 120,
}
CHIRAL_GROUPS = {"C1", "C2", "D2", "D3"}


def structure(label):
    return torch.tensor(GROUPS[label], dtype=torch.float64)


def isometry(generator, proper=False):
    """A uniformly random rotation, or rotation and reflection."""
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * torch.diagonal(r).sign()
    return q * torch.linalg.det(q) if proper else q


@pytest.mark.parametrize("label", GROUPS)
def test_point_group_is_found_in_any_orientation(label):
    generator = torch.Generator().manual_seed(3)
    x = structure(label)
    moved = (x @ isometry(generator) + 0.7)[torch.randperm(len(x), generator=generator)]
    found = point_group(moved, (0,) * len(x))
    assert (found.label, found.order, found.chiral) == (label, ORDERS[label], label in CHIRAL_GROUPS)
    centred = moved - moved.mean(0)
    torch.testing.assert_close(centred[found.permutations], centred @ found.operations.mT, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.operations[0], torch.eye(3, dtype=torch.float64))


def test_species_break_a_symmetry():
    assert point_group(structure("Oh"), (0, 0, 0, 0, 0, 1)).label == "C4v"


def test_lines_and_overlaps_have_no_point_group():
    with pytest.raises(ValueError, match="on one line"):
        point_group(torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), (0, 0, 0))
    with pytest.raises(ValueError, match="closer than"):
        point_group(torch.tensor([[0.0, 0, 0], [0.01, 0, 0], [0, 1, 0], [1, 0, 0]]), (0,) * 4)


@pytest.mark.parametrize("label", [label for label in GROUPS if len(GROUPS[label]) <= 7])
def test_copies_are_counted(label):
    x = structure(label)
    frame = EckartFrame(x, (0,) * len(x))
    assert frame.copies == 2 * math.factorial(len(x)) // ORDERS[label]
    assert frame.basis.shape == (3 * len(x) - 6, len(x), 3)
    # every operation maps the basis onto itself, by an orthogonal matrix
    eye = torch.eye(frame.dimensions, dtype=torch.float64).expand(ORDERS[label], -1, -1)
    torch.testing.assert_close(frame.images @ frame.images.mT, eye, atol=1e-10, rtol=0)


def test_too_many_copies_are_refused():
    with pytest.raises(InputError, match="labelled copies"):
        EckartFrame(structure("Ih"), (0,) * 12)


@pytest.mark.parametrize("label", ["C2v", "C1", "D2h", "C5v", "D3h", "Oh", "D5h"])
def test_fold_undoes_relabelling_and_every_isometry(label):
    generator = torch.Generator().manual_seed(5)
    frame = EckartFrame(structure(label), (0,) * len(GROUPS[label]))
    d = 0.05 * torch.randn(40, frame.dimensions, generator=generator, dtype=torch.float64)
    x = frame.to_cartesian(d)
    torch.testing.assert_close(frame.from_cartesian(x @ isometry(generator, proper=True) + 2.0), d)
    assert frame.in_cell(d).all()
    order = torch.randperm(x.shape[1], generator=generator)
    folded = frame.fold((x @ isometry(generator))[:, order])
    # which of the equivalent images of d is found is open; one of them it is
    images = frame.symmetry_images(d)
    assert (images - folded[:, None]).abs().amax(2).amin(1).max() < 1e-9
    torch.testing.assert_close(frame.log_volume(folded), frame.log_volume(d))


def test_a_copy_elsewhere_is_not_in_the_cell():
    frame = EckartFrame(structure("C1"), (0,) * 4)
    mirrored = frame.from_cartesian(-frame.reference[None])
    relabelled = frame.from_cartesian(frame.reference[None, [1, 0, 2, 3]])
    assert not frame.in_cell(torch.cat([mirrored, relabelled])).any()
    torch.testing.assert_close(frame.fold(-frame.reference[None]), torch.zeros(1, 6, dtype=torch.float64))


@pytest.mark.parametrize("label", ["C2v", "C1", "D2h", "D3h", "Oh"])
def test_cell_by_the_short_way_and_by_all_copies(label):
    """Near the reference nothing is compared; the answer is that of the comparison with every copy."""
    generator = torch.Generator().manual_seed(9)
    frame, slow = (EckartFrame(structure(label), (0,) * len(GROUPS[label])) for _ in range(2))
    slow.__dict__["_half_way"] = 0.0
    d = torch.randn(600, frame.dimensions, generator=generator, dtype=torch.float64)
    d = d / d.norm(dim=1, keepdim=True) * torch.linspace(0.0, 3.0, 600, dtype=torch.float64)[:, None]
    inside, near = slow.in_cell(d), d.norm(dim=1) < frame._half_way
    assert near.any() and inside.any() and not inside.all()
    assert torch.equal(frame.in_cell(d), inside)


def test_largest_overlap_against_singular_values():
    generator = torch.Generator().manual_seed(7)
    matrices = torch.randn(50, 4, 3, 3, generator=generator, dtype=torch.float64)
    matrices[:10, :, :, 2] = 0.0  # planar structures
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrices)
    handed = signs * torch.linalg.det(u @ v)
    truth = s[:, :, 0] + s[:, :, 1] + handed * s[:, :, 2]
    torch.testing.assert_close(_largest_overlap(matrices, signs), truth, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("label", ["C2v", "C1", "D3h"])
def test_volume_is_the_determinant_of_the_map(label):
    """The derivative of x with respect to a small rotation and d, in orthonormal coordinates without the centre."""
    generator = torch.Generator().manual_seed(11)
    frame = EckartFrame(structure(label), (0,) * len(GROUPS[label]))
    n = len(frame.reference)

    def place(parameters):
        a, b, c = parameters[:3]
        zero = torch.zeros((), dtype=torch.float64)
        turn = torch.stack([zero, -c, b, c, zero, -a, -b, a, zero]).reshape(3, 3)
        return (frame.to_cartesian(parameters[None, 3:])[0] @ torch.linalg.matrix_exp(turn).T).flatten()

    d = 0.2 * torch.randn(frame.dimensions, generator=generator, dtype=torch.float64)
    start = torch.cat([torch.zeros(3, dtype=torch.float64), d])
    jacobian = torch.autograd.functional.jacobian(place, start)
    truth = 0.5 * torch.linalg.slogdet(jacobian.T @ jacobian).logabsdet + math.log(8.0 * math.pi**2 * frame.copies)
    torch.testing.assert_close(frame.log_volume(d[None])[0], truth)
    assert jacobian.shape == (3 * n, 3 * n - 3)


def gaussian_integral(frame, width, samples, generator, volume):
    """∫ exp(−|x|²/(2 s²)) dx by importance sampling of the cell from a Gaussian; (ln value, error)."""
    scale = 1.5 * width
    d = scale * torch.randn(samples, frame.dimensions, generator=generator, dtype=torch.float64)
    log_q = -0.5 * (d / scale).square().sum(1) - frame.dimensions * math.log(scale * math.sqrt(2.0 * math.pi))
    log_f = -0.5 * frame.to_cartesian(d).square().sum((1, 2)) / width**2
    w = torch.where(frame.in_cell(d), (log_f + volume(d) - log_q).exp(), 0.0)
    mean = float(w.mean())
    return math.log(mean), float(w.std()) / math.sqrt(samples) / mean


@pytest.mark.parametrize("label, species", [("C2v", (0, 0, 0)), ("Cs", (0, 1, 2)), ("D2h", (0, 0, 0, 0))])
def test_cells_of_all_copies_fill_space(label, species):
    """Copies times the integral over one cell is the integral over everything, here of a Gaussian, known exactly."""
    frame = EckartFrame(0.5 * structure(label), species)
    width, generator = 1.0, torch.Generator().manual_seed(13)
    truth = (3 * len(species) - 3) / 2 * math.log(2.0 * math.pi * width**2)
    found, error = gaussian_integral(frame, width, 200_000, generator, frame.log_volume)
    assert error < 0.03 and abs(found - truth) < 4.0 * error
    # mutation: the factor det G/√det I₀ left out
    wrong, error = gaussian_integral(
        frame, width, 200_000, generator, lambda d: frame.log_volume(torch.zeros_like(d[:1])).expand(len(d))
    )
    assert abs(wrong - truth) > 10.0 * error


def lennard_jones(n):
    built = build_system(SystemSettings(card="lj_cluster", particles=n))
    return TorchPairEnergy(built.system, built.potential)


LJ6 = {"octahedron": OCTAHEDRON, "bipyramid": [*ring(3, 0.65), [0, 0, 0.9], [0, 0, -0.9], [0.9, 0.9, 0.9]]}


@pytest.fixture(scope="module")
def lj6():
    """Minima of LJ6 and their Hessians."""
    provider, found = lennard_jones(6), {}
    for name, start in LJ6.items():
        x, energy = optimise(provider, torch.tensor(start, dtype=torch.float64), 1e-8)
        found[name] = hessian(provider, EckartFrame(x, (0,) * 6, 1e-3), energy, 1e-4, name)
    return found


def test_minima_of_lj6(lj6):
    """Wales and Doye (1997); the harmonic difference at T = 0.1 is 0.0662."""
    assert lj6["octahedron"].energy == pytest.approx(-12.712062, abs=1e-6)
    assert lj6["bipyramid"].energy == pytest.approx(-12.302928, abs=1e-6)
    assert [lj6[name].frame.symmetry.label for name in LJ6] == ["Oh", "C2v"]
    state = ThermodynamicState(0.1, "lj")
    difference = lj6["bipyramid"].free_energy(state) - lj6["octahedron"].free_energy(state)
    assert difference == pytest.approx(0.0662, abs=5e-5)


def test_harmonic_free_energy_is_approached_as_it_gets_cold(lj6):
    """∫ e^{−βU} over the labelled cells by importance sampling from the harmonic Gaussian, at falling temperature."""
    isomer, provider = lj6["octahedron"], lennard_jones(6)
    generator, gaps = torch.Generator().manual_seed(17), []
    for temperature in (0.01, 0.0025):
        d = isomer.sample(40_000, 1.0 / temperature, generator)
        along = d @ isomer.modes
        log_q = 0.5 * (isomer.curvatures / temperature / (2 * math.pi)).log().sum()
        log_q = log_q - 0.5 * (along.square() * isomer.curvatures).sum(1) / temperature
        energy = provider.evaluate(isomer.frame.to_cartesian(d)).energy
        w = (isomer.frame.log_volume(d) - energy / temperature - log_q + isomer.energy / temperature).exp()
        w = torch.where(isomer.frame.in_cell(d), w, 0.0)
        error = float(w.std() / w.mean()) / 200.0
        harmonic = -(isomer.free_energy(ThermodynamicState(temperature, "lj")) - isomer.energy) / temperature
        gaps.append(float(w.mean().log()) - harmonic)
        assert error < 0.02
    # the first anharmonic correction to βF is linear in T
    assert abs(gaps[1]) < 0.04 < abs(gaps[0])
    assert gaps[0] / gaps[1] == pytest.approx(4.0, abs=1.0)


def test_saddles_are_refused():
    provider = lennard_jones(4)
    square = 2 ** (1 / 6) * torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=torch.float64)
    x, energy = optimise(provider, square, 1e-7)
    with pytest.raises(InputError, match=r"isomer square: 2 of 6 curvatures are not positive .*saddle"):
        hessian(provider, EckartFrame(x, (0,) * 4), energy, 1e-4, "square")


def test_quantum_correction_has_its_two_limits():
    frame = EckartFrame(structure("D3h")[:3] * 2.5, (0, 0, 0))
    isomer = HarmonicIsomer(frame, 0.0, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.eye(3).double())
    masses = torch.full((3,), 107.87, dtype=torch.float64)
    quanta = (4.180159280e-3 / 107.87 * isomer.curvatures).sqrt()
    cold, hot = ThermodynamicState(2.0, "metal"), ThermodynamicState(3000.0, "metal")
    # zero-point energy less the classical free energy; (βħω)²/24 per mode
    zero_point = float(quanta.sum()) / 2
    assert isomer.zero_point_energy(masses) == pytest.approx(zero_point, rel=1e-9)
    expected = zero_point - float((cold.beta * quanta).log().sum()) / cold.beta
    assert isomer.quantum_correction(cold, masses) == pytest.approx(expected, rel=1e-6)
    assert isomer.quantum_correction(hot, masses) == pytest.approx(
        float(quanta.square().sum()) * hot.beta / 24, rel=1e-3
    )
    with pytest.raises(ValueError, match="metal units"):
        isomer.quantum_correction(ThermodynamicState(1.0, "lj"), masses)


def test_frequencies_of_a_mixture_are_those_of_its_molecule():
    """A bent molecule XY2 with springs on two bonds and the angle, against the eigenvalues of Wilson's G F, where G is
    known in closed form (Wilson, Decius, Cross, Molecular Vibrations, 1955)."""
    half, bond, stretch, bend = math.radians(52.225), 0.9575, 48.4, 4.36
    x = bond * torch.tensor(
        [[0.0, 0, 0], [math.sin(half), math.cos(half), 0], [-math.sin(half), math.cos(half), 0]], dtype=torch.float64
    )

    def energy(flat):
        y = flat.reshape(3, 3)
        a, b = y[1] - y[0], y[2] - y[0]
        angle = torch.acos((a @ b) / (a.norm() * b.norm()))
        stretches = (a.norm() - bond) ** 2 + (b.norm() - bond) ** 2
        return 0.5 * stretch * stretches + 0.5 * bend * (angle - 2.0 * half) ** 2

    frame = EckartFrame(x, (0, 1, 1))
    matrix = torch.autograd.functional.hessian(energy, frame.reference.flatten())
    basis = frame.basis.flatten(1)
    curvatures, modes = torch.linalg.eigh(basis @ matrix @ basis.T)  # pyright: ignore[reportOperatorIssue]
    isomer, masses = HarmonicIsomer(frame, 0.0, curvatures, modes), torch.tensor([15.995, 1.008, 1.008]).double()
    found = isomer.angular_frequencies(masses).square()
    heavy, light, angle = 1.0 / 15.995, 1.0 / 1.008, 2.0 * half
    antisymmetric = stretch * (light + heavy * (1.0 - math.cos(angle)))
    symmetric = torch.tensor(
        [
            [light + heavy * (1.0 + math.cos(angle)), -(2.0**0.5) * heavy * math.sin(angle) / bond],
            [
                -(2.0**0.5) * heavy * math.sin(angle) / bond,
                2.0 * (light + heavy * (1.0 - math.cos(angle))) / bond**2,
            ],
        ]
    ) @ torch.diag(torch.tensor([stretch, bend]))
    expected = sorted([antisymmetric, *torch.linalg.eigvals(symmetric).real.tolist()])
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    # Mutation: the unweighted Hessian over a mean mass is far off.
    assert (curvatures / masses.mean()).tolist() != pytest.approx(expected, rel=0.1)


def test_frequencies_in_wavenumbers_are_quanta():
    """ħω/(hc) of the same vibration by the two constants; hc = 1.2398419843e-4 eV cm."""
    quantum = HBAR_SQUARED_PER_MASS**0.5
    assert WAVENUMBER["metal"] / (2.0 * math.pi) == pytest.approx(quantum / 1.239841984332e-4, rel=1e-9)


@settings(max_examples=200)
@given(seed=st.integers(0, 2**31), single=st.booleans())
def test_basins_do_not_depend_on_labels_or_orientation(seed, single):
    generator = torch.Generator().manual_seed(seed)
    references = torch.stack([structure("Oh"), structure("C5v")])
    basins = Basins(references, (0,) * 6, reach=1.0)
    x = 1.5 * torch.randn(5, 6, 3, generator=generator, dtype=torch.float64)
    moved = (x @ isometry(generator) + 3.0)[:, torch.randperm(6, generator=generator)]
    tolerance = 1e-4 if single else 1e-10
    if single:
        x, moved = x.float(), moved.float()
    torch.testing.assert_close(basins.distances(x), basins.distances(moved), atol=tolerance, rtol=0)


def test_scales_move_the_border_between_basins_and_not_their_reach():
    references = torch.stack([structure("Oh"), 1.2 * structure("Oh")])
    between = (1.0 + 0.2 * torch.tensor([0.1, 0.45, 0.55, 0.9], dtype=torch.float64))[:, None, None] * references[0]
    assert Basins(references, (0,) * 6).assign(between).tolist() == [0, 0, 1, 1]
    assert Basins(references, (0,) * 6, scales=(1.0, 2.0)).assign(between).tolist() == [0, 0, 0, 1]
    assert Basins(references, (0,) * 6, reach=0.05, scales=(1.0, 2.0)).assign(between).tolist() == [0, -1, -1, 1]
    for wrong in ((1.0,), (1.0, 0.0)):
        with pytest.raises(ValueError, match="expected 2 positive scales"):
            Basins(references, (0,) * 6, scales=wrong)


def test_basins_know_species_and_reach():
    x = structure("Oh")
    swapped = x[[4, 1, 2, 3, 0, 5]]
    basins = Basins(torch.stack([x, structure("C5v")]), (0, 0, 0, 0, 1, 1), reach=0.3)
    assert basins.assign(torch.stack([x, 3.0 * x])).tolist() == [0, -1]
    assert basins.distances(x[None])[0, 0] < 1e-12 < 0.1 < basins.distances(swapped[None])[0, 0]
    with pytest.raises(ValueError, match=r"structures 0 and 1 .* one isomer"):
        Basins(torch.stack([x, x[[1, 0, 3, 2, 5, 4]]]), (0,) * 6)
