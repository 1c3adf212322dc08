"""Small parts that both kinds of torus network share."""

import itertools
import math

import torch
from torch import Tensor, nn

from particlegen.geometry import FlatTorus
from particlegen.networks.features import TorusFeatures

__all__ = ["Clock", "TorusNetwork", "mlp", "pair_displacements", "remove_drift", "require_denoiser"]


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with SiLU between them; a single width is one square layer."""
    widths = widths if len(widths) > 1 else widths * 2
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def pair_displacements(x: Tensor) -> Tensor:
    """x_j − x_i, not wrapped: `(batch, N, dim)` → `(dim, batch, N, N)`, first i then j; every feature is periodic."""
    x = x.movedim(-1, 0).contiguous()
    return x[:, :, None] - x[..., None]


def remove_drift(v: Tensor) -> Tensor:
    """Vectors `(..., N, dim)` minus their mean over particles."""
    return v - v.mean(-2, keepdim=True)


def require_denoiser(wanted: bool, heads: int) -> None:
    """Refuse to ask a network of one head for two."""
    if wanted and heads < 2:
        raise TypeError("this network has no denoiser: build it with NetworkSettings(denoiser=True) and train it so")


def particle_traits(species: tuple[int, ...], diameters: tuple[float, ...] | None) -> Tensor:
    """What tells particles apart, `(N, traits)`: the species as one-hot columns, and the diameter if there is one.

    Diameters are measured from their mean, in their standard deviation.
    """
    columns = nn.functional.one_hot(torch.tensor(species), max(species) + 1).float()
    if diameters is None:
        return columns
    sizes = torch.tensor(diameters)
    spread = sizes.std(unbiased=False).clamp_min(1e-6)
    return torch.cat([columns, ((sizes - sizes.mean()) / spread)[:, None]], 1)


class Clock(nn.Module):
    """Time and traits of each particle as a vector: `(batch,)` and `(N, traits)` → `(batch, N, width)`."""

    frequencies: Tensor

    def __init__(self, traits: int, width: int, harmonics: int = 4):
        super().__init__()
        self.register_buffer("frequencies", math.pi * torch.arange(1.0, harmonics + 1.0), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * harmonics + 3 + traits, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor, traits: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        # logarithms resolve both ends of the path: where contacts form, and where holes open around particles
        ends = torch.log(torch.stack([1.02 - t, 0.02 + t], -1))
        time = torch.cat([torch.sin(angles), torch.cos(angles), t[:, None], ends], -1)
        batch, n = len(t), len(traits)
        joined = torch.cat([time[:, None].expand(batch, n, -1), traits[None].expand(batch, n, -1)], -1)
        return nn.functional.silu(self.layers(joined))


class TorusNetwork(nn.Module):
    """What both kinds of network hold: features of displacements (as they are, and moved), time and traits, a mask.

    Args:
        torus: the box.
        species: species index per particle.
        diameters: diameter per particle (polydisperse systems), or None.
        width: length of the feature vectors.
        harmonics, radial: sizes of `TorusFeatures`.
    """

    traits: Tensor
    mask: Tensor

    def __init__(
        self,
        torus: FlatTorus,
        species: tuple[int, ...],
        diameters: tuple[float, ...] | None,
        width: int,
        harmonics: int,
        radial: int,
    ):
        super().__init__()
        n = len(species)
        spacing = (torus.volume / n) ** (1 / torus.dim)
        self.features = TorusFeatures(torus, spacing, harmonics, radial)
        self.moved_features = TorusFeatures(torus, spacing, harmonics, radial, "coarse")
        self.register_buffer("traits", particle_traits(species, diameters), persistent=False)
        self.clock = Clock(self.traits.shape[1], width)
        self.register_buffer("mask", (1 - torch.eye(n))[None, :, :, None], persistent=False)
        self.crowd = max(1.0, (n - 1) ** 0.5)
