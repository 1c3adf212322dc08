"""Compiled optimal assignment of particles on a torus, over permutations, translations and the box's point group."""

import math

import numba
import numpy as np

__all__ = ["couple"]


@numba.njit(cache=True, nogil=True)
def _assign(cost, columns, work, links):
    """Fill `columns` with the optimal assignment, return its cost; shortest paths (Jonker & Volgenant 1987).

    `work` (3 rows) and `links` (3 rows) are scratch space of at least n + 1 columns.
    """
    n = cost.shape[0]
    u, v, best = work[0, : n + 1], work[1, : n + 1], work[2, : n + 1]
    match, way, used = links[0, : n + 1], links[1, : n + 1], links[2, : n + 1]
    u[0] = 0.0
    v[:] = 0.0
    match[:] = 0
    for i in range(1, n + 1):  # each row takes its cheapest column where that is free
        lowest, j1 = cost[i - 1, 0], 1
        for j in range(2, n + 1):
            if cost[i - 1, j - 1] < lowest:
                lowest, j1 = cost[i - 1, j - 1], j
        u[i] = lowest
        columns[i - 1] = j1 - 1 if match[j1] == 0 else -1
        if match[j1] == 0:
            match[j1] = i
    for i in range(1, n + 1):
        if columns[i - 1] >= 0:
            continue
        match[0] = i
        j0 = 0
        best[:] = np.inf
        used[:] = 0
        while True:
            used[j0] = 1
            i0, delta, j1 = match[j0], np.inf, 0
            for j in range(1, n + 1):
                if not used[j]:
                    reduced = cost[i0 - 1, j - 1] - u[i0] - v[j]
                    if reduced < best[j]:
                        best[j] = reduced
                        way[j] = j0
                    if best[j] < delta:
                        delta = best[j]
                        j1 = j
            for j in range(n + 1):
                if used[j]:
                    u[match[j]] += delta
                    v[j] -= delta
                else:
                    best[j] -= delta
            j0 = j1
            if match[j0] == 0:
                break
        while j0 != 0:
            j1 = way[j0]
            match[j0] = match[j1]
            j0 = j1
    total = 0.0
    for j in range(1, n + 1):
        columns[match[j] - 1] = j - 1
        total += cost[match[j] - 1, j - 1]
    return total


@numba.njit(cache=True, nogil=True)
def _permute(x0, x1, shift, lengths, starts, permutation, scratch):
    """Best permutation within each species at a fixed translation; `starts` bounds the species' blocks."""
    table, columns, work, links = scratch
    total = 0.0
    for s in range(starts.shape[0] - 1):
        first, n = starts[s], starts[s + 1] - starts[s]
        cost = table[:n, :n]
        for i in range(n):
            for j in range(n):
                squared = 0.0
                for k in range(shift.shape[0]):  # without slices: numba counts references to each
                    delta = x1[first + j, k] + shift[k] - x0[first + i, k]
                    delta -= lengths[k] * np.rint(delta / lengths[k])
                    squared += delta * delta
                cost[i, j] = squared
        total += _assign(cost, columns, work, links)
        for i in range(n):
            permutation[first + i] = first + columns[i]
    return total


@numba.njit(cache=True, nogil=True)
def _couple_one(x0, x1, lengths, starts, elements, shifts, rounds, out, scratch):
    """The best of all starting translations and point-group elements, each refined by alternating minimisation.

    Fills `out` with that image of `x1` and returns its squared distance from `x0`.
    """
    n, dim = x0.shape
    best = np.inf
    permutation = np.empty(n, np.int64)
    image, shift = np.empty_like(x1), np.empty(dim)
    for g in range(elements.shape[0]):
        for i in range(n):
            for a in range(dim):
                image[i, a] = 0.0
                for b in range(dim):
                    image[i, a] += elements[g, a, b] * x1[i, b]
        for start in range(shifts.shape[0]):
            shift[:] = shifts[start]
            cost = _permute(x0, image, shift, lengths, starts, permutation, scratch)
            for _ in range(rounds):
                for a in range(dim):
                    mean = 0.0
                    for i in range(n):
                        delta = image[permutation[i], a] + shift[a] - x0[i, a]
                        mean += delta - lengths[a] * np.rint(delta / lengths[a])
                    shift[a] -= mean / n
                refined = _permute(x0, image, shift, lengths, starts, permutation, scratch)
                if refined > cost - 1e-9:
                    cost = min(cost, refined)
                    break
                cost = refined
            if cost < best:
                best = cost
                for i in range(n):
                    for a in range(dim):
                        out[i, a] = (image[permutation[i], a] + shift[a]) % lengths[a]
    return best


@numba.njit(cache=True, nogil=True)
def _couple(x0, x1, lengths, starts, elements, shifts, rounds, pool, out):
    """Within each pool, every `x1` goes to one `x0`: the assignment with the smallest sum of squared distances."""
    batch, n, dim = x0.shape
    most = max(n, pool)
    scratch = np.empty((n, n)), np.empty(n, np.int64), np.empty((3, most + 1)), np.empty((3, most + 1), np.int64)
    images, table, partner = np.empty((pool, pool, n, dim)), np.empty((pool, pool)), np.empty(pool, np.int64)
    for first in range(0, batch, pool):
        size = min(pool, batch - first)
        for i in range(size):
            for j in range(size):
                b, image = first + i, images[i, j]
                table[i, j] = _couple_one(
                    x0[b], x1[first + j], lengths, starts, elements, shifts[b], rounds, image, scratch
                )
        _assign(table[:size, :size], partner, scratch[2], scratch[3])
        for i in range(size):
            out[first + i] = images[i, partner[i]]


def couple(
    x0: np.ndarray,
    x1: np.ndarray,
    lengths: tuple[float, ...],
    blocks: tuple[int, ...],
    elements: np.ndarray,
    shifts: np.ndarray,
    rounds: int = 0,
    pool: int = 1,
) -> np.ndarray:
    """The image of each `x1` under permutation within blocks, translation and point group that lies nearest `x0`.

    With a `pool`, each run of that many `x0` shares out the same `x1` among its members so that their squared distances
    add up to the least (mini-batch optimal transport: Tong et al. 2024; with symmetries: Klein, Krämer, Noé 2023).

    Args:
        x0, x1: `(batch, N, dim)` float64.
        lengths: box lengths.
        blocks: index of the block of interchangeable particles, per particle, ascending (`ParticleSystem.blocks`).
        elements: `(g, dim, dim)` signed axis permutations to try; the identity alone for none.
        shifts: `(batch, starts, dim)` translations to start from; one zero for none.
        rounds: alternations of assignment and mean displacement; 0 keeps the starting translations.
        pool: configurations among which partners are chosen; 1 keeps `x1[b]` with `x0[b]`.

    Returns:
        `(batch, N, dim)` images of `x1` in the box: particle i is the partner of particle i of `x0`. Exact over
        permutations; over translations a local minimum from the given starts.
        O(batch · pool · g · starts · rounds · N³).
    """
    starts = np.concatenate([[0], np.cumsum(np.bincount(blocks))]).astype(np.int64)
    if list(blocks) != sorted(blocks):
        raise ValueError("blocks must be sorted")
    out = np.empty_like(x1)
    if not math.prod(x1.shape):
        return out
    _couple(x0, x1, np.asarray(lengths), starts, elements, shifts, rounds, min(pool, len(x0)), out)
    return out
