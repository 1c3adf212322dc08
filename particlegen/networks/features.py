"""Smooth invariants and vectors of a displacement on a flat torus.

Everything is an analytic function of cos θ and sin θ with θ = 2πΔ/L, so nothing jumps at the cut locus |Δ| = L/2, and
is (in)variant under the signed axis permutations that map the box onto itself.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from particlegen.geometry import FlatTorus

__all__ = ["TorusFeatures", "smooth_displacement"]

_SOFTENING = 0.05
"""Length, in units of the mean spacing, below which the distance is rounded off, so that it is smooth at contact."""


def _arcsine_coefficients(order: int) -> list[float]:
    """c_n of θ² = Σ_n c_n u^n, u = sin²(θ/2): 4 arcsin²(√u) (Abramowitz & Stegun 1964, eq. 4.4.42 squared)."""
    return [2.0 * 4.0**n / (n * n * math.comb(2 * n, n)) for n in range(1, order + 1)]


def smooth_displacement(theta: Tensor, order: int = 8) -> tuple[Tensor, Tensor]:
    """Smooth periodic stand-ins for θ² and θ on (−π, π), any shape.

    The power series of θ² in sin²(θ/2), truncated: analytic on the circle, within 1e-3 of θ² for |θ| < 1.6, and flat
    at the antipode. The second value is half its derivative.

    >>> square, angle = smooth_displacement(torch.tensor([1.0, math.pi]))
    >>> round(square[0].item(), 4), round(angle[0].item(), 3), round(abs(angle[1].item()), 6)
    (1.0, 1.0, 0.0)
    """
    u = 0.5 * (1.0 - torch.cos(theta))
    square, slope = torch.zeros_like(u), torch.zeros_like(u)
    for n, c in reversed(list(enumerate(_arcsine_coefficients(order), start=1))):
        square = (square + c) * u
        slope = slope * u + n * c
    return square, 0.25 * slope * torch.sin(theta)


class TorusFeatures(nn.Module):
    """Invariants and equivariant vectors of displacements on a torus.

    Args:
        torus: the box; axes of equal length form a class whose members may be permuted.
        spacing: the mean distance of particles (V/N)^(1/d), which sets the range of the radial functions.
        harmonics: number of Fourier orders K.
        radial: number of Gaussian radial functions.
    """

    scale: Tensor
    membership: Tensor
    axis_class: Tensor
    orders: Tensor
    centres: Tensor

    def __init__(self, torus: FlatTorus, spacing: float, harmonics: int, radial: int):
        super().__init__()
        classes = sorted(set(torus.lengths))
        membership = torch.tensor([[float(length == c) for length in torus.lengths] for c in classes])
        reach = min(math.sqrt(sum(length**2 for length in torus.lengths)) / 2, 3.0 * spacing)
        self.lengths = torus.lengths
        self.classes = len(classes)
        self.width = reach / (radial - 1)
        self.softening = (_SOFTENING * spacing) ** 2
        self.register_buffer("scale", torch.tensor(torus.lengths) / (2 * math.pi), persistent=False)
        self.register_buffer("membership", membership, persistent=False)
        self.register_buffer("axis_class", membership.argmax(0), persistent=False)
        self.register_buffer("orders", torch.arange(1.0, harmonics + 1.0), persistent=False)
        self.register_buffer("centres", torch.linspace(0.0, reach, radial), persistent=False)
        self.invariants = radial + 2 * harmonics * self.classes
        self.vectors = 2 + 2 * harmonics

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TorusFeatures":
        # the period has to be the box length to the last digit of whatever precision the module is moved to
        super()._apply(fn, recurse)
        self.scale = self.scale.new_tensor(self.lengths) / (2 * math.pi)
        return self

    def forward(self, delta: Float[Tensor, "*batch dim"]) -> tuple[Tensor, Tensor]:
        """Invariants `(*batch, invariants)` and vectors `(*batch, dim, vectors)`; the first vector is the direction."""
        theta = delta / self.scale
        angles = theta[..., None] * self.orders
        cos, sin = torch.cos(angles), torch.sin(angles)
        square, smooth = smooth_displacement(theta)
        distance = torch.sqrt((square * self.scale**2).sum(-1, keepdim=True) + self.softening)
        radial = torch.exp(-(((distance - self.centres) / self.width) ** 2))
        sums = torch.einsum("ca,...ak->...ck", self.membership, cos)
        others = torch.einsum("ca,...ck->...ak", self.membership, sums) - cos  # over the other axes of the class
        products = torch.einsum("ca,...ak->...ck", self.membership, cos * others)
        invariants = torch.cat([radial, sums.flatten(-2), products.flatten(-2)], -1)
        displacement = smooth * self.scale
        vectors = torch.cat([(displacement / distance)[..., None], displacement[..., None], sin, sin * others], -1)
        return invariants, vectors

    def weigh(self, vectors: Tensor, weights: Tensor, axis: int = -2) -> Tensor:
        """Σ_k vectors × weights over the last axis, one weight per class of axes.

        `axis` of `vectors` counts the box's axes and that of `weights` the classes; the other shapes broadcast.
        """
        if self.classes > 1:
            weights = weights.index_select(axis, self.axis_class)
        return (vectors * weights).sum(-1)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner products over the axes of each class: `(*batch, dim, k)` twice → `(*batch, classes k)`."""
        if self.classes == 1:
            return (a * b).sum(-2)
        return torch.einsum("ca,...ak->...ck", self.membership, a * b).flatten(-2)
