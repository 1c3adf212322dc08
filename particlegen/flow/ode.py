"""The probability flow: uniform particles carried to configurations by a velocity field, with their log-density."""

import torch
from jaxtyping import Float
from torch import Tensor

from particlegen.flow.contract import FlowSamples
from particlegen.flow.settings import GenerationSettings
from particlegen.flow.solvers import Field, dormand_prince, runge_kutta_4
from particlegen.geometry import Positions
from particlegen.networks import VelocityNetwork
from particlegen.system import ParticleSystem

__all__ = ["ODEFlow", "network_field"]

_AGAIN = 32
"""Trajectories of a chunk that `dopri5` integrates a second time, for the error of log q."""


class ODEFlow:
    """dx/dt = v(t, x) from t = 0 (uniform) to t = 1, and d log q/dt = −div v along it (Chen et al. 2018, eq. 8).

    The error of log q is estimated from the solver. With `rk4` it is the difference from a pass with half the steps
    divided by 3: Richardson's 15 for the fourth order would understate it, as a trained field at few steps converges
    more slowly, and 3 assumes the second order only. With `dopri5` it is the accumulated embedded error, which leaves
    out what errors of the positions do, and in quadrature the root mean square by which the first 32 trajectories of a
    chunk move at a tenth of the tolerance. With `hutchinson` the standard error over probes is added in quadrature.

    Args:
        network: velocity field; its parameters' dtype and device are used inside, positions and log q stay float64.
        system: particles on a torus.
        settings: the workflow's `generation` section.
    """

    def __init__(self, network: VelocityNetwork, system: ParticleSystem, settings: GenerationSettings):
        self.network, self.system, self.settings = network, system, settings

    def sample(self, n: int, generator: torch.Generator) -> FlowSamples:
        """`n` configurations with log q in one pass; the base and the probes are drawn from `generator` alone."""
        base = self.system.torus.uniform((n, self.system.n_particles), generator)
        x, integral, error = self._integrate(base, 0.0, 1.0, generator)
        return FlowSamples(self.system.torus.wrap(x), self.system.log_uniform_density - integral, error)

    def log_prob(
        self, x: Positions, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, " sample"], Float[Tensor, " sample"]]:
        """log q of given configurations `(n, N, dim)` by the inverse flow, and an estimate of its error."""
        generator = generator or torch.Generator(device=x.device).manual_seed(0)
        _, integral, error = self._integrate(x.double(), 1.0, 0.0, generator)
        return self.system.log_uniform_density + integral, error

    def _integrate(
        self, x: Tensor, start: float, end: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        probes = None
        if self.settings.likelihood == "hutchinson":
            shape = (len(x), self.settings.probes, *x.shape[1:])
            probes = torch.randint(2, shape, generator=generator, device=x.device) * 2.0 - 1.0
        parts = []
        for first in range(0, len(x), self.settings.chunk):
            rows = slice(first, first + self.settings.chunk)
            with torch.no_grad():
                parts.append(self._solve(x[rows], start, end, None if probes is None else probes[rows]))
        if not parts:
            return x, x.new_zeros(0), x.new_zeros(0)
        ends, integrals, errors = (torch.cat(column) for column in zip(*parts, strict=True))
        return ends, integrals, errors

    def _solve(self, x: Tensor, start: float, end: float, probes: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """End points, the integral of the divergence from `start` to `end`, and its error."""
        if self.settings.solver == "dopri5":
            ends, integral, error = self._adaptive(x, start, end, probes)
        else:
            field = network_field(self.network, probes)
            ends, integral = runge_kutta_4(field, x, start, end, self.settings.steps)
            _, coarse = runge_kutta_4(field, x, start, end, self.settings.steps // 2)
            error = (integral - coarse).mean(1).abs() / 3
        mean = integral.mean(1)
        if probes is None:
            return ends, mean, error
        variance = integral.var(1) / probes.shape[1]
        # the weight 1/q is convex in the noise: E[exp(noise)] = exp(variance/2), taken out of log q here;
        # the inverse flow integrates from 1 to 0, where log q gains the integral instead of losing it
        return ends, mean - (end - start) * variance / 2, torch.sqrt(error**2 + variance)

    def _adaptive(self, x: Tensor, start: float, end: float, probes: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        n, few = len(x), min(_AGAIN, len(x))
        rows = torch.cat([torch.arange(n, device=x.device), torch.arange(few, device=x.device)])
        tolerance = torch.full_like(rows, self.settings.tolerance, dtype=x.dtype)
        tolerance[n:] /= 10
        field = network_field(self.network, None if probes is None else probes[rows])
        ends, integral, error = dormand_prince(field, x[rows], start, end, tolerance)
        off = (integral[:few] - integral[n:]).mean(1)
        return ends[:n], integral[:n], torch.sqrt(error[:n] ** 2 + off.square().nanmean())


def network_field(network: VelocityNetwork, probes: Tensor | None = None) -> Field:
    """Velocity and divergence in float64 at the network's own precision, exact or along random probes.

    Args:
        probes: `(trajectory, probe, N, dim)` of ±1; the divergence along each comes in a column of its own.
    """
    dtype = next(iter(network.parameters())).dtype

    def field(t: Tensor, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        t, y = t.to(dtype), x.to(dtype)
        if probes is None:
            v, divergence = network.with_divergence(t, y)
            return v.double(), divergence.double()[:, None]
        z = probes[rows].to(dtype).transpose(0, 1)

        def along(tangent: Tensor) -> tuple[Tensor, ...]:
            return torch.func.jvp(lambda q: network.forward(t, q), (y,), (tangent,))

        v, slopes = torch.func.vmap(along, out_dims=(None, 0))(z)  # pyright: ignore[reportArgumentType]
        return v.double(), (slopes * z).sum((2, 3)).double().T

    return field
