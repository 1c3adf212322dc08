"""The space that particles live in: a flat torus or free space, passed in as a value.

Every function that needs distances takes one of these objects; nothing else in the package asks whether a
system is periodic. Lengths are in the system's own unit of length (σ for `lj`, Å for `metal`).
"""

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["FlatTorus", "FreeSpace", "Geometry", "Positions"]

Positions = Float[Tensor, "batch particle dim"]


@dataclass(frozen=True)
class FlatTorus:
    """A rectangular box with periodic boundaries, R^d / (L_1 Z × … × L_d Z).

    Args:
        lengths: box lengths, one per dimension, all positive.

    >>> box = FlatTorus((2.0, 2.0))
    >>> box.displacement(torch.tensor([0.1, 0.0]), torch.tensor([1.9, 0.5]))
    tensor([-0.2000,  0.5000])
    >>> len(box.point_group()), len(FlatTorus((1.0, 2.0)).point_group())
    (8, 4)
    """

    lengths: tuple[float, ...]

    def __post_init__(self):
        if not self.lengths or not all(math.isfinite(length) and length > 0 for length in self.lengths):
            raise ValueError(f"box lengths must be positive and finite, found {self.lengths}")

    @property
    def dim(self) -> int:
        return len(self.lengths)

    @property
    def periodic(self) -> bool:
        return True

    @property
    def volume(self) -> float:
        return math.prod(self.lengths)

    def wrap(self, x: Tensor) -> Tensor:
        """Positions `(..., dim)` moved into [0, L)."""
        lengths = x.new_tensor(self.lengths)
        wrapped = torch.remainder(x, lengths)
        return torch.where(wrapped >= lengths, torch.zeros_like(wrapped), wrapped)

    def displacement(self, x: Tensor, y: Tensor) -> Tensor:
        """The log map: the shortest vector from `x` to `y`, each component in [-L/2, L/2]. Shapes `(..., dim)`."""
        lengths = x.new_tensor(self.lengths)
        delta = y - x
        return delta - lengths * torch.round(delta / lengths)

    def shift(self, x: Tensor, v: Tensor) -> Tensor:
        """The exponential map: the point reached from `x` along `v`, wrapped into the box. Shapes `(..., dim)`."""
        return self.wrap(x + v)

    def contains(self, x: Positions) -> Bool[Tensor, " batch"]:
        """Every configuration: positions outside the box stand for their images inside."""
        return torch.ones(len(x), dtype=torch.bool, device=x.device)

    def images(self, reach: float) -> Float[Tensor, "image dim"]:
        """Lattice vectors, 0 first, that lead from nearest displacements to every image within `reach`; float64.

        >>> FlatTorus((2.0, 2.0)).images(1.0).tolist(), len(FlatTorus((2.0, 2.0)).images(1.1))
        ([[0.0, 0.0]], 9)
        """
        counts = [math.ceil(reach / length + 0.5) - 1 for length in self.lengths]
        cells = sorted(itertools.product(*(range(-n, n + 1) for n in counts)), key=lambda cell: cell != (0,) * self.dim)
        return torch.tensor(cells, dtype=torch.float64) * torch.tensor(self.lengths, dtype=torch.float64)

    def uniform(self, shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
        """Uniform positions `(*shape, dim)`, drawn on the generator's device."""
        u = torch.rand(*shape, self.dim, generator=generator, dtype=dtype, device=generator.device)
        return self.wrap(u * u.new_tensor(self.lengths))

    def point_group(self) -> Float[Tensor, "element dim dim"]:
        """Signed axis permutations that map the box onto itself, as float64 orthogonal matrices, identity first.

        8 for a square, 4 for a rectangle; 48, 16 and 8 for cubic, tetragonal and orthorhombic boxes.
        """
        elements = []
        for permutation in itertools.permutations(range(self.dim)):
            if any(self.lengths[a] != self.lengths[b] for a, b in enumerate(permutation)):
                continue
            for signs in itertools.product((1.0, -1.0), repeat=self.dim):
                matrix = torch.zeros(self.dim, self.dim, dtype=torch.float64)
                for a, b in enumerate(permutation):
                    matrix[a, b] = signs[a]
                elements.append(matrix)
        return torch.stack(elements)


@dataclass(frozen=True)
class FreeSpace:
    """Unbounded space with the interface of `FlatTorus`; `radius` is a hard confining sphere about the origin.

    Args:
        dim: number of dimensions.
        radius: particles beyond it have zero Boltzmann weight; infinite for no confinement.

    >>> FreeSpace(2, radius=1.0).contains(torch.tensor([[[0.6, 0.7]], [[0.8, 0.7]]]))
    tensor([ True, False])
    """

    dim: int
    radius: float = math.inf

    def __post_init__(self):
        if self.dim < 1 or not self.radius > 0:
            raise ValueError(f"free space needs dim >= 1 and radius > 0, found dim={self.dim}, radius={self.radius}")

    @property
    def periodic(self) -> bool:
        return False

    @property
    def volume(self) -> float:
        """Volume of the confining ball (infinite when there is none)."""
        return math.pi ** (self.dim / 2) / math.gamma(self.dim / 2 + 1) * self.radius**self.dim

    def wrap(self, x: Tensor) -> Tensor:
        return x

    def displacement(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def shift(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v

    def contains(self, x: Positions) -> Bool[Tensor, " batch"]:
        """Which configurations have every particle within the confining sphere; not those with NaN."""
        return (x.square().sum(2) <= self.radius**2).all(1)

    def images(self, reach: float) -> Float[Tensor, "image dim"]:
        return torch.zeros(1, self.dim, dtype=torch.float64)


Geometry = FlatTorus | FreeSpace
