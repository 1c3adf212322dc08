"""Compiled energies: of one particle with all others, and of the whole system, by all pairs or by a cell list.

V(r) is `energy.formulas.even_power_energy`, compiled as it stands. Every pair counts once, at its nearest image.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from particlegen.energy.formulas import even_power_energy, nonadditive_sigma
from particlegen.sampling.model import FAR, LANES

__all__ = [
    "NONE",
    "Cells",
    "build_cells",
    "cell_energies",
    "in_window",
    "move_in_cells",
    "pair_energies",
    "particle_energies",
    "total_energy",
    "window_members",
]

# Sums may be reordered (vector registers); NaN and infinity keep their meaning, since overlaps produce them.
_FAST = {"reassoc", "nsz", "contract", "arcp"}
_compile = njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)

_pair_energy = _compile(even_power_energy)
_pair_sigma = _compile(nonadditive_sigma)


NONE = np.int64(-1)
"""No particle to leave out; typed, so that kernels compile once."""


class Cells(NamedTuple):
    """A cell list with a copy of what energies need, so that a cell's particles lie side by side in memory.

    Args:
        count: `(cell,)` particles in each cell.
        member: `(cell, slot)` particle index.
        column: `(cell, slot)` each particle's column in the model's tables, a byte each.
        coordinate: `(cell, row, slot)`, `FAR` in empty slots; a row per dimension, and one for diameters if they vary.
        place: `(2, N)` cell and slot of each particle.
    """

    count: np.ndarray
    member: np.ndarray
    column: np.ndarray
    coordinate: np.ndarray
    place: np.ndarray


@_compile
def _axis_cell(value, length, n):
    return min(max(int(value / length * n), 0), n - 1) if n > 1 else 0


@_compile
def _cell_index(grid, lengths, a, b, c):
    ga, gb, gc = grid
    la, lb, lc = lengths
    return (_axis_cell(a, la, ga) * gb + _axis_cell(b, lb, gb)) * gc + _axis_cell(c, lc, gc)


@_compile
def build_cells(model, x):
    """The cell list of coordinate rows `(3, width)`; empty arrays when the model uses none. O(N)."""
    n_cells = model.grid[0] * model.grid[1] * model.grid[2] if model.cells else 0
    n = model.particles if model.cells else 0
    count, place = np.zeros(n_cells, np.int64), np.zeros((2, n), np.int64)
    most = 0
    for i in range(n):
        cell = _cell_index(model.grid, model.lengths, x[0, i], x[1, i], x[2, i])
        place[0, i], place[1, i] = cell, count[cell]
        count[cell] += 1
        most = max(most, count[cell])
    capacity = (most // LANES + 1) * LANES
    dim, polydisperse = model.dim, model.nonadditivity >= 0.0
    member = np.zeros((n_cells, capacity), np.int64)
    column = np.zeros((n_cells, capacity), np.uint8)
    coordinate = np.full((n_cells, dim + 1 if polydisperse else dim, capacity), FAR)
    for i in range(n):
        cell, slot = place[0, i], place[1, i]
        member[cell, slot], column[cell, slot] = i, model.labels[0, i]
        for axis in range(dim):
            coordinate[cell, axis, slot] = x[axis, i]
        if polydisperse:
            coordinate[cell, dim, slot] = model.diameters[i]
    return Cells(count, member, column, coordinate, place)


@_compile
def move_in_cells(grid, lengths, dim, count, member, column, coordinate, place, i, a, b, c):
    """Particle i is at (a, b, c) now: O(1). False when its cell was full, and the list has to be built again."""
    old, slot, new = place[0, i], place[1, i], _cell_index(grid, lengths, a, b, c)
    if old != new:
        fresh, last = count[new], count[old] - 1
        if fresh == member.shape[1]:
            return False
        mover = member[old, last]
        member[new, fresh], column[new, fresh] = i, column[old, slot]
        member[old, slot], column[old, slot] = mover, column[old, last]
        for row in range(coordinate.shape[1]):
            coordinate[new, row, fresh] = coordinate[old, row, slot]
            coordinate[old, row, slot] = coordinate[old, row, last]
            coordinate[old, row, last] = FAR
        place[1, mover] = slot
        place[0, i], place[1, i] = new, fresh
        count[old], count[new] = last, fresh + 1
        slot = fresh
    coordinate[new, 0, slot] = a
    if dim > 1:
        coordinate[new, 1, slot] = b
    if dim > 2:
        coordinate[new, 2, slot] = c
    return True


@_compile
def in_window(grid, lengths, window, corner, a, b, c):
    """Whether (a, b, c) lies in the window of `window` cells per axis whose first cell is `corner`."""
    ga, gb, gc = grid
    la, lb, lc = lengths
    return (
        (_axis_cell(a, la, ga) - corner[0] + ga) % ga < window
        and (_axis_cell(b, lb, gb) - corner[1] + gb) % gb < window
        and (_axis_cell(c, lc, gc) - corner[2] + gc) % gc < window
    )


@_compile
def window_members(model, cells, corner):
    """Indices of the particles in the window of cells at `corner`."""
    ga, gb, gc = model.grid
    wa, wb, wc = min(model.window, ga), min(model.window, gb), min(model.window, gc)
    members = np.empty(wa * wb * wc * cells.member.shape[1], np.int64)
    n = 0
    for da in range(wa):
        for db in range(wb):
            for dc in range(wc):
                cell = (((corner[0] + da) % ga) * gb + (corner[1] + db) % gb) * gc + (corner[2] + dc) % gc
                for slot in range(cells.count[cell]):
                    members[n] = cells.member[cell, slot]
                    n += 1
    return members[:n]


@_compile
def pair_energies(x, tables, row, lengths, coefficients, inverse_cutoff2, i, skip, oa, ob, oc, na, nb, nc):
    """Energies at (oa, ob, oc) and at (na, nb, nc) with all particles of `x` `(3, width)` but i and `skip`."""
    c12, c6, c0, c2, c4 = coefficients
    la, lb, lc = lengths
    energy_old, energy_new = 0.0, 0.0
    for j in range(x.shape[1]):
        counted = j != i and j != skip
        a, b, c = abs(x[0, j] - oa), abs(x[1, j] - ob), abs(x[2, j] - oc)
        a, b, c = (a if a < la - a else la - a), (b if b < lb - b else lb - b), (c if c < lc - c else lc - c)
        s2 = tables[0, row, j] / (a * a + b * b + c * c)
        energy = _pair_energy(s2, tables[1, row, j], c12, c6, c0, c2, c4)
        energy_old += energy if counted and s2 > inverse_cutoff2 else 0.0
        a, b, c = abs(x[0, j] - na), abs(x[1, j] - nb), abs(x[2, j] - nc)
        a, b, c = (a if a < la - a else la - a), (b if b < lb - b else lb - b), (c if c < lc - c else lc - c)
        s2 = tables[0, row, j] / (a * a + b * b + c * c)
        energy = _pair_energy(s2, tables[1, row, j], c12, c6, c0, c2, c4)
        energy_new += energy if counted and s2 > inverse_cutoff2 else 0.0
    return energy_old, energy_new


@_compile
def _energies_around(
    cell, count, column, coordinate, place, labels, tables, diameters, eta, grid, dim, lengths, coefficients,
    inverse_cutoff2, i, skip, oa, ob, oc, na, nb, nc,
):  # fmt: skip
    c12, c6, c0, c2, c4 = coefficients
    la, lb, lc = lengths
    ga, gb, gc = grid
    ka, kb, kc = cell // (gb * gc), cell // gc % gb, cell % gc
    # Rows that a lower dimension or a species table lacks point at row 0 and count for nothing.
    row_b, row_c, row_d = min(1, dim - 1), dim - 1, min(dim, coordinate.shape[1] - 1)
    has_b, has_c = 1.0 if dim > 1 else 0.0, 1.0 if dim > 2 else 0.0
    table = eta < 0.0
    row, own, home, home_slot = labels[0, i], diameters[i], place[0, i], place[1, i]
    skip_cell, skip_slot = (place[0, skip], place[1, skip]) if skip >= 0 else (-1, -1)
    energy_old, energy_new = 0.0, 0.0
    for da in range(-1, 2):
        for db in range(-1 if gb > 1 else 0, 2 if gb > 1 else 1):
            for dc in range(-1 if gc > 1 else 0, 2 if gc > 1 else 1):
                near = (((ka + da + ga) % ga) * gb + (kb + db + gb) % gb) * gc + (kc + dc + gc) % gc
                left_out = home_slot if near == home else -1
                left_out_too = skip_slot if near == skip_cell else -1
                # Empty slots up to a full vector register are cheaper to compute (and discard) than to branch around.
                for slot in range((count[near] + LANES - 1) // LANES * LANES):
                    counted = slot != left_out and slot != left_out_too
                    xa, xb, xc = coordinate[near, 0, slot], coordinate[near, row_b, slot], coordinate[near, row_c, slot]
                    sigma = _pair_sigma(own, coordinate[near, row_d, slot], eta)
                    sigma2 = tables[0, row, column[near, slot]] if table else sigma * sigma
                    epsilon = tables[1, row, column[near, slot]]
                    a, b, c = abs(xa - oa), has_b * abs(xb - ob), has_c * abs(xc - oc)
                    a, b, c = (
                        (a if a < la - a else la - a),
                        (b if b < lb - b else lb - b),
                        (c if c < lc - c else lc - c),
                    )
                    s2 = sigma2 / (a * a + b * b + c * c)
                    energy = _pair_energy(s2, epsilon, c12, c6, c0, c2, c4)
                    energy_old += energy if counted and s2 > inverse_cutoff2 else 0.0
                    a, b, c = abs(xa - na), has_b * abs(xb - nb), has_c * abs(xc - nc)
                    a, b, c = (
                        (a if a < la - a else la - a),
                        (b if b < lb - b else lb - b),
                        (c if c < lc - c else lc - c),
                    )
                    s2 = sigma2 / (a * a + b * b + c * c)
                    energy = _pair_energy(s2, epsilon, c12, c6, c0, c2, c4)
                    energy_new += energy if counted and s2 > inverse_cutoff2 else 0.0
    return energy_old, energy_new


@_compile
def cell_energies(
    count, column, coordinate, place, labels, tables, diameters, eta, grid, dim, lengths, coefficients,
    inverse_cutoff2, i, skip, oa, ob, oc, na, nb, nc,
):  # fmt: skip
    """As `pair_energies`, with the particles of the cells around the two positions."""
    old, new = _cell_index(grid, lengths, oa, ob, oc), _cell_index(grid, lengths, na, nb, nc)
    energy_old, energy_new = _energies_around(
        old, count, column, coordinate, place, labels, tables, diameters, eta, grid, dim, lengths, coefficients,
        inverse_cutoff2, i, skip, oa, ob, oc, na, nb, nc,
    )  # fmt: skip
    if new != old:
        energy_new = _energies_around(
            new, count, column, coordinate, place, labels, tables, diameters, eta, grid, dim, lengths, coefficients,
            inverse_cutoff2, i, skip, oa, ob, oc, na, nb, nc,
        )[1]  # fmt: skip
    return energy_old, energy_new


@_compile
def particle_energies(model, x, cells, i, skip, old, new):
    """Energy of particle i at `old` and at `new` (tuples of three) with all others but `skip` (−1 for none)."""
    oa, ob, oc = old
    na, nb, nc = new
    if model.cells:
        return cell_energies(
            cells.count, cells.column, cells.coordinate, cells.place, model.labels, model.tables, model.diameters,
            model.nonadditivity, model.grid, model.dim, model.lengths, model.coefficients, model.inverse_cutoff2,
            i, skip, oa, ob, oc, na, nb, nc,
        )  # fmt: skip
    return pair_energies(
        x, model.tables, model.labels[0, i], model.lengths, model.coefficients, model.inverse_cutoff2, i, skip,
        oa, ob, oc, na, nb, nc,
    )  # fmt: skip


@_compile
def total_energy(model, x, cells):
    """U of coordinate rows `(3, width)`, every pair once."""
    total = 0.0
    for i in range(model.particles):
        at = (x[0, i], x[1, i], x[2, i])
        total += particle_energies(model, x, cells, i, NONE, at, at)[0]
    return 0.5 * total
