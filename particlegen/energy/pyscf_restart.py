"""Densities of reference geometries, carried over to others as initial guesses."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from particlegen.energy.canonical import CanonicalFrame

__all__ = ["ReferenceDensity", "align", "carried_over", "nearest"]

_CANDIDATES = 24
"""Triples of atoms that are tried for a first orientation, best first."""


@dataclass(frozen=True)
class ReferenceDensity:
    """A converged density, frozen.

    Args:
        positions: `(particle, 3)` in Å, canonical.
        charges: `(particle,)` atomic numbers.
        density: `(spin, orbital, orbital)` in the atomic orbitals at `positions`.
        energy: in Hartree.
    """

    positions: np.ndarray
    charges: np.ndarray
    density: np.ndarray
    energy: float


def nearest(references: Sequence[ReferenceDensity], frame: CanonicalFrame) -> ReferenceDensity:
    """The reference whose sorted interatomic distances differ least; the first of several."""
    here = _distances(frame.positions, frame.charges)
    apart = [float(np.square(_distances(r.positions, r.charges) - here).sum()) for r in references]
    return references[int(np.argmin(apart))]


def _distances(x: np.ndarray, charges: np.ndarray) -> np.ndarray:
    """All pair distances, sorted within every pair of elements."""
    first, second = np.triu_indices(len(x), 1)
    pairs = np.sort(np.stack([charges[first], charges[second]]), axis=0)
    r = np.linalg.norm(x[first] - x[second], axis=1)
    return r[np.lexsort((r, pairs[1], pairs[0]))]


def align(
    start: np.ndarray, start_charges: np.ndarray, end: np.ndarray, end_charges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(order, rotation) such that `start[order] @ rotation` comes closest to `end`, both `(particle, 3)`.

    The rotation is orthogonal, reflections included; like atoms may change places. Tried are the orientations that lay
    up to three atoms upon like ones, those with the best matching distances first; each is improved by assignment and
    orthogonal Procrustes in turn.
    """
    anchors = _anchors(end)
    triples = np.array(list(permutations(range(len(start)), len(anchors))))
    triples = triples[(start_charges[triples] == end_charges[anchors]).all(1)]
    here, there = end[anchors], start[triples]
    mismatch = np.square(_shape(there) - _shape(here[None])).sum(1)
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for triple in triples[np.argsort(mismatch, kind="stable")[:_CANDIDATES]]:
        for flip in (1.0, -1.0):
            rotation = _procrustes(start[triple], here, flip)
            order = np.arange(len(start))
            for _ in range(4):
                cost = np.square((start @ rotation)[:, None] - end[None]).sum(2)
                order = linear_sum_assignment((cost + 1e6 * (start_charges[:, None] != end_charges)).T)[1]
                rotation = _procrustes(start[order], end, None)
            error = float(np.square(start[order] @ rotation - end).sum())
            if best is None or error < best[0]:
                best = (error, order, rotation)
    if best is None:
        raise ValueError("the two configurations have other elements")
    return best[1], best[2]


def _anchors(x: np.ndarray) -> np.ndarray:
    """Up to three atoms that span: the farthest from the centre, from it, and from the line of both."""
    chosen = [int(np.argmax(np.linalg.norm(x, axis=1)))]
    if len(x) > 1:
        chosen.append(int(np.argmax(np.linalg.norm(x - x[chosen[0]], axis=1))))
    if len(x) > 2:
        line = x[chosen[1]] - x[chosen[0]]
        off = np.linalg.norm(np.cross(x - x[chosen[0]], line), axis=1)
        off[chosen] = -1.0
        chosen.append(int(np.argmax(off)))
    return np.array(chosen)


def _shape(points: np.ndarray) -> np.ndarray:
    """Distances to the centre and among each other, `(tuple, distance)`."""
    k = points.shape[1]
    between = [np.linalg.norm(points[:, a] - points[:, b], axis=1) for a in range(k) for b in range(a)]
    return np.stack([*np.linalg.norm(points, axis=2).T, *between], 1)


def _procrustes(start: np.ndarray, end: np.ndarray, determinant: float | None) -> np.ndarray:
    """The orthogonal matrix, of that determinant if one is given, that brings `start` closest to `end`."""
    u, _, vt = np.linalg.svd(start.T @ end)
    if determinant is not None and np.sign(np.linalg.det(u @ vt)) != determinant:
        u[:, 2] = -u[:, 2]
    return u @ vt


def carried_over(
    reference: ReferenceDensity, order: np.ndarray, rotation: np.ndarray, before: Any, now: Any
) -> np.ndarray:
    """The reference's density in the orbitals of another geometry, `(spin, orbital, orbital)`.

    The orbitals of every atom move along with it; Löwdin's orthogonal ones keep their occupation, so the number of
    electrons and idempotency survive.

    Args:
        order, rotation: of `align`.
        before: molecule of the reference at `positions[order] @ rotation`.
        now: molecule of the new geometry, its atoms alike in order.
    """
    # Atoms were put in another order; where their blocks lay before follows from the sizes.
    sizes = np.diff(before.aoslice_by_atom()[:, 2:]).ravel()
    owner = np.repeat(np.arange(len(order)), sizes[np.argsort(order)])
    orbitals = np.concatenate([np.flatnonzero(owner == atom) for atom in order])
    mirrored = np.sign(np.linalg.det(rotation))
    momenta = np.concatenate(
        [
            np.full((2 * before.bas_angular(b) + 1) * before.bas_nctr(b), before.bas_angular(b))
            for b in range(before.nbas)
        ]
    )
    # PySCF turns by proper rotations; the inversion that is left flips the sign of odd angular momenta.
    turn = np.where(momenta % 2, mirrored, 1.0)[:, None] * before.ao_rotation_matrix(mirrored * rotation)
    to = _power(now.intor("int1e_ovlp"), -0.5) @ _power(before.intor("int1e_ovlp"), 0.5) @ turn
    return np.stack([to @ density[np.ix_(orbitals, orbitals)] @ to.T for density in reference.density])


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 1e-12) ** exponent) @ vectors.T
