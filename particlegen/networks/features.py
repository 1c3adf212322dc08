"""Smooth invariants and vectors of a displacement on a flat torus.

Everything is an analytic function of cos θ and sin θ with θ = 2πΔ/L, so nothing jumps at the cut locus |Δ| = L/2, and
is (in)variant under the signed axis permutations that map the box onto itself.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from particlegen.geometry import FlatTorus

__all__ = ["TorusFeatures", "as_features", "as_rows", "smooth_displacement"]

# Both in units of the mean spacing.
_SOFTENING = {"fine": 0.01, "coarse": 0.05}
"""Length below which the distance is rounded off, so that it is smooth at contact."""
_CORE = {"fine": 0.15, "coarse": 10.0}
"""Distance below which radial functions are evenly spaced; beyond, by its logarithm."""


def _arcsine_coefficients(order: int) -> list[float]:
    """c_n of θ² = Σ_n c_n u^n, u = sin²(θ/2): 4 arcsin²(√u) (Abramowitz & Stegun 1964, eq. 4.4.42 squared)."""
    return [2.0 * 4.0**n / (n * n * math.comb(2 * n, n)) for n in range(1, order + 1)]


def smooth_displacement(cos: Tensor, sin: Tensor, order: int = 8) -> tuple[Tensor, Tensor]:
    """Smooth periodic stand-ins for θ² and θ on (−π, π), from the cosine and sine of θ, any shape.

    The power series of θ² in sin²(θ/2), truncated: analytic on the circle, within 1e-3 of θ² for |θ| < 1.6, and flat
    at the antipode. The second value is half its derivative.

    >>> theta = torch.tensor([1.0, math.pi])
    >>> square, angle = smooth_displacement(torch.cos(theta), torch.sin(theta))
    >>> round(square[0].item(), 4), round(angle[0].item(), 3), round(abs(angle[1].item()), 6)
    (1.0, 1.0, 0.0)
    """
    u = 0.5 * (1.0 - cos)
    square, slope = torch.zeros_like(u), torch.zeros_like(u)
    for n, c in reversed(list(enumerate(_arcsine_coefficients(order), start=1))):
        square = (square + c) * u
        slope = slope * u + n * c
    return square, 0.25 * slope * sin


class TorusFeatures(nn.Module):
    """Invariants and equivariant vectors of displacements on a torus.

    Every array has the displacements' shape as its last axes and counts features in the first, so that the work on
    them runs over long contiguous rows. `as_rows` and `as_features` lead to linear layers and back without a copy.

    Args:
        torus: the box; axes of equal length form a class whose members may be permuted.
        spacing: the mean distance of particles (V/N)^(1/d), which sets the range of the radial functions.
        harmonics: number of Fourier orders K.
        radial: number of radial functions, Gaussians of log(1 + r/core): as wide as their distance from each other.
        resolution: `fine` for displacements of particles. A path opens the hole around each particle from nothing:
            early on the velocity turns round within a small distance. `coarse` for what a network has moved already:
            sharp functions of sharp functions make stiff fields.
    """

    scale: Tensor
    centres: Tensor

    def __init__(
        self,
        torus: FlatTorus,
        spacing: float,
        harmonics: int,
        radial: int,
        resolution: Literal["fine", "coarse"] = "fine",
    ):
        super().__init__()
        lengths = sorted(set(torus.lengths))
        reach = min(math.sqrt(sum(length**2 for length in torus.lengths)) / 2, 3.0 * spacing)
        self.lengths = torus.lengths
        self.axes = [[axis for axis, length in enumerate(torus.lengths) if length == same] for same in lengths]
        self.class_of_axis = [lengths.index(length) for length in torus.lengths]
        self.classes = len(lengths)
        self.core = _CORE[resolution] * spacing
        self.functions_per_fold = (radial - 1) / math.log1p(reach / self.core)
        self.softening = (_SOFTENING[resolution] * spacing) ** 2
        self.harmonics = harmonics
        self.register_buffer("scale", torch.tensor(torus.lengths) / (2 * math.pi), persistent=False)
        self.register_buffer("centres", torch.arange(float(radial)), persistent=False)
        self.invariants = radial + 2 * harmonics * self.classes
        self.vectors = 2 + 2 * harmonics

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TorusFeatures":
        # the period has to be the box length to the last digit of whatever precision the module is moved to
        super()._apply(fn, recurse)
        self.scale = self.scale.new_tensor(self.lengths) / (2 * math.pi)
        return self

    def forward(self, delta: Float[Tensor, "dim *batch"]) -> tuple[Tensor, Tensor]:
        """Invariants `(invariants, *batch)` and vectors `(vectors, dim, *batch)`; the first vector is the direction."""
        ones = (1,) * (delta.ndim - 1)
        scale = self.scale.view(-1, *ones)
        theta = delta / scale
        cos, sin = [torch.cos(theta)], [torch.sin(theta)]
        for _ in range(1, self.harmonics):
            cos.append(cos[0] * cos[-1] - sin[0] * sin[-1])
            sin.append(sin[0] * cos[-2] + cos[0] * sin[-1])
        square, smooth = smooth_displacement(cos[0], sin[0])
        distance = torch.sqrt((square * scale**2).sum(0) + self.softening)
        place = self.functions_per_fold * torch.log1p(distance / self.core)
        radial = torch.exp(-((place - self.centres.view(-1, *ones)) ** 2))
        waves, sines = torch.stack(cos), torch.stack(sin)
        sums = self._sums(waves)
        others = self._of_axes(sums) - waves  # over the other axes of the class
        products = self._sums(waves * others)
        invariants = torch.cat([radial, *sums, *products])
        displacement = smooth * scale
        vectors = torch.cat([(displacement / distance)[None], displacement[None], sines, sines * others])
        return invariants, vectors

    def weigh(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """Σ_k w_k v_k with one weight per class of axes.

        `(vectors, dim, *batch)` and `(*more, classes, vectors, *batch)` → `(*more, dim, *batch)`.
        """
        axis = weights.ndim - vectors.ndim
        weights = weights.movedim(axis, 0)
        parts = [(vectors[:, a] * weights[c]).sum(axis) for a, c in enumerate(self.class_of_axis)]
        return torch.stack(parts, axis)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner products over the axes of each class: `(k, dim, *batch)` twice → `(classes k, *batch)`."""
        return torch.cat(self._sums(a * b))

    def _sums(self, values: Tensor) -> list[Tensor]:
        """Sums over the axes of each class: `(k, dim, *batch)` → `(k, *batch)` each."""
        return [values.sum(1) if self.classes == 1 else values[:, axes].sum(1) for axes in self.axes]

    def _of_axes(self, sums: list[Tensor]) -> Tensor:
        """Of every axis, the value of its class: → `(k, dim, *batch)`, or its second axis of length one."""
        return sums[0][:, None] if self.classes == 1 else torch.stack([sums[c] for c in self.class_of_axis], 1)


def as_rows(features: Tensor) -> Tensor:
    """`(features, *batch)` → `(*batch, features)`, a view, as linear layers want it."""
    return features.movedim(0, -1)


def as_features(layer: nn.Linear, rows: Tensor) -> Tensor:
    """A linear layer with its outputs first: `(*batch, inputs)` → `(outputs, *batch)`, contiguous."""
    out = torch.addmm(layer.bias[:, None], layer.weight, rows.flatten(0, -2).t())
    return out.view(-1, *rows.shape[:-1])
