r"""Coordinates of an isomer with an exact Jacobian: displacements in the Eckart frame of one labelled copy.

A configuration without its centre is x_i = R (a_i + δ_i): the reference structure a, displacements δ that obey Eckart's
conditions Σ δ_i = 0 and Σ a_i × δ_i = 0, and a rotation R. The displacements are d = 3N − 6 coordinates in an
orthonormal basis of what the conditions leave. R is the proper rotation that brings x closest to the reference, since
the derivative of the distance with respect to R vanishes where the conditions hold.

**Jacobian.** Under a small rotation ω the configuration y = a + δ moves by ω × y. In the orthonormal directions of
rotation, the rows of I₀^(−1/2) (e_β × a), that is I₀^(−1/2) G ω with

    G_βα = Σ_i (e_β × a_i) · (e_α × y_i) = δ_βα Σ_i a_i·y_i − Σ_i y_iβ a_iα,

while a change of δ has no component there. The matrix of (ω, d) → x is therefore block triangular with determinant
det G(d) / √det I₀, I₀ = G(0) the inertia tensor of the reference for unit masses; the rotations contribute their volume
8π². The factor √det I that stands in Cartesian harmonic formulas is the value of this at the reference.

**Labels.** Permuting like particles and reflecting takes the reference to M = 2 ∏N_s!/h labelled copies, h the order of
its point group. Every configuration belongs to the cell of the copy that it is nearest to, so that the integral over
all configurations is M times that over one cell.

Sources: Eckart, Phys. Rev. 47, 552 (1935); Kabsch, Acta Cryst. A 32, 922 (1976); Wales, Energy Landscapes (2003) for
the number of copies.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from particlegen.geometry import Positions
from particlegen.isomers.symmetry import Symmetry, point_group
from particlegen.settings import InputError

__all__ = ["MOST_COPIES", "EckartFrame"]

MOST_COPIES = 50_000
"""Labelled copies that are compared one by one; eight particles of one species have at most 80,640 / h."""

_PER_CHUNK = 2_000_000
"""Pairs of configuration and copy that are compared at a time: some hundred megabytes."""

_TIE = 1e-9
"""Relative difference of two overlaps that are the same."""

_ROUNDS = 4
"""Of making a structure symmetric."""

_NEWTON = 30
"""Steps enough for roots that coincide, where Newton halves the error; elsewhere six are."""


@dataclass(frozen=True, eq=False)
class EckartFrame:
    """One labelled copy of an isomer, and the coordinates about it.

    Args:
        structure: `(N, 3)`, any position and orientation.
        species: of each particle.
        tolerance: of `point_group`.

    Raises:
        ValueError: particles on one line or on top of each other.
        InputError: more than `MOST_COPIES` labelled copies.

    >>> triangle = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.75**0.5, 0.0]], dtype=torch.float64)
    >>> frame = EckartFrame(triangle, (0, 0, 0))
    >>> frame.symmetry.label, frame.dimensions, frame.copies
    ('D3h', 3, 1)
    """

    structure: Float[Tensor, "N 3"]
    species: tuple[int, ...]
    tolerance: float = 0.05

    def __post_init__(self):
        relabellings = math.prod(math.factorial(self.species.count(s)) for s in set(self.species))
        if 2 * relabellings / self.symmetry.order > MOST_COPIES:
            raise InputError(
                f"an isomer of {len(self.species)} particles has {2 * relabellings // self.symmetry.order:,} labelled "
                f"copies, at most {MOST_COPIES:,} can be compared; free energies of isomers are for small clusters, up "
                "to eight particles of one species"
            )

    @cached_property
    def reference(self) -> Float[Tensor, "N 3"]:
        """The structure with its centre at the origin, float64, and as symmetric as its point group."""
        return self._symmetric[0]

    @property
    def symmetry(self) -> Symmetry:
        return self._symmetric[1]

    @cached_property
    def _symmetric(self) -> tuple[Tensor, Symmetry]:
        """The mean of the structure's images, and its group: an optimisation leaves a structure symmetric to its own
        tolerance only, and then its images would not be those of one group. Each round squares what is missing."""
        x = self.structure.detach().to("cpu", torch.float64)
        x = x - x.mean(0)
        group = point_group(x, self.species, self.tolerance)
        for _ in range(_ROUNDS):
            x = (x[group.permutations] @ group.operations).mean(0)
            group = point_group(x, self.species, self.tolerance)
        return x, group

    @property
    def dimensions(self) -> int:
        """3N − 6."""
        return 3 * len(self.species) - 6

    @property
    def copies(self) -> int:
        """M = 2 ∏N_s!/h."""
        return len(self._copies[0])

    @cached_property
    def inertia(self) -> Float[Tensor, "3 3"]:
        """I₀ for unit masses."""
        return self._eckart_matrix(self.reference[None])[0]

    @cached_property
    def basis(self) -> Float[Tensor, "d N 3"]:
        """Orthonormal displacements that obey Eckart's conditions."""
        a, eye = self.reference, torch.eye(3, dtype=torch.float64)
        turns = torch.stack([torch.linalg.cross(axis.expand_as(a), a) for axis in eye])
        shifts = eye[:, None, :].expand(3, len(a), 3)
        moved = torch.cat([shifts, turns]).flatten(1)
        free = torch.linalg.svd(moved, full_matrices=True).Vh[6:]
        return free.unflatten(1, (len(a), 3))

    @cached_property
    def images(self) -> Float[Tensor, "h d d"]:
        """The operations of the point group as orthogonal matrices on displacements, identity first."""
        group = self.symmetry
        turned = torch.einsum("dhia,hab->hdib", self.basis[:, group.permutations], group.operations)
        return torch.einsum("hdib,eib->hde", turned, self.basis)

    @cached_property
    def _copies(self) -> tuple[Tensor, Tensor]:
        """Permutations `(M, N)` and signs `(M,)`, −1 with a reflection: one of each coset, identity first."""
        signs = torch.linalg.det(self.symmetry.operations).sign().tolist()
        group = list(zip(self.symmetry.permutations.tolist(), signs, strict=True))
        kinds = [[i for i, s in enumerate(self.species) if s == kind] for kind in sorted(set(self.species))]
        seen: set[tuple[tuple[int, ...], float]] = set()
        permutations, reflections = [], []
        for choice in itertools.product(*(itertools.permutations(members) for members in kinds)):
            p = [0] * len(self.species)
            for members, images in zip(kinds, choice, strict=True):
                for i, j in zip(members, images, strict=True):
                    p[i] = j
            for sign in (1.0, -1.0):
                if (tuple(p), sign) not in seen:
                    seen.update((tuple(p[j] for j in q), sign * other) for q, other in group)
                    permutations.append(p)
                    reflections.append(sign)
        return torch.tensor(permutations), torch.tensor(reflections, dtype=torch.float64)

    def to_cartesian(self, d: Float[Tensor, "batch d"]) -> Positions:
        """Configurations `(batch, N, 3)` in the orientation of the reference, centre at the origin."""
        return self.reference.to(d) + torch.einsum("bd,dni->bni", d, self.basis.to(d))

    def from_cartesian(self, x: Positions) -> Float[Tensor, "batch d"]:
        """Displacements `(batch, d)` from the reference under the labels as they are; the inverse of `to_cartesian`
        up to position and orientation."""
        a = self.reference.to(x)
        y = x - x.mean(1, keepdim=True)
        u, _, v = torch.linalg.svd(torch.einsum("bni,nj->bij", y, a))
        u = torch.cat([u[:, :, :2], u[:, :, 2:] * torch.linalg.det(u @ v)[:, None, None]], 2)
        turned = torch.einsum("bni,bij->bnj", y, u @ v)
        return torch.einsum("bni,dni->bd", turned - a, self.basis.to(x))

    def fold(self, x: Positions) -> Float[Tensor, "batch d"]:
        """Displacements `(batch, d)` from the nearest labelled copy: permuted and reflected, then `from_cartesian`."""
        y = x - x.mean(1, keepdim=True)
        best = self._nearest(y)[0]
        permutations, signs = (part.to(x.device) for part in self._copies)
        chosen = torch.gather(y, 1, permutations[best][:, :, None].expand_as(y))
        return self.from_cartesian(chosen * signs[best][:, None, None].to(x))

    def in_cell(self, d: Float[Tensor, "batch d"]) -> Bool[Tensor, " batch"]:
        """Whether the reference is the nearest copy, in the orientation that it has; False for displacements beyond."""
        y = self.to_cartesian(d)
        # Distances up to rotation obey the triangle inequality: what is closer than half way is not compared.
        upright = torch.linalg.eigvalsh(self._eckart_matrix(y))[:, 0] > 0
        inside = upright & (d.norm(dim=1) < self._half_way)
        far = ~inside
        overlap = torch.einsum("bni,ni->b", y[far], self.reference.to(d))
        nearest = self._nearest(y[far])[1]
        inside[far] = overlap >= nearest - _TIE * nearest.abs()
        return inside

    def log_volume(self, d: Float[Tensor, "batch d"]) -> Float[Tensor, " batch"]:
        """ln[M 8π² det G(d)/√det I₀]: the volume of configurations, of all orientations and copies, per volume of d.

        −∞ where the frame is not regular, which is never in the cell.
        """
        determinant = torch.linalg.det(self._eckart_matrix(self.to_cartesian(d)))
        constant = math.log(8.0 * math.pi**2 * self.copies) - 0.5 * float(torch.linalg.det(self.inertia).log())
        return constant + determinant.clamp_min(0.0).log()

    def symmetry_images(self, d: Float[Tensor, "batch d"]) -> Float[Tensor, "batch h d"]:
        """The images of displacements under the point group: of the same energy, in the cell where they are."""
        return torch.einsum("bd,hde->bhe", d, self.images.to(d))

    def _eckart_matrix(self, y: Positions) -> Float[Tensor, "batch 3 3"]:
        """G of the module's docstring for configurations in the orientation of the reference."""
        overlap = torch.einsum("bni,nj->bij", y, self.reference.to(y))
        trace = torch.diagonal(overlap, dim1=1, dim2=2).sum(1)
        return trace[:, None, None] * torch.eye(3, dtype=y.dtype, device=y.device) - overlap

    @cached_property
    def _half_way(self) -> float:
        """Half the distance to the nearest other labelled copy; infinite where there is none."""
        if self.copies == 1:
            return math.inf
        permutations, signs = self._copies
        products = torch.einsum("ni,mj->nmij", self.reference, self.reference)
        columns = torch.arange(len(self.species))
        matrices = torch.stack([products[p, columns].sum(0) for p in permutations[1:]])[None]
        overlap = float(_largest_overlap(matrices, signs[1:]).max())
        return (0.5 * max(0.0, float(self.reference.square().sum()) - overlap)) ** 0.5

    def _nearest(self, y: Positions) -> tuple[Tensor, Tensor]:
        """Index of the nearest copy `(batch,)`, and its overlap max_R Σ_i a_i · R y_i; `y` centred."""
        permutations, signs = (part.to(y.device) for part in self._copies)
        products = torch.einsum("bni,mj->bnmij", y, self.reference.to(y))
        columns = torch.arange(len(self.species), device=y.device)
        best, overlaps = [], []
        for part in products.split(max(1, _PER_CHUNK // self.copies)):
            matrices = torch.stack([part[:, p, columns].sum(1) for p in permutations], 1)
            found = _largest_overlap(matrices, signs.to(y)).max(1)
            best.append(found.indices)
            overlaps.append(found.values)
        if not best:
            return torch.zeros(0, dtype=torch.int64, device=y.device), y.new_zeros(0)
        return torch.cat(best), torch.cat(overlaps)


def _largest_overlap(matrices: Float[Tensor, "batch copy 3 3"], signs: Float[Tensor, " copy"]) -> Tensor:
    """max over proper R of tr(R H), `(batch, copy)`, H = sign × matrix: the largest root of the quartic whose roots are
    ±σ₁ ± σ₂ ± σ₃ with an even number of minus signs (Theobald, Acta Cryst. A 61, 478 (2005)), by Newton from above."""
    squared = matrices.square().sum((2, 3))
    gram = matrices.mT @ matrices
    c1 = -8.0 * signs * torch.linalg.det(matrices)
    c0 = 2.0 * gram.square().sum((2, 3)) - squared.square()
    root = (3.0 * squared).sqrt()
    for _ in range(_NEWTON):
        square = root.square()
        slope = 4.0 * root * (square - squared) + c1
        value = square * (square - 2.0 * squared) + c1 * root + c0
        root = root - torch.where(slope > 0, value / slope, 0.0)
    return root
