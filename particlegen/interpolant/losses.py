"""The geodesic interpolant on a torus, its couplings, and the velocity-matching loss."""

from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from particlegen.geometry import FlatTorus, Positions
from particlegen.interpolant.assignment import couple
from particlegen.interpolant.schedules import NOISE_SCHEDULES, draw_times
from particlegen.settings import Section
from particlegen.system import ParticleSystem

__all__ = ["Coupling", "InterpolantLoss", "InterpolantSettings", "geodesic_interpolant"]


class InterpolantSettings(Section):
    """The `interpolant` section of a workflow.

    Attributes:
        path: `geodesic`, the shortest path on the torus.
        noise: name of γ(t); `none` is the deterministic interpolant.
        noise_amplitude: factor on γ, in units of length.
        coupling: what is minimised over when base and data are paired: permutations within each `species`,
            `translation`s, the box's `point_group`; the last two only with the first. Empty: independent pairs.
        starts: starting translations tried per point-group element.
        pool: configurations of a batch among which partners are chosen, for shorter paths (mini-batch optimal
            transport); 1 is none. The time that coupling takes is proportional to it.
        late_times: exponent that draws training times towards t = 1; 1 is uniform.
    """

    path: Literal["geodesic"] = "geodesic"
    noise: Literal["none", "root", "quadratic", "sine_squared"] = "none"
    noise_amplitude: Annotated[float, Field(gt=0)] = 0.1
    coupling: tuple[Literal["species", "translation", "point_group"], ...] = ("species", "translation", "point_group")
    starts: Annotated[int, Field(ge=1, le=64)] = 2
    pool: Annotated[int, Field(ge=1, le=256)] = 1
    late_times: Annotated[float, Field(ge=1, le=4)] = 1.0

    def gamma(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Standard deviation of the noise at times `t`, in units of length."""
        return self.noise_amplitude * NOISE_SCHEDULES[self.noise](t)[0]

    @model_validator(mode="after")
    def _species_first(self) -> "InterpolantSettings":
        if self.coupling and "species" not in self.coupling:
            raise ValueError(f"'coupling' {list(self.coupling)} needs 'species' too: it is minimised over permutations")
        if self.pool > 1 and not self.coupling:
            raise ValueError(f"'pool' {self.pool} shortens coupled paths, but 'coupling' is empty; add 'species' to it")
        return self


def geodesic_interpolant(
    torus: FlatTorus, x0: Positions, x1: Positions, t: Float[Tensor, " batch"]
) -> tuple[Positions, Positions]:
    """x_t = exp_{x0}(t log_{x0} x1) and its velocity log_{x0} x1 (Chen & Lipman 2024, eq. 14)."""
    velocity = torus.displacement(x0, x1)
    return torus.shift(x0, t[:, None, None] * velocity), velocity


class Coupling:
    """Pairs base and data configurations, leaving both marginals as they are.

    The data configuration is replaced by its image, under the chosen symmetries of the Boltzmann law, nearest to the
    base configuration; in a pool, each datum goes to one base configuration, for the least sum. Then one random element
    of the same symmetries acts on both. The base is untouched up to that element, under which it is invariant, so it
    stays uniform; the data marginal is averaged over the symmetries.
    """

    def __init__(self, system: ParticleSystem, settings: InterpolantSettings):
        self.torus, self.blocks = system.torus, system.blocks
        self.permute = "species" in settings.coupling
        self.translate = "translation" in settings.coupling
        self.starts = settings.starts if self.translate else 1
        self.pool = settings.pool
        elements = self.torus.point_group()
        self.elements = (elements if "point_group" in settings.coupling else elements[:1]).numpy()

    def __call__(self, x0: Positions, x1: Positions, generator: torch.Generator) -> tuple[Positions, Positions]:
        """Coupled pairs, float64, from float64 positions `(batch, N, dim)` on the CPU."""
        batch = len(x0)
        shifts = np.zeros((batch, self.starts, self.torus.dim))
        if self.translate:
            shifts = self.torus.uniform((batch, self.starts), generator).numpy()
        if self.permute:
            rounds = 5 if self.translate else 0
            fixed = self.torus.lengths, self.blocks, self.elements
            x1 = torch.from_numpy(couple(x0.numpy(), x1.numpy(), *fixed, shifts, rounds, self.pool))
        if self.translate:
            common = self.torus.uniform((batch, 1), generator)
            x0, x1 = self.torus.wrap(x0 + common), self.torus.wrap(x1 + common)
        if len(self.elements) > 1:
            chosen = torch.randint(len(self.elements), (batch,), generator=generator)
            matrices = torch.from_numpy(self.elements)[chosen]
            x0, x1 = (self.torus.wrap(torch.einsum("bij,bnj->bni", matrices, x)) for x in (x0, x1))
        return x0, x1


class InterpolantLoss:
    """Mean squared error of the velocity over base, data and time (Albergo, Boffi & Vanden-Eijnden 2023, eq. 2.13).

    A network with a denoiser learns the noise z too; its mean squared error is added (theorem 2.8 there). On the torus
    it is the noise of the image that was drawn, so that −E[z|x]/γ is the score of the wrapped density.

    Args:
        system: gives the torus and which particles are interchangeable.
        settings: the workflow's `interpolant` section.
    """

    def __init__(self, system: ParticleSystem, settings: InterpolantSettings):
        self.torus, self.settings = system.torus, settings
        self.coupling = Coupling(system, settings)
        self.noise = NOISE_SCHEDULES[settings.noise]

    def pairs(self, data: Positions, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Times `(batch,)`, points on the path, target velocities and noise z `(batch, N, dim)`, float64.

        Without noise in the settings z is zero.
        """
        batch, n, _ = data.shape
        x0, x1 = self.coupling(self.torus.uniform((batch, n), generator), data, generator)
        t = draw_times(batch, self.settings.late_times, generator).double()
        x, velocity = geodesic_interpolant(self.torus, x0, x1, t)
        z = torch.zeros_like(x)
        if self.settings.noise != "none":
            gamma, slope = (self.settings.noise_amplitude * a[:, None, None] for a in self.noise(t))
            z = torch.randn(data.shape, generator=generator, dtype=torch.float64)
            x, velocity = self.torus.shift(x, gamma * z), velocity + slope * z
        return t, x, velocity, z

    def __call__(self, network: nn.Module, data: Positions, generator: torch.Generator) -> Tensor:
        """The loss of one batch of data, float64 `(batch, N, dim)` on the CPU, in squared lengths per coordinate."""
        parameter = next(network.parameters())
        t, x, velocity, z = (a.to(parameter.device, parameter.dtype) for a in self.pairs(data, generator))
        if getattr(network, "heads", 1) == 1:
            return ((network(t, x) - velocity) ** 2).mean()
        return ((network(t, x, True) - torch.stack([velocity, z])) ** 2).mean((1, 2, 3)).sum()
