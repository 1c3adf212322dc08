"""The ODE flow: normalised, exact where it is known, forward and back, with errors that mean what they say."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from particlegen.flow import FlowSamples, GenerationSettings, ODEFlow
from particlegen.flow.solvers import dormand_prince, runge_kutta_4
from particlegen.geometry import FlatTorus
from particlegen.networks import NetworkSettings, build_network
from particlegen.system import ParticleSystem
from particlegen.testing import ContractViolation, check_flow


class Waves(nn.Module):
    """One particle: v = 2 a t sin(θ + c sin θ'), θ' the next axis's angle; smooth on the torus, divergence by autograd.

    In one dimension with c = 0 the flow is a Möbius map of the circle with a known density.
    """

    def __init__(self, lengths, a=1.5, c=0.0):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.scale, self.a, self.c = torch.tensor(lengths, dtype=torch.float64) / (2 * math.pi), a, c

    def forward(self, t, x):
        angle = x / self.scale
        return self.scale * 2 * self.a * t[:, None, None] * torch.sin(angle + self.c * torch.sin(angle.roll(1, -1)))

    def with_divergence(self, t, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            v = self(t, x)
            divergence = torch.zeros_like(t)
            for i in range(x.shape[1]):
                for k in range(x.shape[2]):
                    divergence += torch.autograd.grad(v[:, i, k].sum(), x, retain_graph=True)[0][:, i, k]
        return v.detach(), divergence


def waves(lengths, solver="rk4", **settings):
    a, c = settings.pop("a", 1.5), settings.pop("c", 0.0)
    system = ParticleSystem("one", FlatTorus(lengths), (0,), ("A",))
    return ODEFlow(Waves(lengths, a, c), system, GenerationSettings(solver=solver, **settings))


def network_flow(lengths=(2.5,), species=(0, 1), boost=10.0, kind="hollow", seed=1, **settings):
    """A network with random weights, the last ones raised so that its flow is far from uniform."""
    system = ParticleSystem("few", FlatTorus(lengths), species, ("A", "B"))
    sizes = {"width": 8, "rounds": 1, "radial": 6, "channels": 2, "harmonics": 2}
    network = build_network(NetworkSettings(kind=kind, **sizes), system, seed).double().requires_grad_(False)
    for part in network.star if kind == "hollow" else network.messages:
        part.weight.weight.mul_(boost)
    return ODEFlow(network, system, GenerationSettings(**settings))


def grid(lengths, points):
    """A periodic grid `(points^d, 1, d)` and the volume of a cell; exact to rounding for smooth periodic integrands."""
    axes = [torch.arange(points, dtype=torch.float64) * length / points for length in lengths]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, len(lengths)), math.prod(lengths) / (
        points ** len(lengths)
    )


@pytest.mark.parametrize("flow", [waves((2.0,), steps=16), network_flow(steps=8)], ids=["waves", "network"])
def test_contract(flow):
    check_flow(flow)


def test_contract_in_single_precision_and_by_steps_of_its_own():
    single = network_flow((2.0, 2.5), (0, 0, 1), steps=8)
    single.network.float()
    check_flow(single)
    check_flow(network_flow(kind="standard", solver="dopri5", tolerance=1e-4), samples=6)


class WrongSign:
    """A flow whose log_prob has the sign of the divergence wrong."""

    def __init__(self, flow):
        self.flow, self.system, self.sample = flow, flow.system, flow.sample

    def log_prob(self, x):
        log_q, error = self.flow.log_prob(x)
        return 2 * self.system.log_uniform_density - log_q, error


def test_contract_refuses_a_wrong_sign():
    with pytest.raises(ContractViolation, match="log_prob and sample differ"):
        check_flow(WrongSign(waves((2.0,), steps=16)))


def test_without_a_velocity_the_density_is_uniform():
    flow = waves((2.0, 3.0), a=0.0)
    samples = flow.sample(5, torch.Generator().manual_seed(0))
    assert isinstance(samples, FlowSamples)
    assert torch.equal(samples.log_q, torch.full((5,), -math.log(6.0), dtype=torch.float64))
    assert torch.equal(samples.positions, flow.system.torus.uniform((5, 1), torch.Generator().manual_seed(0)))
    lone = network_flow((2.0, 3.0), (0,))
    assert torch.equal(lone.log_prob(samples.positions)[0], samples.log_q)


@pytest.mark.parametrize("settings", [{"steps": 64}, {"solver": "dopri5", "tolerance": 1e-8}], ids=str)
def test_the_density_of_the_moebius_map(settings):
    """log q = −ln[2 (cosh a + sinh a cos θ)] on a circle of length 2."""
    flow = waves((2.0,), **settings)
    samples = flow.sample(50, torch.Generator().manual_seed(1))
    exact = -torch.log(2.0 * (math.cosh(1.5) + math.sinh(1.5) * torch.cos(math.pi * samples.positions))).sum((1, 2))
    assert torch.allclose(samples.log_q, exact, atol=1e-5)
    assert torch.allclose(flow.log_prob(samples.positions)[0], exact, atol=1e-5)


def total(flow, x, cell):
    return float(flow.log_prob(x)[0].exp().sum() * cell)


@pytest.mark.parametrize(("lengths", "points"), [((2.0,), 100), ((2.0, 3.0), 40)])
def test_densities_of_one_particle_integrate_to_one(lengths, points):
    flow = waves(lengths, steps=40, a=0.6, c=0.5 * (len(lengths) - 1))
    assert abs(total(flow, *grid(lengths, points)) - 1) < 1e-6
    wrong = WrongSign(flow)
    assert abs(total(wrong, *grid(lengths, points)) - 1) > 1e-3


def test_the_density_of_a_pair_by_the_network_integrates_to_one():
    """Two particles in one dimension; translations make the integral over the first one a factor."""
    flow, points = network_flow(steps=40, chunk=4000), 1024
    second = torch.arange(points, dtype=torch.float64) * (2.5 / points)
    log_q = flow.log_prob(torch.stack([torch.zeros_like(second), second], 1)[..., None])[0]
    assert log_q.max() - log_q.min() > 0.3
    assert abs(float(log_q.exp().sum()) * 2.5 * (2.5 / points) - 1) < 1e-6


def chi_square(flow, samples, density):
    """p-value of the particles' displacement in 20 bins against the density by quadrature."""
    lengths, bins, fine = flow.system.torus.lengths, 20, 400
    x = torch.zeros(fine, 2, 1, dtype=torch.float64)
    x[:, 1, 0] = (torch.arange(fine) + 0.5) * lengths[0] / fine
    expected = density(x).exp().view(bins, -1).sum(1)
    r = torch.remainder(samples[:, 1, 0] - samples[:, 0, 0], lengths[0])
    counts = torch.histc(r, bins, 0.0, lengths[0])
    return stats.chisquare(counts.numpy(), (expected / expected.sum() * len(r)).numpy()).pvalue


def test_samples_follow_the_density():
    flow = network_flow(steps=8, chunk=4000)
    samples = flow.sample(8000, torch.Generator().manual_seed(2)).positions
    assert chi_square(flow, samples, lambda x: flow.log_prob(x)[0]) > 6e-5
    assert chi_square(flow, samples, lambda x: torch.zeros(len(x), dtype=x.dtype)) < 6e-5
    assert chi_square(flow, samples, lambda x: WrongSign(flow).log_prob(x)[0]) < 6e-5


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_forward_and_back_agree_within_their_errors(solver):
    flow = network_flow((2.0, 2.5), (0, 0, 1), solver=solver, steps=8, tolerance=1e-5)
    samples = flow.sample(60, torch.Generator().manual_seed(3))
    log_q, error = flow.log_prob(samples.positions)
    off = (log_q - samples.log_q).abs()
    both = error + samples.log_q_error
    assert samples.log_q.std() > 0.3
    assert (off <= 5 * both + 1e-8).double().mean() > 0.9
    assert off.square().mean().sqrt() < 3 * both.square().mean().sqrt() + 1e-8


def exact_log_determinant(flow, base, steps):
    """log |det| of the numerical map itself, by the Jacobian of all its steps."""

    def ends(x):
        def field(t, y, rows):
            return flow.network(t, y), y.new_zeros(len(y), 1)

        return runge_kutta_4(field, x[None], 0.0, 1.0, steps)[0][0]

    size = base[0].numel()
    jacobian = torch.func.vmap(torch.func.jacfwd(ends))(base).reshape(len(base), size, size)
    return torch.linalg.slogdet(jacobian).logabsdet


@pytest.mark.parametrize("steps", [8, 16])
def test_the_error_of_log_q_is_honest(steps):
    """Against a much finer integration, and against the determinant of the map that made the samples."""
    flow, generator = network_flow((2.0, 2.0), (0, 0, 1), steps=steps), torch.Generator
    samples = flow.sample(30, generator().manual_seed(4))
    fine = network_flow((2.0, 2.0), (0, 0, 1), steps=96).sample(30, generator().manual_seed(4))
    base = flow.system.torus.uniform((30, 3), generator().manual_seed(4))
    determinant = flow.system.log_uniform_density - exact_log_determinant(flow, base, steps)
    assert samples.log_q.std() > 0.5
    for truth in (fine.log_q, determinant):
        off, stated = (samples.log_q - truth).abs(), samples.log_q_error
        assert (off <= 3 * stated + 1e-9).double().mean() > 0.8
        assert 0.1 < float(off.square().mean().sqrt() / stated.square().mean().sqrt()) < 3


@pytest.mark.parametrize("tolerance", [1e-3, 1e-4])
def test_the_error_of_log_q_by_adaptive_steps_is_honest(tolerance):
    settings = {"lengths": (2.0, 2.0), "species": (0, 0, 1), "solver": "dopri5"}
    flow = network_flow(**settings, tolerance=tolerance)
    samples = flow.sample(100, torch.Generator().manual_seed(5))
    fine = network_flow(**settings, tolerance=tolerance / 1000).sample(100, torch.Generator().manual_seed(5))
    base = flow.system.torus.uniform((100, 3), torch.Generator().manual_seed(5))
    off = (samples.log_q - fine.log_q).abs()

    def ratio(stated):
        return float(off.square().mean().sqrt() / stated.square().mean().sqrt())

    def field(t, y, rows):
        v, divergence = flow.network.with_divergence(t, y)
        return v, divergence[:, None]

    assert 0.3 < ratio(samples.log_q_error) < 3
    assert ratio(dormand_prince(field, base, 0.0, 1.0, tolerance)[2]) > 3  # what the embedded error alone would state


def test_the_bias_of_random_probes_is_shown_and_removed():
    """exp(−log q) averaged over probes, relative to the exact one, with and without the correction."""
    n, settings = 5000, {"lengths": (2.0, 2.0), "species": (0, 0, 1), "boost": 1.5, "steps": 4, "chunk": 5000}
    exact, noisy = network_flow(**settings), network_flow(**settings, likelihood="hutchinson", probes=2)
    x = exact.system.torus.uniform((1, 3), torch.Generator().manual_seed(5))
    log_q, error = noisy.log_prob(x.repeat(n, 1, 1), torch.Generator().manual_seed(6))
    off = log_q - exact.log_prob(x)[0]

    def bias(off):
        weight = torch.exp(-off)
        return float(weight.mean() - 1), float(weight.std() / math.sqrt(n)), float(off.std())

    shown, stderr, spread = bias(off - error**2 / 2)  # without the half variance that log q was given
    assert 0.1 < spread < 0.6
    assert shown > 8 * stderr and abs(shown - spread**2 / 2) < spread**3 + 4 * stderr
    left, stderr, spread = bias(off)
    assert abs(left) < 4 * stderr + spread**4 / 4


def test_random_probes_state_their_noise_in_both_directions():
    settings = {"lengths": (2.0, 2.0), "species": (0, 0, 1), "boost": 8.0, "steps": 4}
    noisy = network_flow(**settings, likelihood="hutchinson", probes=8)
    exact = network_flow(**settings).sample(400, torch.Generator().manual_seed(7))
    samples = noisy.sample(400, torch.Generator().manual_seed(7))
    assert torch.allclose(samples.positions, exact.positions, atol=1e-12)
    pull = (samples.log_q - exact.log_q - samples.log_q_error**2 / 2) / samples.log_q_error
    assert abs(float(pull.mean())) < 4 / 20 and 0.7 < float(pull.square().mean()) < 1.8
    log_q, error = noisy.log_prob(samples.positions, torch.Generator().manual_seed(8))
    pull = (log_q - exact.log_q - error**2 / 2) / error
    assert abs(float(pull.mean())) < 4 / 20 and 0.7 < float(pull.square().mean()) < 1.8


@pytest.mark.parametrize("settings", [{}, {"solver": "dopri5"}, {"likelihood": "hutchinson"}], ids=str)
def test_chunks_hold_the_memory_and_leave_the_samples(settings):
    """Up to rounding: the base and the probes do not depend on how many samples are integrated at once."""
    few, many = (network_flow(chunk=chunk, steps=4, **settings) for chunk in (3, 100))
    a, b = (flow.sample(10, torch.Generator().manual_seed(9)) for flow in (few, many))
    assert torch.allclose(a.positions, b.positions, atol=1e-12) and torch.allclose(a.log_q, b.log_q, atol=1e-12)


def test_flow_on_each_device(device):
    flow = network_flow(steps=4)
    flow.network.to(device)
    samples = flow.sample(6, torch.Generator(device=device).manual_seed(0))
    assert samples.log_q.device.type == device.type
    log_q, error = flow.log_prob(samples.positions)
    assert ((log_q - samples.log_q).abs() < 5 * (error + samples.log_q_error) + 1e-8).all()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"steps": 7}, "even"),
        ({"steps": 0}, "steps"),
        ({"solver": "euler"}, "solver"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"likelihood": "none"}, "likelihood"),
        ({"probes": 1}, "probes"),
        ({"samples": -5}, "samples"),
        ({"chunk": 0}, "chunk"),
        ({"seed": 1}, "seed"),
    ],
)
def test_settings_refuse(wrong, named):
    with pytest.raises(ValueError, match=named):
        GenerationSettings(**wrong)
