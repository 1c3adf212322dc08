"""Compiled Markov kernels: single-particle displacements, swaps of two positions, exchanges of temperature.

A ladder is K configurations at K temperatures; plain Monte Carlo is a ladder of one. All state is in arrays that the
caller owns, so a ladder continues exactly where it stopped.
"""

import math

import numpy as np
from numba import njit

from particlegen.sampling.acceptance import accepts, exchange_log_ratio, move_log_ratio
from particlegen.sampling.generator import uniform, uniform_index
from particlegen.sampling.pairs import (
    NONE,
    build_cells,
    cell_energies,
    in_window,
    move_in_cells,
    pair_energies,
    particle_energies,
    total_energy,
    window_members,
)

__all__ = ["COUNTERS", "advance", "full_energies"]

COUNTERS = ("displacements", "displacements_accepted", "swaps", "swaps_accepted")
"""Columns of the move counters, one row per temperature."""

_compile = njit(cache=True, nogil=True, error_model="numpy")


@_compile
def _wrapped(value, length):
    if length < np.inf:
        value -= length * math.floor(value / length)
        if value >= length:
            value = 0.0
    return value


@_compile
def _swap(model, x, cells, beta, stream, counters):
    """Exchange the positions of two random particles of different kind, or not; returns the change of energy.

    The pair is drawn from the labels alone, which a swap leaves in place, so the proposal is symmetric. Both energies
    leave the mutual term out: the distance within the pair, and so that term, is the same before and after.
    """
    i = uniform_index(stream, model.particles)
    j = uniform_index(stream, model.particles)
    while model.labels[1, i] == model.labels[1, j]:
        i = uniform_index(stream, model.particles)
        j = uniform_index(stream, model.particles)
    at_i, at_j = (x[0, i], x[1, i], x[2, i]), (x[0, j], x[1, j], x[2, j])
    old_i, new_i = particle_energies(model, x, cells, i, j, at_i, at_j)
    old_j, new_j = particle_energies(model, x, cells, j, i, at_j, at_i)
    change = (new_i - old_i) + (new_j - old_j)
    counters[2] += 1
    if not accepts(move_log_ratio(beta, change), stream):
        return 0.0
    counters[3] += 1
    for axis in range(3):
        x[axis, i], x[axis, j] = at_j[axis], at_i[axis]
    if model.cells:
        # The two trade slots; the positions stay where they are.
        for k in range(2):
            cells.place[k, i], cells.place[k, j] = cells.place[k, j], cells.place[k, i]
        for k in (i, j):
            cell, slot = cells.place[0, k], cells.place[1, k]
            cells.member[cell, slot], cells.column[cell, slot] = k, model.labels[0, k]
            if model.nonadditivity >= 0.0:
                cells.coordinate[cell, model.dim, slot] = model.diameters[k]
    return change


@_compile
def _trials(model, x, cells, energy, beta, step, swap_fraction, trials, stream, counters, corner, movable):
    """Up to `trials` trial moves; returns how many were made before a cell overflowed, and the energy.

    A displacement moves a random particle inside a cube of half-width `step`. With a list `movable`, it is one of
    those, and a move out of the window of cells at `corner` is rejected, so that the list stays true.
    """
    # Fields are read before the loop: inside it, each one would cost a counted reference per move.
    labels, tables, diameters, eta = model.labels, model.tables, model.diameters, model.nonadditivity
    lengths, coefficients, inverse_cutoff2 = model.lengths, model.coefficients, model.inverse_cutoff2
    particles, dim, radius2, grid, use_cells = model.particles, model.dim, model.radius2, model.grid, model.cells
    count, member, column, coordinate, place = cells.count, cells.member, cells.column, cells.coordinate, cells.place
    la, lb, lc = lengths
    windowed = len(movable) > 0
    displacements, accepted = 0, 0
    done = 0
    while done < trials:
        done += 1
        if swap_fraction > 0.0 and uniform(stream) < swap_fraction:
            energy += _swap(model, x, cells, beta, stream, counters)
            continue
        i = movable[uniform_index(stream, len(movable))] if windowed else uniform_index(stream, particles)
        oa, ob, oc = x[0, i], x[1, i], x[2, i]
        a = oa + step * (2.0 * uniform(stream) - 1.0)
        b = ob + step * (2.0 * uniform(stream) - 1.0) if dim > 1 else ob
        c = oc + step * (2.0 * uniform(stream) - 1.0) if dim > 2 else oc
        displacements += 1
        if a * a + b * b + c * c > radius2:
            continue
        a, b, c = _wrapped(a, la), _wrapped(b, lb), _wrapped(c, lc)
        if windowed and not in_window(grid, lengths, model.window, corner, a, b, c):
            continue
        if use_cells:
            old, new = cell_energies(
                count, column, coordinate, place, labels, tables, diameters, eta, grid, dim, lengths, coefficients,
                inverse_cutoff2, i, NONE, oa, ob, oc, a, b, c,
            )  # fmt: skip
        else:
            old, new = pair_energies(
                x, tables, labels[0, i], lengths, coefficients, inverse_cutoff2, i, NONE, oa, ob, oc, a, b, c
            )
        if accepts(move_log_ratio(beta, new - old), stream):
            accepted += 1
            energy += new - old
            x[0, i], x[1, i], x[2, i] = a, b, c
            if use_cells and not move_in_cells(
                grid, lengths, dim, count, member, column, coordinate, place, i, a, b, c
            ):
                break
    counters[0] += displacements
    counters[1] += accepted
    return done, energy


@_compile
def _sweeps(model, x, energy, beta, step, swap_fraction, sweeps, stream, counters):
    """`sweeps` × N trial moves from the state (x, energy); returns the energy that accumulated.

    Large systems are displaced window by window, so that what a visit touches stays in the cache (domain
    decomposition as in Anderson, Jankowski, Grubb, Engel & Glotzer 2013, one domain at a time). A window is a place in
    space, drawn without regard to the configuration; its particles are collected once, no move leaves or enters it,
    and the number of trials does not depend on how many there are: so each visit by itself keeps the Boltzmann law.
    """
    left = sweeps * model.particles
    # Swaps are global: beside windows they get a share of their own, after the displacements.
    swaps = int(left * swap_fraction) if model.window > 0 else 0
    left -= swaps
    mean_in_window = model.particles * model.window**model.dim / (model.grid[0] * model.grid[1] * model.grid[2])
    corner, movable, visit = (0, 0, 0), np.empty(0, np.int64), 0
    while left + swaps > 0:
        # Built again where a full cell has cut the moves short; the visit then goes on in the same window.
        cells = build_cells(model, x)
        intact = True
        while intact and left > 0:
            if model.window > 0 and visit == 0:
                corner = (
                    uniform_index(stream, model.grid[0]),
                    uniform_index(stream, model.grid[1]),
                    uniform_index(stream, model.grid[2]),
                )
                movable = window_members(model, cells, corner)
                visit = min(left, int(2.0 * mean_in_window) + 1)
            trials = visit if model.window > 0 else left
            done = trials
            if model.window == 0 or len(movable) > 0:
                share = swap_fraction if model.window == 0 else 0.0
                done, energy = _trials(
                    model, x, cells, energy, beta, step, share, trials, stream, counters, corner, movable
                )
            left -= done
            visit = trials - done
            intact = visit == 0
        if left == 0 and swaps > 0:
            energy = _trials(
                model, x, cells, energy, beta, step, 1.0, swaps, stream, counters, corner, np.empty(0, np.int64)
            )[1]
            swaps = 0
    return energy


@_compile
def _exchange(x, energies, betas, parity, walkers, heading, stream, exchanges):
    """Attempt to exchange neighbouring temperatures; even and odd pairs take turns (`parity` 0 or 1).

    `walkers[k]` is the walker at temperature k. `heading` says which end each walker was at last: 1 the hottest, 0 not
    yet; a round trip ends at temperature 0. Returns the number of round trips that ended.
    """
    last = len(betas) - 1
    for k in range(parity, last, 2):
        exchanges[k, 0] += 1
        if accepts(exchange_log_ratio(betas[k], betas[k + 1], energies[k], energies[k + 1]), stream):
            exchanges[k, 1] += 1
            for axis in range(3):
                for j in range(x.shape[2]):
                    x[k, axis, j], x[k + 1, axis, j] = x[k + 1, axis, j], x[k, axis, j]
            energies[k], energies[k + 1] = energies[k + 1], energies[k]
            walkers[k], walkers[k + 1] = walkers[k + 1], walkers[k]
    heading[walkers[last]] = 1
    arrived = heading[walkers[0]]
    heading[walkers[0]] = 0
    return arrived


@_compile
def full_energies(model, x):
    """Energies `(K,)` of configurations `(K, 3, width)`, every pair summed afresh."""
    energies = np.empty(len(x))
    for k in range(len(x)):
        energies[k] = total_energy(model, x[k], build_cells(model, x[k]))
    return energies


@_compile
def advance(
    model, x, betas, steps, swap_fraction, frames, sweeps, sweeps_between_exchanges, target, stream, ladder, counters
):
    """Run a ladder for `frames` × `sweeps` sweeps per temperature, recording temperature `target` after each `sweeps`.

    Args:
        model: `KernelModel`.
        x: `(K, 3, width)` coordinate rows, changed in place.
        betas, steps: `(K,)` inverse temperatures and half-widths of the displacement cube.
        swap_fraction: share of the trial moves that are swaps; 0 unless there are two kinds.
        frames, sweeps: what to record; `sweeps_between_exchanges` sweeps separate attempts to exchange temperatures.
        target: index of the recorded temperature.
        stream: `(4,)` uint64 generator state.
        ladder: (`walkers` `(K,)`, `heading` `(K,)`, `exchanges` `(K − 1, 2)`, `tally` `(2,)` of the exchange rounds and
            the round trips), all int64, changed in place.
        counters: `(K, 4)` int64, changed in place; columns as in `COUNTERS`.

    Returns:
        Coordinate rows `(frame, 3, width)` and energies `(frame, K)`, each energy summed afresh, and the largest
        difference to the energy that accumulated move by move, relative to max(|U|, N k_B T_max).
    """
    walkers, heading, exchanges, tally = ladder
    recorded = np.empty((frames, 3, x.shape[2]))
    energies = np.empty((frames, len(betas)))
    running = full_energies(model, x)
    drift = 0.0
    for frame in range(frames):
        left = sweeps
        while left > 0:
            portion = min(left, sweeps_between_exchanges) if len(betas) > 1 else left
            for k in range(len(betas)):
                running[k] = _sweeps(
                    model, x[k], running[k], betas[k], steps[k], swap_fraction, portion, stream, counters[k]
                )
            left -= portion
            if len(betas) > 1:
                tally[1] += _exchange(x, running, betas, tally[0] % 2, walkers, heading, stream, exchanges)
                tally[0] += 1
        fresh = full_energies(model, x)
        for k in range(len(betas)):
            # Exchanges carry the rounding of hot energies down the ladder, so the hottest sets the scale.
            scale = max(abs(fresh[k]), model.particles / np.min(betas))
            drift = max(drift, abs(fresh[k] - running[k]) / scale)
            running[k] = fresh[k]
        recorded[frame] = x[target]
        energies[frame] = fresh
    return recorded, energies, drift
