"""Compiled energies: of one particle with all others, and of the whole system, by all pairs or by a cell list.

V(r) is `energy.formulas.even_power_energy`, compiled as it stands. Every pair counts once, at its nearest image.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from particlegen.energy.formulas import even_power_energy, nonadditive_sigma
from particlegen.sampling.model import FAR, LANES

__all__ = [
    "Cells",
    "all_pairs_energies",
    "build_cells",
    "cell_energy",
    "move_in_cells",
    "one_particle_energies",
    "total_energy",
]

# Sums may be reordered (vector registers); NaN and infinity keep their meaning, since overlaps produce them.
_FAST = {"reassoc", "nsz", "contract", "arcp"}
_compile = njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)

_pair_energy = _compile(even_power_energy)
_pair_sigma = _compile(nonadditive_sigma)


class Cells(NamedTuple):
    """A cell list with a copy of the coordinates, so that a cell's particles lie side by side in memory.

    Args:
        count: `(cell,)` particles in each cell.
        member: `(cell, slot)` particle index, −1 in empty slots.
        coordinate: `(cell, 3, slot)`, `FAR` in empty slots.
        place: `(2, N)` cell and slot of each particle.
    """

    count: np.ndarray
    member: np.ndarray
    coordinate: np.ndarray
    place: np.ndarray


@_compile
def _axis_cell(value, length, n):
    return min(max(int(value / length * n), 0), n - 1) if n > 1 else 0


@_compile
def _cell_index(model, a, b, c):
    ga, gb, gc = model.grid
    la, lb, lc = model.lengths
    return (_axis_cell(a, la, ga) * gb + _axis_cell(b, lb, gb)) * gc + _axis_cell(c, lc, gc)


@_compile
def build_cells(model, x):
    """The cell list of coordinate rows `(3, width)`; empty arrays when the model uses none. O(N)."""
    n_cells = model.grid[0] * model.grid[1] * model.grid[2] if model.cells else 0
    n = model.particles if model.cells else 0
    count, place = np.zeros(n_cells, np.int64), np.zeros((2, n), np.int64)
    most = 0
    for i in range(n):
        cell = _cell_index(model, x[0, i], x[1, i], x[2, i])
        place[0, i], place[1, i] = cell, count[cell]
        count[cell] += 1
        most = max(most, count[cell])
    capacity = (most // LANES + 1) * LANES
    member = np.full((n_cells, capacity), -1, np.int64)
    coordinate = np.full((n_cells, 3, capacity), FAR)
    for i in range(n):
        cell, slot = place[0, i], place[1, i]
        member[cell, slot] = i
        for axis in range(3):
            coordinate[cell, axis, slot] = x[axis, i]
    return Cells(count, member, coordinate, place)


@_compile
def move_in_cells(model, cells, i, a, b, c):
    """Particle i is at (a, b, c) now: O(1). False when its cell was full, and the list has to be built again."""
    old, slot, new = cells.place[0, i], cells.place[1, i], _cell_index(model, a, b, c)
    if old != new:
        if cells.count[new] == cells.member.shape[1]:
            return False
        last = cells.count[old] - 1
        mover = cells.member[old, last]
        cells.member[old, slot] = mover
        cells.place[1, mover] = slot
        for axis in range(3):
            cells.coordinate[old, axis, slot] = cells.coordinate[old, axis, last]
            cells.coordinate[old, axis, last] = FAR
        cells.member[old, last] = -1
        cells.count[old] = last
        slot = cells.count[new]
        cells.member[new, slot] = i
        cells.place[0, i], cells.place[1, i] = new, slot
        cells.count[new] += 1
    cells.coordinate[new, 0, slot], cells.coordinate[new, 1, slot], cells.coordinate[new, 2, slot] = a, b, c
    return True


@_compile
def all_pairs_energies(x, tables, row, lengths, coefficients, inverse_cutoff2, i, skip, oa, ob, oc, na, nb, nc):
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
def cell_energy(
    member, coordinate, count, labels, tables, diameters, eta, grid, lengths, coefficients, inverse_cutoff2, i, skip,
    pa, pb, pc,
):  # fmt: skip
    c12, c6, c0, c2, c4 = coefficients
    la, lb, lc = lengths
    ga, gb, gc = grid
    ka, kb, kc = _axis_cell(pa, la, ga), _axis_cell(pb, lb, gb), _axis_cell(pc, lc, gc)
    row = labels[0, i]
    energy_sum = 0.0
    for da in range(-1, 2):
        for db in range(-1 if gb > 1 else 0, 2 if gb > 1 else 1):
            for dc in range(-1 if gc > 1 else 0, 2 if gc > 1 else 1):
                cell = (((ka + da + ga) % ga) * gb + (kb + db + gb) % gb) * gc + (kc + dc + gc) % gc
                # Empty slots up to a full vector register are cheaper to compute (and discard) than to branch around.
                for slot in range((count[cell] + LANES - 1) // LANES * LANES):
                    j = member[cell, slot]
                    a, b = abs(coordinate[cell, 0, slot] - pa), abs(coordinate[cell, 1, slot] - pb)
                    c = abs(coordinate[cell, 2, slot] - pc)
                    a, b = (a if a < la - a else la - a), (b if b < lb - b else lb - b)
                    c = c if c < lc - c else lc - c
                    k = max(j, 0)
                    column = labels[0, k]
                    sigma2 = tables[0, row, column]
                    if eta >= 0.0:
                        sigma = _pair_sigma(diameters[i], diameters[k], eta)
                        sigma2 = sigma * sigma
                    s2 = sigma2 / (a * a + b * b + c * c)
                    energy = _pair_energy(s2, tables[1, row, column], c12, c6, c0, c2, c4)
                    energy_sum += energy if j != i and j != skip and s2 > inverse_cutoff2 else 0.0
    return energy_sum


@_compile
def one_particle_energies(model, x, cells, i, skip, old, new):
    """Energy of particle i at `old` and at `new` (tuples of three) with all others but `skip` (−1 for none)."""
    oa, ob, oc = old
    na, nb, nc = new
    if model.cells:
        energy_old = cell_energy(
            cells.member, cells.coordinate, cells.count, model.labels, model.tables, model.diameters,
            model.nonadditivity, model.grid, model.lengths, model.coefficients, model.inverse_cutoff2, i, skip,
            oa, ob, oc,
        )  # fmt: skip
        energy_new = cell_energy(
            cells.member, cells.coordinate, cells.count, model.labels, model.tables, model.diameters,
            model.nonadditivity, model.grid, model.lengths, model.coefficients, model.inverse_cutoff2, i, skip,
            na, nb, nc,
        )  # fmt: skip
        return energy_old, energy_new
    return all_pairs_energies(
        x, model.tables, model.labels[0, i], model.lengths, model.coefficients, model.inverse_cutoff2, i, skip,
        oa, ob, oc, na, nb, nc,
    )  # fmt: skip


@_compile
def total_energy(model, x, cells):
    """U of coordinate rows `(3, width)`, every pair once."""
    total = 0.0
    for i in range(model.particles):
        at = (x[0, i], x[1, i], x[2, i])
        total += one_particle_energies(model, x, cells, i, -1, at, at)[0]
    return 0.5 * total
