"""Flows with noise: uniform particles carried to configurations along random paths, whose weights are known.

A path x_0 … x_K is drawn by forward kernels F from uniform particles; backward kernels B lead from x_K to x_0. Then
exp(−βU(x_K)) Π B(x_k | x_{k+1}) / [p_0(x_0) Π F(x_{k+1} | x_k)] has the mean ∫exp(−βU) dx, whatever the kernels: its
spread alone depends on how well they reverse each other (Jarzynski 1997; for learned drifts He et al. 2025,
arXiv:2504.11516; with interpolants Albergo & Vanden-Eijnden 2024, arXiv:2410.02711). All Gaussians are wrapped.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from particlegen.flow.contract import FlowSamples
from particlegen.flow.ode import network_field
from particlegen.flow.settings import GenerationSettings
from particlegen.flow.solvers import runge_kutta_4
from particlegen.geometry import FlatTorus, Positions
from particlegen.interpolant import InterpolantSettings
from particlegen.networks import DenoisingNetwork
from particlegen.system import ParticleSystem

__all__ = ["PathFlow", "log_wrapped_normal"]

_NEGLECTED = 1e-12
"""Share of the nearest image's density below which images are left out."""
_AGAIN = 32
"""Trajectories of a batch whose deterministic steps are halved, for the error of log q."""


def log_wrapped_normal(torus: FlatTorus, delta: Positions, sigma: float) -> Float[Tensor, " batch"]:
    """Log-density of a normal law of standard deviation `sigma` per coordinate, wrapped around the torus.

    Args:
        delta: distances from the mean, nearest image or not, `(batch, N, dim)` float64.

    Returns:
        Summed over particles and coordinates, `(batch,)`; images are summed until the rest is below 1e-12 of the
        nearest one (Mardia & Jupp 2000, eq. 3.5.63).

    >>> box = FlatTorus((1.0,))
    >>> x = torch.linspace(0, 1, 101, dtype=torch.float64)[:-1, None, None]
    >>> round(float(log_wrapped_normal(box, x, 0.4).exp().mean()), 12)
    1.0
    """
    lengths = delta.new_tensor(torus.lengths)
    near = delta - lengths * torch.round(delta / lengths)
    # image m is (m + 1/2) L away at least, the nearest L/2 at most
    reach = 2 * math.log(4 / _NEGLECTED) * (sigma / min(torus.lengths)) ** 2
    most = math.ceil((math.sqrt(1 + 4 * reach) - 1) / 2)
    images = torch.arange(-most, most + 1, dtype=delta.dtype, device=delta.device).view(-1, *(1,) * delta.ndim)
    exponents = -0.5 * ((near + images * lengths) / sigma) ** 2
    return (torch.logsumexp(exponents, 0) - math.log(sigma * math.sqrt(2 * math.pi))).sum((1, 2))


class PathFlow:
    """Samples with path weights, from the velocity and the denoiser of a stochastic interpolant.

    `log_q` is that of a path: ln of p_0 Π F / Π B. It stands in for the density of the end point wherever weights are
    meant, since the mean of exp(−βU)/q over paths is the same; it is not the density itself.

    `plain` has no other error than the spread of the weights. `split` takes the change of density over a deterministic
    step by Runge–Kutta as well: the error is estimated from the first 32 trajectories of a batch, by halving each step
    and adding up the differences; the others get its root mean square.

    Args:
        network: velocity and denoiser; its parameters' dtype and device are used inside, all else stays float64.
        system: particles on a torus.
        interpolant: the noise that the network was trained with.
        settings: the workflow's `generation` section, of which `steps`, `chunk` and `path` are used.

    Raises:
        ValueError: `plain` kernels without noise.
    """

    def __init__(
        self,
        network: DenoisingNetwork,
        system: ParticleSystem,
        interpolant: InterpolantSettings,
        settings: GenerationSettings,
    ):
        self.network, self.system, self.settings = network, system, settings.path
        self.chunk, late = settings.chunk, settings.path.late_steps
        self.times = [1 - (1 - k / settings.steps) ** late for k in range(settings.steps + 1)]
        if self.settings.kernel == "plain" and (interpolant.noise == "none" or self.settings.diffusion == 0):
            raise ValueError("plain kernels need noise: an interpolant with 'noise' and a 'diffusion' above 0")
        self._gamma = interpolant.gamma
        self._field = network_field(network)

    def sample(self, n: int, generator: torch.Generator) -> FlowSamples:
        """`n` configurations with log q of their paths; base and noise are drawn from `generator` alone."""
        base = self.system.torus.uniform((n, self.system.n_particles), generator)
        x, log_ratio, error = self._paths(base, generator, forward=True)
        return FlowSamples(self.system.torus.wrap(x), self.system.log_uniform_density + log_ratio, error)

    def log_prob(
        self, x: Positions, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, " sample"], Float[Tensor, " sample"]]:
        """log q of one backward path from each configuration `(n, N, dim)`, and an estimate of its error.

        q is an unbiased estimate of the density of the end points, so that its logarithm is below theirs on average.
        """
        generator = generator or torch.Generator(device=x.device).manual_seed(0)
        _, log_ratio, error = self._paths(x.double(), generator, forward=False)
        return self.system.log_uniform_density + log_ratio, error

    def _paths(self, x: Tensor, generator: torch.Generator, forward: bool) -> tuple[Tensor, Tensor, Tensor]:
        """End points, ln Π F / Π B less the changes of volume, and the error of those."""
        step = self._split if self.settings.kernel == "split" else self._plain
        pairs = list(zip(self.times, self.times[1:], strict=False))
        parts = []
        for rows in x.split(self.chunk):
            log_ratio, error = torch.zeros_like(rows[:, 0, 0]), torch.zeros_like(rows[: min(_AGAIN, len(rows)), 0, 0])
            with torch.no_grad():
                for start, end in pairs if forward else reversed(pairs):
                    rows, change, off = step(rows, start, end, generator, forward)
                    rows, log_ratio, error = self.system.torus.wrap(rows), log_ratio + change, error + off
            rest = error.square().mean().sqrt().expand(len(rows) - len(error))
            parts.append((rows, log_ratio, torch.cat([error.abs(), rest])))
        if not parts:
            return x, x.new_zeros(0), x.new_zeros(0)
        ends, ratios, errors = (torch.cat(column) for column in zip(*parts, strict=True))
        return ends, ratios, errors

    def _split(
        self, x: Tensor, start: float, end: float, generator: torch.Generator, forward: bool
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        """A step along the flow and then one of noise at its end; backward the other way round."""
        if forward:
            y, change, off = self._flow(x, start, end)
            z, ratio = self._langevin(y, start, end, generator)
        else:
            y, ratio = self._langevin(x, start, end, generator)
            z, change, off = self._flow(y, end, start)
            change, ratio = -change, -ratio
        return z, ratio - change, off

    def _flow(self, x: Tensor, start: float, end: float) -> tuple[Tensor, Tensor, Tensor]:
        """End points, the integral of the divergence, and by how much halving the step changes the first few."""
        y, integral = runge_kutta_4(self._field, x, start, end, 1)
        few = x[:_AGAIN]
        _, finer = runge_kutta_4(self._field, few, start, end, 2)
        # the two differ by most of the coarse error at whatever order the trained field allows
        return y, integral[:, 0], integral[: len(few), 0] - finer[:, 0]

    def _langevin(self, x: Tensor, start: float, end: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """An Euler–Maruyama step of Langevin dynamics in the density at `end`, and ln of forward over backward."""
        gamma = self._level(end)
        h = self.settings.diffusion * gamma**2 * (end - start)
        if h <= 0:
            return x, torch.zeros_like(x[:, 0, 0])

        def drift(at: Tensor) -> Tensor:
            return -h / gamma * self._heads(end, at)[1]

        forward, sigma = drift(x), math.sqrt(2 * h)
        move = forward + sigma * _normal(x, generator)
        y = self.system.torus.wrap(x + move)
        return y, self._log_normal(move - forward, sigma) - self._log_normal(-move - drift(y), sigma)

    def _plain(
        self, x: Tensor, start: float, end: float, generator: torch.Generator, forward: bool
    ) -> tuple[Tensor, Tensor, float]:
        """Euler–Maruyama with the diffusion of the interval's middle, so that both directions have the same width."""
        dt, gamma = end - start, self._level((start + end) / 2)
        h = self.settings.diffusion * gamma**2 * dt
        sigma = math.sqrt(2 * h)

        def drift(at: Tensor, t: float, direction: int) -> Tensor:
            velocity, denoiser = self._heads(t, at)
            return direction * dt * velocity - h / gamma * denoiser

        here, there, direction = (start, end, 1) if forward else (end, start, -1)
        mean = drift(x, here, direction)
        move = mean + sigma * _normal(x, generator)
        y = self.system.torus.wrap(x + move)
        out, back = self._log_normal(move - mean, sigma), self._log_normal(-move - drift(y, there, -direction), sigma)
        return y, direction * (out - back), 0.0

    def _level(self, t: float) -> float:
        return float(self._gamma(torch.tensor([t], dtype=torch.float64)))

    def _log_normal(self, delta: Tensor, sigma: float) -> Tensor:
        return log_wrapped_normal(self.system.torus, delta, sigma)

    def _heads(self, t: float, x: Tensor) -> Tensor:
        """Velocity and denoiser, `(2, batch, N, dim)` float64."""
        dtype = next(iter(self.network.parameters())).dtype
        times = torch.full((len(x),), t, dtype=dtype, device=x.device)
        return self.network.forward(times, x.to(dtype), True).double()


def _normal(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
