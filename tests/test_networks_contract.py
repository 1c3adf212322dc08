"""Both kinds of network against their contract: exact divergence, symmetries, smoothness; and mutants that break it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from particlegen.geometry import FlatTorus
from particlegen.networks import (
    DenoisingNetwork,
    HollowNetwork,
    NetworkSettings,
    VelocityNetwork,
    build_network,
    features,
    hollow,
)
from particlegen.settings import Section
from particlegen.system import ParticleSystem
from particlegen.testing import ContractViolation, check_velocity_network

BOXES = {
    "square": (2.7, 2.7),
    "rectangle": (2.7, 3.3),
    "cube": (1.9, 1.9, 1.9),
    "tetragonal": (1.9, 1.9, 2.3),
    "orthorhombic": (1.8, 2.0, 2.3),
}
SPECIES = {1: (0, 0, 0, 0), 2: (0, 0, 1, 1), 3: (0, 0, 1, 1, 2)}


def make(kind="hollow", box="square", kinds=2, seed=0, dtype=torch.float64, **sizes):
    species = SPECIES[kinds]
    system = ParticleSystem(box, FlatTorus(BOXES[box]), species, tuple("ABC"[:kinds]))
    sizes = {"width": 8, "rounds": 2, "radial": 8, "channels": 3} | sizes
    network = build_network(NetworkSettings(kind=kind, **sizes), system, seed).to(dtype).requires_grad_(False)
    return network, system


@pytest.mark.parametrize("kind", ["hollow", "standard"])
@pytest.mark.parametrize(("box", "kinds"), [("square", 1), ("square", 3), ("rectangle", 2), ("cube", 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_contract(kind, box, kinds, dtype):
    """In float64 the divergence equals the full Jacobian's trace within 1e-10 and nothing jumps at the antipode."""
    check_velocity_network(*make(kind, box, kinds, dtype=dtype))


class Denoiser(nn.Module):
    """The second head as if it were the velocity."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, t, x):
        return self.network(t, x, True)[1]

    def with_divergence(self, t, x):
        slopes = torch.autograd.functional.jacobian(lambda y: self(t, y).sum(0), x)
        return self(t, x), torch.einsum("iabia->b", slopes)


@pytest.mark.parametrize("kind", ["hollow", "standard"])
@pytest.mark.parametrize("rounds", [1, 2])
def test_both_heads_keep_the_contract(kind, rounds):
    """And the velocity is that of `forward` without the denoiser."""
    network, system = make(kind, denoiser=True, rounds=rounds)
    check_velocity_network(network, system)
    check_velocity_network(Denoiser(network), system)
    x = system.torus.uniform((3, system.n_particles), torch.Generator().manual_seed(0))
    t = torch.rand(3, generator=torch.Generator().manual_seed(1)).double()
    velocity, denoiser = network(t, x, True)
    assert torch.equal(velocity, network(t, x)) and not torch.allclose(denoiser, velocity)
    assert isinstance(network, DenoisingNetwork)
    with pytest.raises(TypeError, match="has no denoiser"):
        make(kind)[0](t, x, True)


@pytest.mark.parametrize("kind", ["hollow", "standard"])
@pytest.mark.parametrize("box", ["tetragonal", "orthorhombic"])
def test_contract_in_other_boxes(kind, box):
    check_velocity_network(*make(kind, box, 2, rounds=1, harmonics=2))


@pytest.mark.parametrize("sizes", [{"rounds": 1}, {"rounds": 3, "harmonics": 1}, {"channels": 1, "radial": 2}], ids=str)
def test_contract_at_other_sizes(sizes):
    check_velocity_network(*make(**sizes))


@pytest.mark.parametrize("kind", ["hollow", "standard"])
def test_particles_of_one_species_differ_by_their_diameter(kind):
    """Like diameters may be exchanged (the contract), unlike ones may not; a network that is not told them would."""
    diameters = (1.0, 1.0, 1.3, 1.3)
    system = ParticleSystem("s", FlatTorus(BOXES["square"]), SPECIES[1], ("A",), diameters)
    network = build_network(NetworkSettings(kind=kind, width=8, rounds=2, radial=8), system).double()
    check_velocity_network(network, system)
    blind = build_network(NetworkSettings(kind=kind, width=8, rounds=2, radial=8), make(kinds=1)[1]).double()
    x = system.torus.uniform((2, 4), torch.Generator().manual_seed(4))
    t, order = torch.tensor([0.3, 0.7], dtype=torch.float64), [2, 1, 0, 3]
    for net, differs in ((network, True), (blind, False)):
        with torch.no_grad():
            change = (net.forward(t, x[:, order]) - net.forward(t, x)[:, order]).abs().max()
        assert (change > 1e-6) == differs


def test_contract_on_each_device(device):
    network, system = make()
    check_velocity_network(network.to(device), system)


def test_a_single_pair_in_one_dimension():
    system = ParticleSystem("line", FlatTorus((3.0,)), (0, 1), ("A", "B"))
    network = build_network(NetworkSettings(width=8, rounds=2), system).double()
    check_velocity_network(network, system)


_MADE = {}


@settings(max_examples=220, deadline=None, derandomize=True, database=None)
@given(
    kind=st.sampled_from(["hollow", "standard"]),
    box=st.sampled_from(sorted(BOXES)),
    kinds=st.sampled_from([1, 2, 3]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
    element=st.integers(0, 47),
)
def test_velocity_turns_with_any_symmetry(kind, box, kinds, dtype, seed, element):
    """All symmetries at once: a box element, a translation, lattice vectors, an exchange, another batch order."""
    key = (kind, box, kinds, dtype)
    if key not in _MADE:
        _MADE[key] = make(kind, box, kinds, dtype=dtype)
    network, system = _MADE[key]
    generator = torch.Generator().manual_seed(seed)
    x = system.torus.uniform((2, system.n_particles), generator).to(dtype)
    t = torch.rand(2, generator=generator).to(dtype)
    group = system.torus.point_group().to(dtype)
    matrix = group[element % len(group)]
    order = torch.argsort(torch.tensor(system.species) + torch.rand(system.n_particles, generator=generator))
    batch = torch.randperm(2, generator=generator)
    jumps = torch.randint(-1, 2, x.shape, generator=generator) * torch.tensor(system.torus.lengths, dtype=dtype)
    moved = x @ matrix.T + torch.rand(2, 1, system.dim, generator=generator) + jumps
    expected = (network(t, x) @ matrix.T)[batch][:, order]
    scale = 1e-12 if dtype == torch.float64 else 1e-5
    assert (network(t[batch], moved[batch][:, order]) - expected).abs().max() < scale


class Mutant(torch.nn.Module):
    """A network spoilt by `change(v, t, x)`, its divergence still the exact trace of its Jacobian."""

    def __init__(self, network, change):
        super().__init__()
        self.network, self.change = network, change

    def forward(self, t, x):
        return self.change(self.network(t, x), t, x)

    def with_divergence(self, t, x):
        jacobian = torch.autograd.functional.jacobian(lambda y: self(t, y).sum(0), x)
        return self(t, x), torch.einsum("iabia->b", jacobian)


MUTANTS = {
    "breaks translation": lambda v, t, x: v + torch.sin(2 * math.pi * x / 2.7),
    "breaks lattice vectors": lambda v, t, x: v + 0.01 * (x - x.mean(1, keepdim=True)),
    "breaks the exchange": lambda v, t, x: v * torch.arange(1.0, 1.0 + v.shape[1]).to(v)[:, None],
    "breaks the box's point group": lambda v, t, x: v.flip(-1) * torch.tensor([1.0, -1.0]).to(v),
    "depends on the rest of the batch": lambda v, t, x: v + 0.1 * (v - v.mean(0, keepdim=True)),
    "is not finite": lambda v, t, x: v / 0.0,
    "has shape": lambda v, t, x: v[:, :-1],
    "is torch.float32": lambda v, t, x: v.float(),
}


@pytest.mark.parametrize("clause", sorted(MUTANTS))
def test_contract_refuses_mutants(clause):
    network, system = make()
    check_velocity_network(Mutant(network, lambda v, t, x: v), system)
    with pytest.raises(ContractViolation, match=clause):
        mutant = Mutant(network, MUTANTS[clause])
        if clause == "has shape":
            mutant.with_divergence = lambda t, x: (mutant(t, x), network.with_divergence(t, x)[1])
        check_velocity_network(mutant, system)


def _nearest_image(cos, sin):
    wrapped = torch.atan2(sin, cos)
    return wrapped**2, wrapped


def _kinked_distance(cos, sin):
    return _nearest_image(cos, sin)[0], sin


@pytest.mark.parametrize("kind", ["hollow", "standard"])
@pytest.mark.parametrize(
    ("mutant", "clause"),
    [(_nearest_image, "the velocity jumps"), (_kinked_distance, "the derivative of the velocity jumps")],
)
def test_nearest_image_features_jump_at_the_antipode(kind, mutant, clause, monkeypatch):
    monkeypatch.setattr(features, "smooth_displacement", mutant)
    with pytest.raises(ContractViolation, match=clause):
        check_velocity_network(*make(kind))


def _told(network, t, x):
    _, h, vector, heading = network._told(t, hollow.pair_displacements(x))
    return h, vector.permute(2, 3, 4, 0, 1), heading.permute(1, 2, 3, 0)


def test_what_is_told_leaves_the_listener_out():
    """All that (i, j) holds stays the same when i moves, and change when a third particle does."""
    network, system = make(box="rectangle", kinds=3)
    n, t = system.n_particles, torch.tensor([0.3], dtype=torch.float64)
    x = system.torus.uniform((1, n), torch.Generator().manual_seed(4))
    before = _told(network, t, x)
    for i in range(n):
        moved = x.clone()
        moved[0, i] += 0.4
        for old, new in zip(before, _told(network, t, moved), strict=True):
            change = (new - old).abs().flatten(3).amax(-1)[0]
            others = [j for j in range(n) if j != i]
            assert change[i, others].max() < 1e-13
            assert change[others][:, others].fill_diagonal_(1.0).min() > 1e-7


class LeakyNetwork(HollowNetwork):
    """Tells i about j with i included."""

    def _told(self, t, delta):
        node, h, *rest = super()._told(t, delta)
        return node, h + self.features(delta)[0].mean(0)[..., None], *rest


def test_a_leak_of_the_listener_fails_the_divergence():
    _, system = make()
    with pytest.raises(ContractViolation, match="trace of the Jacobian"):
        check_velocity_network(LeakyNetwork(system.torus, system.species, width=8, rounds=2).double(), system)


def test_removing_the_drift_leaves_the_divergence(monkeypatch):
    network, system = make(kinds=3)
    x = system.torus.uniform((2, 5), torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.9], dtype=torch.float64)
    v, divergence = network.with_divergence(t, x)
    assert v.mean(1).abs().max() < 1e-15
    monkeypatch.setattr(hollow, "remove_drift", lambda v: v)
    drifting, same = network.with_divergence(t, x)
    assert drifting.mean(1).abs().max() > 1e-4
    assert torch.equal(same, divergence)
    jacobian = torch.autograd.functional.jacobian(lambda y: network(t, y).sum(0), x)
    assert torch.allclose(torch.einsum("iabia->b", jacobian), divergence, atol=1e-12)


@pytest.mark.parametrize("kind", ["hollow", "standard"])
def test_the_seed_alone_decides_the_weights(kind):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = make(kind, seed=3, dtype=torch.float32)[0]
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    again, other = (make(kind, seed=seed, dtype=torch.float32)[0].state_dict() for seed in (3, 4))
    for name, value in first.state_dict().items():
        assert value.dtype == torch.float32
        assert value.numpy().tobytes() == again[name].numpy().tobytes()
    assert any(not torch.equal(value, other[name]) for name, value in first.state_dict().items())
    assert isinstance(first, VelocityNetwork) and isinstance(NetworkSettings(), Section)


def test_moving_to_float64_keeps_the_period_exact():
    """The box length is kept to the last digit: lattice vectors change velocities by rounding alone, also far away."""
    network, system = make(box="rectangle")
    x = system.torus.uniform((1, 4), torch.Generator().manual_seed(0))
    far = x + 50 * torch.tensor(system.torus.lengths, dtype=torch.float64)
    t = torch.tensor([0.5], dtype=torch.float64)
    still = torch.cat([far[:, :1], x[:, 1:]], 1)
    assert (network(t, still) - network(t, x)).abs().max() < 1e-12


@pytest.mark.parametrize(
    "wrong", [{"kind": "egnn"}, {"width": 2}, {"rounds": 0}, {"depth": 3}, {"harmonics": math.nan}]
)
def test_settings_refuse(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        NetworkSettings(**wrong)
