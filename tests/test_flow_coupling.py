"""Flows of isomers: normalised over all labelled copies, blind to labels and orientation, with free energies that are
those of quadrature and of the harmonic limit."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from particlegen.energy import SystemSettings, TorchPairEnergy, build_system
from particlegen.energy.provider import EnergyResult, Wrapper
from particlegen.estimate import ess_per_sample, log_weights
from particlegen.flow import CouplingSettings, FlowTraining, IsomerFlow, train_flow
from particlegen.flow.coupling import _random_rotations
from particlegen.flow.coupling_training import _Loss, _schedule
from particlegen.geometry import FlatTorus, FreeSpace
from particlegen.io.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from particlegen.isomers import Basins, EckartFrame, hessian, optimise
from particlegen.sampling import ReferenceSettings, sample_hamiltonian
from particlegen.settings import InputError
from particlegen.system import ParticleSystem, ThermodynamicState
from particlegen.testing import ContractViolation, check_flow
from particlegen.training import TrainingSettings

TRIANGLE = [[0, 0, 0], [1, 0, 0], [0.5, 0.75**0.5, 0]]
TETRAHEDRON = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
OCTAHEDRON = [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]
WIDEST = 1.7
"""Largest distance within the trimer: its basin, so that quadrature and flow integrate over the same region."""


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(seed, *shape):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def coupling(kind="affine_coupling", steps=150, **given):
    training = {"steps": steps, "batch": 128, "warm_up": 20, "learning_rate": 5e-3, "ema": 0.95, "optimiser": "adam"}
    training |= {"validation": 200, "validate_every": 25, **given.pop("training", {})}
    sizes = {"layers": 4, "hidden": (16,), "bins": 4, **given}
    return CouplingSettings(kind=kind, training=TrainingSettings(**training), **sizes)


def wide_flow(structure, species, kind="affine_coupling", spread=0.3, seed=1, bend=0.1, **given):
    """A flow far from any Gaussian, with weights drawn at random."""
    x = torch.as_tensor(structure, dtype=torch.float64)
    system = ParticleSystem("few", FreeSpace(3), species, ("A", "B", "C"))
    flow = IsomerFlow(system, EckartFrame(x, species), coupling(kind, **given), seed)
    flow.fit_base(x + spread * normal(seed, 400, *x.shape))
    for k, layer in enumerate(flow.coupling.layers.transforms):
        with torch.no_grad():
            layer.hyper[-1].weight.copy_(bend * normal(k, *layer.hyper[-1].weight.shape))
    return flow.requires_grad_(False)


FLOWS = {
    "D3h": wide_flow(TRIANGLE, (0, 0, 0)),
    "C2v": wide_flow(TRIANGLE, (0, 1, 0), "spline_coupling"),
    "Cs": wide_flow(TRIANGLE, (0, 1, 2)),
    "C3v": wide_flow(TETRAHEDRON, (1, 0, 0, 0), "spline_coupling", 0.5),
    "C1": wide_flow([[0, 0, 0], [1, 0, 0], [0, 1.3, 0], [0, 0, 1.7]], (0, 0, 1, 1)),
}


class Changed:
    """A flow with another log q."""

    def __init__(self, flow, change):
        self.flow, self.change, self.system = flow, change, flow.system

    def sample(self, n, rng):
        found = self.flow.sample(n, rng)
        change = self.change(self.flow.frame, self.flow.frame.fold(found.positions))
        return type(found)(found.positions, found.log_q + change, found.log_q_error)

    def log_prob(self, x):
        log_q, error = self.flow.log_prob(x)
        return log_q + self.change(self.flow.frame, self.flow.frame.fold(x)), error


def no_copies(frame, d):
    return torch.full((len(d),), math.log(frame.copies), dtype=torch.float64)


def no_jacobian(frame, d):
    """The volume of the frame at the reference, wherever the configuration is."""
    return frame.log_volume(d) - frame.log_volume(torch.zeros_like(d))


# the contract


@pytest.mark.parametrize("name", FLOWS)
def test_contract(name):
    check_flow(FLOWS[name], atol=1e-9)


class Turned(IsomerFlow):
    """A flow that takes a configuration's orientation for part of the isomer."""

    def log_prob(self, x):
        log_q, error = super().log_prob(x)
        return log_q + 0.01 * x[:, 0, 0], error


def test_contract_refuses_a_density_that_knows_the_orientation():
    wrong = wide_flow(TRIANGLE, (0, 0, 0))
    wrong.__class__ = Turned
    with pytest.raises(ContractViolation, match=r"differ|depends on"):
        check_flow(wrong)


@pytest.mark.parametrize("name", FLOWS)
def test_samples_and_log_prob_agree(name):
    flow = FLOWS[name]
    samples = flow.sample(300, generator(2))
    inside = samples.log_q.isfinite()
    assert inside.sum() > 100 and torch.equal(
        samples.log_q[~inside], torch.full_like(samples.log_q[~inside], torch.inf)
    )
    assert (flow.log_prob(samples.positions[inside])[0] - samples.log_q[inside]).abs().max() < 1e-9
    assert samples.log_q[inside].std() > 0.5
    assert samples.log_q_error.max() < 1e-6


@pytest.mark.parametrize("name", ["D3h", "C3v", "C1"])
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), mirror=st.booleans(), shift=st.floats(-5, 5))
def test_log_prob_is_blind_to_labels_orientation_mirror_and_position(name, seed, mirror, shift):
    flow, rng = FLOWS[name], np.random.default_rng(seed)
    x = flow.sample(4, generator(seed)).positions
    species = np.array(flow.system.species)
    order = np.arange(len(species))
    for kind in set(species.tolist()):
        order[species == kind] = rng.permutation(order[species == kind])
    turn = _random_rotations(1, generator(seed + 1))[0] * (-1.0 if mirror else 1.0)
    moved = x[:, torch.from_numpy(order)] @ turn + shift
    assert (flow.log_prob(moved)[0] - flow.log_prob(x)[0]).abs().max() < 1e-9


def test_a_structure_as_an_optimisation_leaves_it_has_the_whole_group():
    """Particles are up to 0.05 off; log q is the same in every labelled copy all the same."""
    flow = wide_flow(torch.tensor(OCTAHEDRON) + 0.02 * normal(3, 6, 3), (0,) * 6, spread=0.1)
    assert flow.frame.symmetry.label == "Oh" and flow.frame.copies == 30
    samples = flow.sample(100, generator(2))
    inside = samples.log_q.isfinite()
    moved = samples.positions[:, torch.randperm(6, generator=generator(3))] @ _random_rotations(1, generator(4))[0]
    assert (flow.log_prob(moved)[0] - samples.log_q)[inside].abs().max() < 1e-8


def test_samples_are_turned_uniformly():
    """Moments of Haar measure: <R> = 0, <R_ij R_kl> = δ_ik δ_jl / 3, <det R> = 1."""
    turns = _random_rotations(40_000, generator(3))
    assert (turns @ turns.mT - torch.eye(3)).abs().max() < 1e-12
    assert (torch.linalg.det(turns) - 1).abs().max() < 1e-12
    flat = turns.flatten(1)
    assert flat.mean(0).abs().max() < 4.5 * (1 / 3 / 40_000) ** 0.5
    assert (flat.T @ flat / 40_000 - torch.eye(9) / 3).abs().max() < 4.5 * 0.3 / 200
    x = FLOWS["C1"].sample(4000, generator(4)).positions
    first = nn.functional.normalize(x[:, 0] - x[:, 1], dim=1)
    assert first.mean(0).abs().max() < 4.5 * (1 / 3 / 4000) ** 0.5
    assert x.mean(1).abs().max() < 1e-12


# normalisation


@pytest.mark.parametrize("name", ["Cs", "C2v"])
def test_the_density_of_vibrations_integrates_to_one(name):
    flow = FLOWS[name]
    axis = torch.linspace(-9, 9, 41, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis, axis)
    with torch.no_grad():
        log_f = flow.log_density(flow.colour(z)) + torch.linalg.slogdet(flow.axes).logabsdet
    assert abs(float(log_f.exp().sum() * (axis[1] - axis[0]) ** 3) - 1) < 2e-3


@pytest.mark.parametrize(("name", "spread"), [("Cs", 0.6), ("C2v", 0.6), ("C3v", 1.25), ("C1", 0.9)])
def test_the_density_of_configurations_integrates_to_the_share_inside(name, spread):
    """∫ q over all labels and orientations, by importance from a broad Gaussian in 3N − 3 dimensions, is what the
    layers send into the cell; not so without the copies or with the volume of the reference."""
    flow, n = FLOWS[name], 40_000
    inside = flow.sample(8000, generator(5)).log_q.isfinite().double()
    particles = flow.system.n_particles
    x = spread * normal(6, n, particles, 3)
    x = x - x.mean(1, keepdim=True)
    size = 3 * particles - 3
    log_g = -0.5 * (x.square().sum((1, 2)) / spread**2 + size * math.log(2 * math.pi * spread**2))
    ratio = (flow.log_prob(x)[0] - log_g).exp()
    sigma = math.hypot(float(ratio.std()) / n**0.5, float(inside.std()) / len(inside) ** 0.5)
    assert sigma < 0.05
    assert abs(float(ratio.mean() - inside.mean())) < 4 * sigma
    d = flow.frame.fold(x)
    changes = [no_jacobian, no_copies] if flow.frame.copies > 1 else [no_jacobian]
    for change in changes:
        assert abs(float((ratio * change(flow.frame, d).exp()).mean() - inside.mean())) > 4 * sigma


# free energies


def minimum(particles, structure, spacing=1.12):
    """The minimum of a Lennard-Jones cluster below a structure: system, engine, frame, energy."""
    built = build_system(SystemSettings(card="lj_cluster", particles=particles))
    provider = TorchPairEnergy(built.system, built.potential)
    start = torch.tensor(structure, dtype=torch.float64)
    x, energy = optimise(provider, start / torch.cdist(start, start)[0, 1:].min() * spacing, 1e-9)
    return built.system, provider, EckartFrame(x, built.system.species), energy


def cluster(particles, structure, temperature, settings, frames=1000):
    """A flow before its training, states by Hamiltonian Monte Carlo, engine and temperature."""
    system, provider, frame, _ = minimum(particles, structure)
    state, start = ThermodynamicState(temperature), frame.reference.expand(20, -1, -1).contiguous()
    how = {"sampler": "hmc", "chains": 20, "frames": frames, "sweeps_between_frames": 3, "equilibration_sweeps": 150}
    blocks = sample_hamiltonian(provider, state, ReferenceSettings(**how), 1, start=start)
    states = torch.cat([torch.from_numpy(block.positions) for block in blocks])
    return IsomerFlow(system, frame, settings, 1), states, provider, state


def free_energy(flow, provider, state, basin=lambda x: True, n=2000):
    """F/kT from the weights of n samples, its standard error, and ESS/n."""
    samples = flow.sample(n, generator(7))
    energy = provider.evaluate(samples.positions).energy
    energy = torch.where(torch.as_tensor(basin(samples.positions)), energy, torch.inf)
    log_w = log_weights(samples.log_q.numpy(), energy.numpy(), state.beta)
    w = np.exp(log_w - log_w.max())
    return -log_w.max() - math.log(w.mean()), w.std() / w.mean() / n**0.5, ess_per_sample(log_w)


def compact(x):
    return torch.cdist(x, x).flatten(1).max(1).values < WIDEST


def trimer_free_energy(provider, beta):
    """−ln ∫ exp(−βU) over three particles without their centre, no distance above WIDEST: 8π²/3^{3/2} times the
    integral over the distances of exp(−βU) r12 r13 r23 (bipolar coordinates)."""
    nodes, weights = np.polynomial.legendre.leggauss(90)
    r = torch.from_numpy(0.7 + (WIDEST - 0.7) * (nodes + 1) / 2)
    w = torch.from_numpy(weights * (WIDEST - 0.7) / 2)
    a, b, c = torch.cartesian_prod(r, r, r).unbind(1)
    log_w = torch.cartesian_prod(w, w, w).log().sum(1)
    third = (a**2 + b**2 - c**2) / (2 * a)
    height = (b**2 - third**2).clamp_min(0.0)
    x = torch.zeros(len(a), 3, 3, dtype=torch.float64)
    x[:, 1, 0], x[:, 2, 0], x[:, 2, 1] = a, third, height.sqrt()
    ok = height > 0
    log_sum = log_w + (a * b * c).log() - beta * provider.evaluate(x).energy
    return -(float(log_sum[ok].logsumexp(0)) + math.log(8 * math.pi**2 / 3**1.5))


@pytest.fixture(scope="module")
def trimer():
    flow, states, provider, state = cluster(3, TRIANGLE, 0.15, coupling("spline_coupling", 100))
    states = states[compact(states)]
    flow.fit_base(states)
    trained, progress = train_flow(flow, states, 1)
    return flow, trained, states, provider, state, progress


def test_free_energy_of_the_trimer_is_that_of_quadrature(trimer):
    _, flow, _, provider, state, _ = trimer
    truth = trimer_free_energy(provider, state.beta)
    found, error, ess = free_energy(flow, provider, state, compact, 16_000)
    assert error < 0.008 and ess > 0.8
    assert abs(found - truth) < 4 * error
    wrong, error, _ = free_energy(Changed(flow, no_jacobian), provider, state, compact)
    assert abs(wrong - truth) > 4 * error


def test_free_energy_of_four_particles_is_the_harmonic_one_when_cold():
    """Both mirror images of the tetrahedron with labels are counted; the anharmonicity is of first order in T."""
    system, provider, frame, energy = minimum(4, TETRAHEDRON)
    state = ThermodynamicState(0.0005)
    moved = 1e-4 * torch.eye(6, dtype=torch.float64)
    x = frame.to_cartesian(torch.cat([moved, -moved]))
    slopes = -torch.einsum("bni,dni->bd", provider.evaluate(x, ("forces",)).forces, frame.basis)
    covariance = torch.linalg.inv((slopes[:6] - slopes[6:]) / 2e-4) / state.beta
    states = frame.to_cartesian(normal(10, 500, 6) @ torch.linalg.cholesky(covariance).T)
    flow = IsomerFlow(system, frame, coupling(steps=30), 1)
    flow.fit_base(states)
    flow, _ = train_flow(flow, states, 1)
    truth = hessian(provider, frame, energy, 1e-4).free_energy(state) * state.beta
    found, error, ess = free_energy(flow, provider, state)
    assert error < 0.006 and ess > 0.9
    assert abs(found - truth) < 4 * error + 0.003
    wrong, error, _ = free_energy(Changed(flow, no_copies), provider, state)
    assert abs(wrong - truth) > 4 * error + 0.003


# training


def test_training_raises_the_held_out_log_density(trimer):
    before, after, states, *_, progress = trimer
    held = states[::2]  # the base was fitted to them too, the layers are compared on the same
    gain = after.log_prob(held)[0] - before.log_prob(held)[0]
    assert float(gain.mean()) > 4 * float(gain.std()) / len(held) ** 0.5
    assert progress.done and math.isfinite(progress.validation_loss)
    assert torch.equal(before.mean, after.mean) and not any(p.any() for p in last_layers(before))


def last_layers(flow):
    return [layer.hyper[-1].weight for layer in flow.coupling.layers.transforms]


def test_a_resumed_training_gives_the_same_weights(trimer, tmp_path):
    flow, trained, states, *_ = trimer
    first = FlowTraining(flow, states, 1)
    running = first.run()
    next(running), next(running)
    tensors, metadata = first.state()
    save_checkpoint(tmp_path, "flow", 50, tensors, metadata)
    loaded = load_checkpoint(tmp_path, "flow")
    again = FlowTraining(flow, states, 1)
    again.restore(loaded.tensors, loaded.metadata)
    *_, last = again.run()
    assert last.step == 100
    found = again.flow().state_dict()
    assert all(torch.equal(value, found[name]) for name, value in trained.state_dict().items())
    other = train_flow(flow, states, 2)[0].state_dict()
    assert not all(torch.equal(value, other[name]) for name, value in found.items())


def test_weights_are_saved_and_loaded(trimer, tmp_path):
    flow, trained, states, *_ = trimer
    save_weights(tmp_path / "flow.safetensors", trained.state_dict(), {"isomer": "triangle"})
    again = IsomerFlow(flow.system, flow.frame, flow.settings, 99)
    again.load_state_dict(load_weights(tmp_path / "flow.safetensors")[0])
    assert torch.equal(again.log_prob(states[:20])[0], trained.log_prob(states[:20])[0])


def test_later_rounds_go_on_and_settle_down(trimer):
    flow, trained, states, *_ = trimer
    steps = []
    for number in (1, 30):
        later, progress = train_flow(trained, states, 1, number)
        pairs = zip(later.coupling.parameters(), trained.coupling.parameters(), strict=True)
        steps.append(float(sum((a - b).square().sum() for a, b in pairs) ** 0.5))
        assert progress.step == 25
    assert 0 < steps[1] < 0.3 * steps[0]
    assert _schedule(flow.settings.training, 0.25, 0) is flow.settings.training
    assert _schedule(flow.settings.training, 0.25, 4).learning_rate == pytest.approx(1e-3)
    timed = TrainingSettings(minutes=2.0, optimiser="adam")
    assert _schedule(timed, 0.25, 1).minutes == 0.5 and _schedule(timed, 0.25, 1).steps is None


def test_the_gradient_of_the_backward_divergence_is_that_of_the_energy_itself(trimer):
    """The engine's forces, passed by hand, against autograd through the energy; no energy is above the limit."""
    *_, provider, state, _ = trimer
    flow = wide_flow(TRIANGLE, (0, 0, 0), spread=0.03, bend=0.1).requires_grad_(True)
    u = 0.06 * normal(8, 64, 3)
    loss = _Loss(flow, provider, state.beta)._backward(flow.coupling, provider, u)
    found = torch.autograd.grad(loss, list(flow.coupling.parameters()))
    z = flow.coupling.from_base(u)
    d = flow.colour(z)
    energy = state.beta * provider.evaluate(flow.frame.to_cartesian(d)).energy
    assert float((energy.max() - energy.median()).detach()) < 3 and bool(flow.frame.in_cell(d).all())
    direct = (flow.coupling(z) - flow.frame.log_volume(d) + energy).mean()
    expected = torch.autograd.grad(direct, list(flow.coupling.parameters()))
    assert float(loss.detach()) == pytest.approx(float(direct.detach()), rel=1e-12)
    scale = max(float(part.abs().max()) for part in expected)
    assert max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) < 1e-9 * scale


class Failing(Wrapper):
    """Every other energy fails."""

    differentiable = False

    def evaluate(self, positions, want=("energy",)):
        found = self._provider.evaluate(positions, want)
        ok = torch.arange(len(positions)) % 2 == 0
        forces = found.forces.masked_fill(~ok[:, None, None], torch.nan)
        reasons = tuple(None if good else "odd" for good in ok.tolist())
        return EnergyResult(found.energy.masked_fill(~ok, torch.nan), forces, None, ok, reasons)


def test_energies_lower_the_backward_divergence(trimer):
    """⟨log q + βU⟩ of fresh samples falls to its lower bound, the free energy, although every other energy fails."""
    plain, _, states, provider, state, _ = trimer
    settings = coupling(steps=60, backward=0.8, training={"learning_rate": 3e-3})
    flow = IsomerFlow(plain.system, plain.frame, settings, 1)
    flow.fit_base(states[::20] + 0.03 * normal(9, len(states[::20]), 3, 3))
    trained, _ = train_flow(flow, states[::20], 1, provider=Failing(provider), beta=state.beta)
    above, truth = [], trimer_free_energy(provider, state.beta)
    for each in (flow, trained):
        samples = each.sample(2000, generator(11))
        excess = samples.log_q + state.beta * provider.evaluate(samples.positions).energy
        above.append(excess[compact(samples.positions)] - truth)
    assert float(above[1].mean()) > -4 * float(above[1].std()) / 2000**0.5
    assert float(above[1].mean()) < 0.5 * float(above[0].mean())


# input that is wrong


def test_errors_say_what_to_do(monkeypatch, trimer):
    flow, _, states, *_ = trimer
    with pytest.raises(InputError, match="free space"):
        IsomerFlow(ParticleSystem("box", FlatTorus((9.0,) * 3), (0,) * 3, ("A",)), flow.frame, flow.settings)
    with pytest.raises(InputError, match="species"):
        IsomerFlow(ParticleSystem("other", FreeSpace(3), (0, 1, 0), ("A", "B")), flow.frame, flow.settings)
    fresh = IsomerFlow(flow.system, flow.frame, flow.settings)
    for few in (states[:3], states[:1].expand(50, 3, 3)):
        with pytest.raises(InputError, match="do not fix a covariance"):
            fresh.fit_base(few)
    with pytest.raises(InputError, match=r"flow\.backward"):
        FlowTraining(IsomerFlow(flow.system, flow.frame, coupling(backward=0.5)), states)
    monkeypatch.setitem(sys.modules, "zuko.flows.coupling", None)
    with pytest.raises(InputError, match=r"pip install 'particlegen\[flows\]'"):
        IsomerFlow(flow.system, flow.frame, flow.settings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "planar"}, "kind"),
        ({"layers": 1}, "layers"),
        ({"hidden": (0,)}, "hidden"),
        ({"backward": 1.5}, "backward"),
        ({"training": {"compile": True}}, "float64"),
        ({"training": {"precision": "bfloat16"}}, "float64"),
        ({"backward": 0.5, "training": {"workers": 2}}, "workers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        coupling(**given)


# the published kind of system


@pytest.mark.slow
def test_the_octahedron_of_six_particles():
    """Default settings at T = 0.1: most samples count, and the free energy is the one that the Gaussian gives."""
    flow, states, provider, state = cluster(6, OCTAHEDRON, 0.1, CouplingSettings(), frames=4000)
    capped = [[0.64, 0, 0], [-0.32, 0.554, 0], [-0.32, -0.554, 0], [0, 0, 0.9], [0, 0, -0.9], [-1.0, 0.0, 0.75]]
    *_, other, energy = minimum(6, capped)
    assert energy == pytest.approx(-12.302928, abs=1e-6)
    basins = Basins(torch.stack([flow.frame.reference, other.reference]), flow.system.species)

    def octahedron(x):
        return basins.assign(x) == 0

    states = states[octahedron(states)]
    flow.fit_base(states)
    gaussian, gaussian_error, _ = free_energy(flow, provider, state, octahedron, 10_000)
    flow, _ = train_flow(flow, states, 1)
    found, error, ess = free_energy(flow, provider, state, octahedron, 10_000)
    assert ess > 0.75 and error < 0.006 and gaussian_error < 0.03
    assert abs(found - gaussian) < 4 * math.hypot(error, gaussian_error)
