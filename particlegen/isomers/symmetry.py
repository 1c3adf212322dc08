"""The point group of a structure, found from its distances."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Symmetry", "point_group", "similarities"]

_SAME = 1e-3
"""Two directions or matrices are the same below this: operations are exact to rounding once they are averaged."""


@dataclass(frozen=True, eq=False)
class Symmetry:
    """The symmetry operations of a structure about its centre.

    Args:
        label: Schoenflies symbol.
        permutations: `(h, N)`; operation k takes particle i to where particle `permutations[k, i]` was.
        operations: `(h, 3, 3)` orthogonal matrices, identity first: `x[permutations[k]] = x @ operations[k].T`.
        chiral: whether no operation is improper, so that the mirror image is another structure.
    """

    label: str
    permutations: Int[Tensor, "h N"]
    operations: Float[Tensor, "h 3 3"]
    chiral: bool

    @property
    def order(self) -> int:
        """h, the number of operations."""
        return len(self.operations)


def similarities(distances: Float[Tensor, "N N"], species: Sequence[int], tolerance: float) -> list[tuple[int, ...]]:
    """Permutations of like particles that leave every distance as it is, to within `tolerance`; the identity first.

    >>> similarities(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), (0, 0), 0.1)
    [(0, 1), (1, 0)]
    """
    rows, n, found = distances.tolist(), len(species), []

    def extend(chosen: list[int]) -> None:
        i = len(chosen)
        if i == n:
            found.append(tuple(chosen))
            return
        for j in range(n):
            like = species[j] == species[i] and j not in chosen
            if like and all(abs(rows[j][chosen[k]] - rows[i][k]) < tolerance for k in range(i)):
                extend([*chosen, j])

    extend([])
    return found


def point_group(positions: Float[Tensor, "N 3"], species: Sequence[int], tolerance: float = 0.05) -> Symmetry:
    """The point group of a structure: every rotation and reflection about its centre that maps it onto itself.

    A permutation of like particles that keeps all distances belongs to one orthogonal matrix, or in a planar structure
    to two, which differ by the reflection in the plane.

    Args:
        positions: the structure.
        species: of each particle.
        tolerance: largest difference of two distances that count as equal, in the unit of length; small against the
            distances, larger than what an optimisation leaves.

    Raises:
        ValueError: particles on one line or on top of each other: their group is not finite, or there is none.
    """
    x = positions.to(torch.float64) - positions.to(torch.float64).mean(0)
    distances = torch.cdist(x[None], x[None])[0]
    n = len(x)
    if n < 3 or torch.linalg.matrix_rank(x, atol=tolerance) < 2:
        raise ValueError("a point group needs three particles or more that are not all on one line")
    if float((distances + torch.eye(n) * distances.max()).min()) < 2.0 * tolerance:
        raise ValueError(f"two particles are closer than {2.0 * tolerance:g}: they cannot be told apart")
    planar = torch.linalg.matrix_rank(x, atol=tolerance) == 2
    permutations, operations = [], []
    for permutation in similarities(distances, species, tolerance):
        matrix = _orthogonal(x, x[list(permutation)])
        for operation in (matrix, matrix @ _plane_reflection(x)) if planar else (matrix,):
            permutations.append(permutation)
            operations.append(operation)
    stacked = torch.stack(operations)
    order = torch.argsort((stacked - torch.eye(3, dtype=torch.float64)).square().sum((1, 2)), stable=True)
    stacked, permuted = stacked[order], torch.tensor(permutations)[order]
    chiral = bool((torch.linalg.det(stacked) > 0).all())
    return Symmetry(_schoenflies(stacked), permuted, stacked, chiral)


def _orthogonal(a: Tensor, b: Tensor) -> Tensor:
    """The orthogonal matrix that takes a to b best: b ≈ a Qᵀ; proper where the structure is planar."""
    u, s, v = torch.linalg.svd(b.T @ a)
    last = torch.linalg.det(u @ v) if s[2] < 1e-6 * s[0] else torch.tensor(1.0, dtype=torch.float64)
    return u @ torch.diag(torch.stack([torch.ones_like(last), torch.ones_like(last), last])) @ v


def _plane_reflection(x: Tensor) -> Tensor:
    normal = torch.linalg.svd(x).Vh[2]
    return torch.eye(3, dtype=torch.float64) - 2.0 * torch.outer(normal, normal)


def _axis(rotation: Tensor) -> Tensor:
    """The axis of a proper rotation that is not the identity."""
    values, vectors = torch.linalg.eig(rotation)
    axis = vectors[:, (values - 1.0).abs().argmin()].real
    return axis / axis.norm()


def _schoenflies(operations: Tensor) -> str:
    """The symbol from the orders of the axes, and from which mirrors there are."""
    proper = torch.linalg.det(operations) > 0
    rotations, improper = operations[proper], operations[~proper]
    angles = torch.acos(((torch.diagonal(rotations, dim1=1, dim2=2).sum(1) - 1.0) / 2.0).clamp(-1.0, 1.0))
    turning = angles > _SAME
    orders = torch.ones(len(rotations), dtype=torch.int64)
    orders[turning] = torch.round(2.0 * math.pi / angles[turning]).to(torch.int64)
    inversion = any((matrix + torch.eye(3, dtype=torch.float64)).abs().max() < _SAME for matrix in improper)
    high = [_axis(matrix) for matrix, k in zip(rotations, orders.tolist(), strict=True) if k >= 3]
    if any(abs(float(axis @ high[0])) < 1.0 - _SAME for axis in high):
        family = {12: "T", 24: "O", 60: "I"}[len(rotations)]
        return family + (("h" if inversion else "d") if len(improper) else "")
    n = int(orders.max())
    if n == 1:
        return ("Ci" if inversion else "Cs") if len(improper) else "C1"
    dihedral = len(rotations) == 2 * n
    main = _axis(rotations[int(orders.argmax())])
    mirrors = [matrix for matrix in improper if abs(float(matrix.trace()) - 1.0) < _SAME]
    across = any((matrix @ main + main).abs().max() < _SAME for matrix in mirrors)
    if dihedral:
        # in D2 and D2h any of the three axes may be the main one; D2d is told by its S4
        return f"D{n}" + ("h" if across or (n == 2 and inversion) else "d" if len(improper) else "")
    if not len(improper):
        return f"C{n}"
    return f"C{n}h" if across else f"C{n}v" if mirrors else f"S{2 * n}"
