"""Networks of learned potentials: symmetries, species, images, smoothness at the cutoff, missing packages."""

import sys

import pytest
import torch

from particlegen.networks import PotentialSettings, build_potential_network, radial
from particlegen.networks.radial import RadialBasis, envelope
from particlegen.settings import InputError

KINDS = ["moments", "e3nn"]


def network(kind, species=2, cutoff=3.0, seed=0):
    if kind == "e3nn":
        pytest.importorskip("e3nn", reason="pip install 'particlegen[learned]'")
    return build_potential_network(PotentialSettings(kind=kind, cutoff=cutoff, width=8), species, seed)


def cloud(n=5, seed=1):
    """Displacements of a random cluster, from each particle to each, and species."""
    x = 2.0 * torch.rand(2, n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x, torch.arange(n) % 2


def energies(net, x, kinds):
    return net((x[:, None] - x[:, :, None]).to(next(net.parameters()).dtype), kinds)


def rotation(reflect):
    q, _ = torch.linalg.qr(torch.rand(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    q = q * q.det().sign()
    return -q if reflect else q


def check_symmetries(net, rtol):
    x, kinds = cloud()
    found = energies(net, x, kinds)
    scale = found.abs().max()
    for reflect in (False, True):
        turned = energies(net, x @ rotation(reflect).T, kinds)
        assert (turned - found).abs().max() <= rtol * scale, "reflection" if reflect else "rotation"
    order = torch.tensor([2, 3, 4, 1, 0])
    assert (energies(net, x[:, order], kinds[order]) - found[:, order]).abs().max() <= rtol * scale, "order"


class Spoiled(torch.nn.Module):
    """A network with something added to its energies."""

    def __init__(self, net, more):
        super().__init__()
        self.net, self.more = net, more

    def forward(self, delta, kinds):
        return self.net(delta, kinds) + self.more(delta)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_rotations_reflections_and_the_order_of_particles_change_nothing(kind, dtype, rtol):
    check_symmetries(network(kind).to(dtype), rtol)


MUTANTS = {
    "rotation": lambda delta: 1e-3 * delta[..., 0].square().sum(2),
    "order": lambda delta: 1e-3 * torch.arange(delta.shape[1]),
}


@pytest.mark.parametrize("broken", sorted(MUTANTS))
def test_a_network_without_a_symmetry_is_found(broken):
    with pytest.raises(AssertionError, match=broken):
        check_symmetries(Spoiled(network("moments"), MUTANTS[broken]), 1e-10)


def handed(delta):
    """A triple product of three differently weighted sums over neighbours: turns with the cluster, but has a hand."""
    r = delta.square().sum(-1, keepdim=True)
    one, two, three = ((delta * torch.exp(-k * r)).sum(2) for k in (0.2, 0.5, 1.0))
    return 1e-2 * (one * torch.linalg.cross(two, three)).sum(-1)


def test_a_network_that_tells_left_from_right_is_found():
    with pytest.raises(AssertionError, match="reflection"):
        check_symmetries(Spoiled(network("moments"), handed), 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_species_and_surroundings_count(kind):
    net = network(kind)
    x, kinds = cloud()
    found = energies(net, x, kinds)
    assert (energies(net, x, kinds.roll(1)) - found).abs().max() > 1e-3
    alone = energies(net, torch.tensor([[[0.0, 0, 0], [9.0, 0, 0]]], dtype=torch.float64), torch.tensor([0, 1]))
    one = energies(net, torch.zeros(1, 1, 3, dtype=torch.float64), torch.tensor([1]))
    assert torch.allclose(alone[0, 1], one[0, 0], rtol=1e-12, atol=0)
    assert (found[:, 1] - one[0, 0]).abs().min() > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_further_images_are_neighbours_like_any_other(kind):
    """A crystal with one particle per cell: each sees its images, as the particles of a doubled cell see each other."""
    net = network(kind, cutoff=1.9)
    cells = torch.tensor([0.0, 1.0, -1.0, 2.0, -2.0], dtype=torch.float64)
    along = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    single = (cells[:, None] * along)[None, None]
    doubled = torch.stack([2 * cells, 2 * cells + 1, 2 * cells - 1, 2 * cells], 1).view(5, 2, 2).transpose(0, 1)
    doubled = doubled.flatten(1)[None, ..., None] * along
    one = net(single, torch.tensor([1]))
    assert torch.allclose(net(doubled, torch.tensor([1, 1])), one.expand(1, 2), rtol=1e-12, atol=0)
    assert (net(single[:, :, :1], torch.tensor([1])) - one).abs() > 1e-5
    assert (net(doubled, torch.tensor([1, 0]))[:, 0] - one[:, 0]).abs() > 1e-5


def jumps(net, cutoff, h):
    """Of the energy of a pair and its first two derivatives, from h inside the cutoff to h outside."""
    r = torch.tensor([cutoff - h, cutoff + h], dtype=torch.float64, requires_grad=True)
    third = torch.full((2, 1, 3), 0.9, dtype=torch.float64)
    x = torch.cat([torch.zeros_like(third), torch.stack([r, 0 * r, 0 * r], -1)[:, None], third], 1)
    value, found = energies(net, x, torch.tensor([0, 1, 0])).sum(1), []
    for _ in range(3):
        found.append(abs(float((value[1] - value[0]).detach())))
        (value,) = torch.autograd.grad(value.sum(), r, create_graph=True)
    return found


def check_smooth(net):
    """What is continuous changes in proportion to the step, with another particle near; what jumps does not."""
    coarse, fine = jumps(net, 3.0, 1e-3), jumps(net, 3.0, 1e-4)
    for order in range(3):
        assert 1e-12 < fine[order] < 0.15 * coarse[order], f"derivative {order} jumps"


@pytest.mark.parametrize("kind", KINDS)
def test_the_energy_and_two_derivatives_are_continuous_at_the_cutoff(kind, monkeypatch):
    net = network(kind)
    check_smooth(net)
    # the sines vanish at the cutoff too, so that this is a quadratic zero, as of a potential that is cut and shifted
    monkeypatch.setattr(radial, "envelope", lambda x: 1 - x.clamp_max(1.0))
    with pytest.raises(AssertionError, match="derivative 2 jumps"):
        check_smooth(net)


def test_the_envelope_and_the_basis():
    x = torch.tensor([0.3, 0.999999, 1.0, 1.5], dtype=torch.float64, requires_grad=True)
    value = envelope(x)
    assert torch.allclose(value[0], 1 - 28 * x[0] ** 6 + 48 * x[0] ** 7 - 21 * x[0] ** 8)
    for _ in range(3):
        assert value[1:].abs().max() < 1e-3
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    basis = RadialBasis(2.0, 3).double()
    at = torch.tensor([0.5], dtype=torch.float64)
    expected = 2**0.5 * torch.sin(torch.pi * torch.arange(1.0, 4.0).double() * 0.25) / (torch.pi * 0.25)
    assert torch.allclose(basis(at)[0], expected * envelope(at / 2.0))


def test_the_seed_decides_the_weights():
    one, same, other = (network("moments", seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert all(value.dtype == torch.float64 for value in one.values())


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "e3nn", None)
    monkeypatch.delitem(sys.modules, "particlegen.networks.interaction", raising=False)
    with pytest.raises(InputError, match=r"pip install 'particlegen\[learned\]', or use kind 'moments'"):
        build_potential_network(PotentialSettings(kind="e3nn"), 1)
