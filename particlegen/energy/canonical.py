"""The canonical frame of a cluster: one orientation and order for all copies of a shape.

An energy on an integration grid depends on the orientation. Computed in the canonical frame it is a function of the
shape alone: the same for every rotated, reflected, translated or renumbered copy.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float

__all__ = ["CanonicalFrame", "canonical_frame"]

_DEGENERATE = 1e-4
"""Moments closer than this, relative to the largest, count as equal: their axes would be mostly rounding."""
_FAR = 0.4
"""An atom defines an axis when it is at least this far out, relative to the farthest; no usual shape has one there."""
_RESOLUTION = 1e-9
"""Coordinates are rounded to this, in Å: what is left of the rounding of a rotation vanishes."""
_SCORE_WAVE = np.array([0.7236067977, 1.1755705046, 0.3819660113])
"""A direction without symmetry, in 1/Å."""


@dataclass(frozen=True)
class CanonicalFrame:
    """A cluster in its canonical frame.

    Args:
        positions: `(particle, 3)` in Å, rounded to 1e-9 Å, centred on the nuclear charge, in canonical order.
        charges: `(particle,)` atomic numbers in canonical order, ascending.
        order: canonical particle k is particle `order[k]` of the input.
        axes: `(3, 3)` orthogonal; its columns are the canonical axes in the frame of the input. A reflection may be
            part of it.
    """

    positions: np.ndarray
    charges: np.ndarray
    order: np.ndarray
    axes: np.ndarray

    def to_input(self, vectors: Float[np.ndarray, "particle 3"]) -> Float[np.ndarray, "particle 3"]:
        """Vectors on the particles, such as forces, in the frame and order of the input."""
        back = np.empty_like(vectors)
        back[self.order] = vectors @ self.axes.T
        return back

    def without_rigid_motion(self, forces: np.ndarray) -> np.ndarray:
        """Forces `(particle, 3)` without what would displace or turn the whole: the energy changes under neither."""
        y = self.positions - self.positions.mean(0)
        turns = [np.cross(axis, y) for axis in np.eye(3)]
        shifts = [np.broadcast_to(axis, y.shape) for axis in np.eye(3)]
        rigid = np.stack([motion.ravel() for motion in (*shifts, *turns)], 1)
        u, s, _ = np.linalg.svd(rigid, full_matrices=False)
        u = u[:, s > 1e-8 * s[0]]
        flat = forces.ravel()
        return (flat - u @ (u.T @ flat)).reshape(forces.shape)


def canonical_frame(
    positions: Float[np.ndarray, "particle 3"], charges: Float[np.ndarray, " particle"]
) -> CanonicalFrame:
    """The canonical frame of atoms at `positions` (Å) with atomic numbers `charges`.

    Axes: the principal axes of Σ Z x xᵀ about the centre of nuclear charge, by ascending moment. Where moments agree to
    1e-4 (symmetric and spherical tops, and what is nearly one), the axes are instead drawn towards atoms: one off the
    distinct axis for a symmetric top, two that span a plane for a spherical one. Each rule leaves a finite set of
    frames (signs, atoms). The one with the largest score Σ Z cos(k·x + 1), k a fixed direction without symmetry, is
    taken: frames that tie are related by a symmetry of the cluster and show the same coordinates, so the choice is a
    function of the shape. The atoms are sorted by Z, then by k·x. No such rule is continuous everywhere: where it
    switches, energies jump by the scatter that the grid has with orientation.
    """
    x = positions - charges @ positions / charges.sum()
    frames = _frames(x, charges)
    waves = np.einsum("fij,ni,j->fn", frames, x, _SCORE_WAVE)
    axes = frames[np.argmax(np.cos(waves + 1.0) @ charges)]
    y = np.round((x @ axes) / _RESOLUTION) * _RESOLUTION + 0.0  # no negative zeros
    order = np.lexsort((y @ _SCORE_WAVE, charges))
    return CanonicalFrame(y[order], charges[order], order, axes)


def _frames(x: np.ndarray, charges: np.ndarray) -> np.ndarray:
    """Candidates `(frame, 3, 3)` with the axes as columns; as a set, they turn along with the cluster."""
    moments, principal = np.linalg.eigh(np.einsum("n,ni,nj->ij", charges, x, x))
    low, high = np.diff(moments) <= _DEGENERATE * moments[2]
    if moments[2] <= 0:
        return np.eye(3)[None]
    if low and high:
        bases = _towards_two_atoms(x)
    elif low or high:
        distinct = principal[:, 2] if low else principal[:, 0]
        bases = _towards_one_atom(x, distinct) or [principal]
    else:
        bases = [principal]
    signs = [np.diag(s) for s in product((1.0, -1.0), repeat=3)]
    return np.array([basis @ sign for basis in bases for sign in signs])


def _far(x: np.ndarray) -> np.ndarray:
    """Unit vectors towards the far ones of some points `(point, 3)`; none where all lie at the origin."""
    r = np.linalg.norm(x, axis=1)
    far = r >= max(_FAR * r.max(), 1e-3)
    return x[far] / r[far, None]


def _towards_one_atom(x: np.ndarray, distinct: np.ndarray) -> list[np.ndarray]:
    """The distinct axis last, the first axis towards an atom off it; empty for atoms on a line."""
    return [
        np.stack([towards, np.cross(distinct, towards), distinct], 1)
        for towards in _far(x - np.outer(x @ distinct, distinct))
    ]


def _towards_two_atoms(x: np.ndarray) -> list[np.ndarray]:
    """The last axis towards an atom, the first in the plane of it and another."""
    return [basis for atom in _far(x) for basis in _towards_one_atom(x, atom)]
