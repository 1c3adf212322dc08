"""Functions of a distance that vanish smoothly at a cutoff."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["CROWD", "RadialBasis", "envelope", "pair_distances"]

CROWD = 8.0**0.5
"""Root of a usual number of neighbours, which sums over neighbours are divided by."""


def envelope(x: Tensor) -> Tensor:
    """1 − 28x⁶ + 48x⁷ − 21x⁸ for x = r/cutoff < 1, 0 beyond: 1 at the origin, and with two derivatives 0 at x = 1.

    Source: Gasteiger, Groß, Günnemann 2020, Eq. 8, with p = 6.

    >>> envelope(torch.tensor([0.0, 1.0, 2.0]))
    tensor([1., 0., 0.])
    """
    inside = x.clamp_max(1.0)
    return 1.0 - inside**6 * (28.0 - inside * (48.0 - 21.0 * inside))


class RadialBasis(nn.Module):
    """√2 sin(nπx)/(πx) · envelope(x) for n = 1..size and x = r/cutoff (Gasteiger, Groß, Günnemann 2020, Eq. 7).

    Args:
        cutoff: distance from which on all functions are 0.
        size: number of functions.
    """

    frequencies: Tensor

    def __init__(self, cutoff: float, size: int):
        super().__init__()
        self.cutoff = cutoff
        self.register_buffer("frequencies", math.pi * torch.arange(1.0, size + 1.0), persistent=False)

    def forward(self, r: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape size"]:
        """Values at distances `r` > 0."""
        x = r / self.cutoff
        weight = math.sqrt(2.0) / math.pi * envelope(x) / x
        return torch.sin(x[..., None] * self.frequencies) * weight[..., None]


def pair_distances(
    delta: Float[Tensor, "batch particle image 3"],
) -> tuple[Float[Tensor, "batch particle image"], Float[Tensor, "particle image"]]:
    """Distances, and 0 where a particle meets itself (its distance is then given as 1), else 1.

    Two particles in one place are at distance 0, which no basis function is defined at.
    """
    n, images = delta.shape[1:3]
    others = 1.0 - torch.eye(n, images, dtype=delta.dtype, device=delta.device)
    return (delta.square().sum(-1) + (1.0 - others)).sqrt(), others
