"""Path weights: their mean is the partition function whatever the kernels, and mutated kernels miss it."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn

from particlegen import estimate
from particlegen.flow import FlowSamples, GenerationSettings, PathFlow, PathSettings, path
from particlegen.flow.path import log_wrapped_normal
from particlegen.geometry import FlatTorus
from particlegen.interpolant import InterpolantLoss, InterpolantSettings, losses
from particlegen.networks import NetworkSettings, build_network
from particlegen.system import ParticleSystem

BOX = FlatTorus((1.5, 2.0))
PAIR = ParticleSystem("pair", BOX, (0, 0), ("A",))
NOISE = InterpolantSettings(noise="quadratic", noise_amplitude=1.0)
WELL = 0.8
"""βU = WELL Σ_a cos(2π Δ_a / L_a), whose mean of exp(−βU) over uniform positions is I_0(WELL)^2."""
EXACT = 2 * math.log(special.i0(WELL))


class Attraction(nn.Module):
    """Two particles pulled together and apart by sines of their distance, at rates that change with time."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def _wave(self, x):
        return 2 * math.pi * (x[:, 1] - x[:, 0]) / x.new_tensor(BOX.lengths)

    def forward(self, t, x, denoiser=False):
        pull = 0.15 * (1 + t[:, None]) * torch.sin(self._wave(x))
        noise = 0.4 * torch.sin(self._wave(x))
        velocity = torch.stack([pull, -pull], 1)
        return torch.stack([velocity, torch.stack([noise, -noise], 1)]) if denoiser else velocity

    def with_divergence(self, t, x):
        slopes = 0.15 * (1 + t[:, None]) * torch.cos(self._wave(x)) * 2 * math.pi / x.new_tensor(BOX.lengths)
        return self(t, x), -2 * slopes.sum(1)


def reduced_energy(x):
    return WELL * torch.cos(2 * math.pi * (x[:, 1] - x[:, 0]) / x.new_tensor(BOX.lengths)).sum(1)


def flow(kernel, steps, network=None, diffusion=4.0, **settings):
    stepping = PathSettings(kernel=kernel, diffusion=diffusion, **settings)
    generation = GenerationSettings(likelihood="path", steps=steps, path=stepping, chunk=5_000)
    return PathFlow(network or Attraction(), PAIR, NOISE, generation)


def log_mean_weight(of, n=20_000, seed=1):
    """ln of the mean weight over its exact value, the standard error of that, and the mean estimated error of log q."""
    samples = of.sample(n, torch.Generator().manual_seed(seed))
    w = (-reduced_energy(samples.positions) - samples.log_q + of.system.log_uniform_density - EXACT).exp()
    return math.log(w.mean()), float(w.std() / w.mean() / n**0.5), float(samples.log_q_error.mean())


@pytest.mark.parametrize("late_steps", [1.0, 2.0])
@pytest.mark.parametrize("steps", [4, 16, 64])
def test_plain_weights_have_the_exact_mean_at_any_number_of_steps(steps, late_steps):
    off, stderr, error = log_mean_weight(flow("plain", steps, late_steps=late_steps))
    assert abs(off) < 4 * stderr and stderr < 0.04
    assert error == 0.0


@pytest.mark.parametrize("steps", [4, 16, 64])
def test_split_weights_have_the_exact_mean_but_for_the_estimated_error(steps):
    off, stderr, error = log_mean_weight(flow("split", steps))
    assert abs(off) < 4 * stderr + error and stderr < 0.025
    assert error < {4: 3e-3, 16: 1e-5, 64: 1e-7}[steps]


def test_the_estimated_error_of_a_split_path_is_that_of_its_coarse_steps(monkeypatch):
    """Without noise the path is that of the flow, which many steps give exactly."""
    coarse, fine = (flow("split", steps, diffusion=0.0) for steps in (2, 64))
    x = BOX.uniform((32, 2), torch.Generator().manual_seed(0))
    off = (coarse.log_prob(x)[0] - fine.log_prob(x)[0]).abs()
    estimated = coarse.log_prob(x)[1]
    assert 0.5 < float(estimated.mean() / off.mean()) < 2
    monkeypatch.setattr(path, "_AGAIN", 8)
    few = coarse.log_prob(x)[1]
    assert torch.equal(few[:8], estimated[:8]) and float(few[8]) == pytest.approx(
        float(estimated[:8].square().mean().sqrt())
    )


def equilibrium(n, seed=2):
    """Independent configurations of the Boltzmann law, by rejection."""
    generator = torch.Generator().manual_seed(seed)
    x = BOX.uniform((10 * n, 2), generator)
    x = x[torch.rand(len(x), generator=generator) < (-reduced_energy(x) - 2 * WELL).exp()][:n]
    assert len(x) == n
    return x


@pytest.mark.parametrize("kernel", ["plain", "split"])
def test_weights_of_backward_paths_from_equilibrium_have_the_inverse_mean(kernel):
    """⟨q/exp(−βU)⟩ = 1/Z over equilibrium configurations and their backward paths."""
    x, of = equilibrium(20_000), flow(kernel, 16)
    log_q, _ = of.log_prob(x, torch.Generator().manual_seed(3))
    w = (log_q - of.system.log_uniform_density + reduced_energy(x) + EXACT).exp()
    assert abs(float(w.mean()) - 1) < 4 * float(w.std()) / len(w) ** 0.5 < 0.12


@pytest.mark.parametrize("kernel", ["plain", "split"])
def test_forward_and_backward_paths_together_know_the_free_energy_better(kernel):
    """By BAR, from as many of both; a backward path weighed as if it were forward fails."""
    of, n = flow(kernel, 16), 10_000
    samples, x = of.sample(n, torch.Generator().manual_seed(7)), equilibrium(n)
    log_q, _ = of.log_prob(x, torch.Generator().manual_seed(8))
    uniform = of.system.log_uniform_density
    forward = (-reduced_energy(samples.positions) - samples.log_q + uniform).numpy()
    backward = (-reduced_energy(x) - log_q + uniform).numpy()
    both, alone = estimate.flow_bar(forward, backward), estimate.free_energy_excess(forward, 0.0)
    assert abs(both.value + EXACT) < 4 * both.stderr < 4 * alone.stderr
    assert both.stderr < 0.015
    wrong = estimate.flow_bar(forward, (-reduced_energy(x) + log_q - uniform).numpy())
    assert abs(wrong.value + EXACT) > 6 * wrong.stderr


class WithoutImages(PathFlow):
    """Gaussians of the nearest image alone."""

    def _log_normal(self, delta, sigma):
        near = BOX.displacement(torch.zeros_like(delta), delta)
        return (-0.5 * (near / sigma) ** 2).sum((1, 2))


class WiderForward(PathFlow):
    """The first density of each step, that of the forward kernel, is 10 % wider than what is drawn from it.

    A wider backward kernel would be right: any is.
    """

    calls = 0

    def _log_normal(self, delta, sigma):
        self.calls += 1
        return log_wrapped_normal(BOX, delta, sigma * (1.1 if self.calls % 2 == 1 else 1.0))


class WithoutDivergence(Attraction):
    def with_divergence(self, t, x):
        return self(t, x), torch.zeros_like(t)


@pytest.mark.parametrize(
    ("mutant", "kernel", "steps", "diffusion"),
    [
        (WithoutImages, "plain", 4, 100.0),
        (WithoutImages, "split", 4, 30.0),
        (WiderForward, "plain", 16, 10.0),
        (WiderForward, "split", 16, 10.0),
    ],
)
def test_wrong_kernels_miss_the_mean(mutant, kernel, steps, diffusion):
    of = flow(kernel, steps, diffusion=diffusion)
    off, stderr, error = log_mean_weight(of)
    assert abs(off) < 4 * stderr + error
    of.__class__ = mutant
    off, stderr, error = log_mean_weight(of)
    assert abs(off) > 6 * stderr + error


def test_a_missing_divergence_misses_the_mean():
    off, stderr, error = log_mean_weight(flow("split", 16, WithoutDivergence()))
    assert abs(off) > 6 * stderr + error


@pytest.mark.parametrize("kind", ["hollow", "standard"])
def test_networks_with_random_weights_give_the_exact_mean(kind):
    settings = NetworkSettings(kind=kind, width=8, rounds=2, radial=6, channels=2, harmonics=2, denoiser=True)
    network = build_network(settings, PAIR, 3).double().requires_grad_(False)
    off, stderr, error = log_mean_weight(flow("split", 4, network), 1_500)
    assert abs(off) < 4 * stderr + error and stderr < 0.05


def test_many_plain_steps_draw_the_same_density_as_split_ones():
    """Both follow the same stochastic differential equation, up to its time step."""
    plain, split = (flow(k, 64).sample(8_000, torch.Generator().manual_seed(4)).positions for k in ("plain", "split"))
    one, two = reduced_energy(plain), reduced_energy(split)
    stderr = math.hypot(float(one.std()), float(two.std())) / len(one) ** 0.5
    assert abs(float(one.mean() - two.mean())) < 4 * stderr
    assert abs(float(one.mean())) > 6 * stderr


@pytest.mark.parametrize("sigma", [0.01, 0.3, 1.0, 5.0])
def test_the_wrapped_normal_is_normalised_and_periodic(sigma):
    line = FlatTorus((2.0,))
    x = (torch.arange(4000, dtype=torch.float64) / 2000)[:, None, None]
    density = log_wrapped_normal(line, x, sigma)
    assert abs(float(density.exp().mean()) * 2 - 1) < 1e-12
    assert torch.allclose(density, log_wrapped_normal(line, x - 6.0, sigma), rtol=0, atol=1e-9)
    direct = np.logaddexp.reduce([stats.norm.logpdf(x[:, 0, 0].numpy() + 2 * k, scale=sigma) for k in range(-40, 41)])
    assert np.abs(density.numpy() - direct).max() < 1e-10


def test_the_noise_that_is_learned_is_the_score_of_the_wrapped_density(monkeypatch):
    """All data at 0 on a circle: x_t is uniform on an arc about it, smeared by a wrapped normal law."""
    circle, t = ParticleSystem("one", FlatTorus((2.0,)), (0,), ("A",)), 0.6
    monkeypatch.setattr(losses, "draw_times", lambda n, late, generator: torch.full((n,), t))
    settings = InterpolantSettings(noise="quadratic", noise_amplitude=1.5, coupling=())
    n, gamma = 400_000, float(settings.gamma(torch.tensor([t], dtype=torch.float64)))
    assert gamma == pytest.approx(0.36)
    data = torch.zeros(n, 1, 1, dtype=torch.float64)
    _, x, _, z = InterpolantLoss(circle, settings).pairs(data, torch.Generator().manual_seed(5))
    x, z = x.flatten().numpy(), z.flatten().numpy()
    bins, edge = np.floor(x * 20).astype(int), 1 - t
    centres = (np.arange(40) + 0.5) / 20
    images = centres + 2 * np.arange(-4, 5)[:, None]
    ends = [stats.norm.pdf((images + s * edge) / gamma).sum(0) for s in (1, -1)]
    inside = [stats.norm.cdf((images + s * edge) / gamma).sum(0) for s in (1, -1)]
    expected = -(ends[0] - ends[1]) / (inside[0] - inside[1])
    found = np.array([z[bins == k].mean() for k in range(40)])
    stderr = np.array([z[bins == k].std() / (bins == k).sum() ** 0.5 for k in range(40)])
    assert (np.abs(found - expected) < 4.5 * stderr + 2e-3).all() and np.abs(expected).max() > 0.5
    assert (np.abs(found - expected / 1.1) > 4.5 * stderr + 2e-3).any()


def test_samples_depend_on_the_generator_alone_and_their_rows_are_paths():
    of = flow("split", 4)
    one, two = (of.sample(100, torch.Generator().manual_seed(6)) for _ in range(2))
    assert isinstance(one, FlowSamples) and torch.equal(one.positions, two.positions)
    assert torch.equal(one.log_q, two.log_q) and (one.positions >= 0).all()
    none = of.sample(0, torch.Generator())
    assert none.positions.shape == (0, 2, 2) and none.log_q.shape == (0,)


def test_settings_refuse():
    with pytest.raises(ValueError, match="plain kernels need noise"):
        flow("plain", 4, diffusion=0.0)
    with pytest.raises(ValueError, match="'solver' 'dopri5' has no path weights"):
        GenerationSettings(likelihood="path", solver="dopri5")
    with pytest.raises(TypeError, match="has no denoiser"):
        flow("split", 4, build_network(NetworkSettings(width=8, rounds=1), PAIR).double()).sample(2, torch.Generator())
