"""The energy model in the form that compiled kernels read: padded coordinate rows and tables.

Coordinates are `(3, width)` float64: a row per axis (unused axes are zero), particles padded with `FAR` up to a
multiple of `LANES` so that inner loops fill whole vector registers. An axis without a period has infinite length,
so one expression, min(|Δ|, L − |Δ|), serves the torus and free space.
"""

import math
from typing import NamedTuple

import numpy as np

from particlegen.energy.formulas import PairPotential, nonadditive_sigma
from particlegen.geometry import FlatTorus
from particlegen.settings import InputError
from particlegen.system import ParticleSystem

__all__ = ["FAR", "LANES", "KernelModel", "build_model", "pack", "unpack"]

FAR = 1e300
"""Coordinate of a padding slot: squared distances overflow to infinity, so (σ/r)² is 0, beyond every cutoff."""

LANES = 8


class KernelModel(NamedTuple):
    """What a kernel needs to know of a system and its potential.

    Few arrays and many scalars: compiled code counts a reference for every array that it touches.

    Args:
        particles: N.
        dim: 1, 2 or 3.
        lengths: box length per axis, infinite where there is no period.
        radius2: squared radius of the hard confining ball, infinite for none.
        coefficients: of `even_power_energy`.
        inverse_cutoff2: a pair interacts while (σ/r)² exceeds it.
        nonadditivity: with cells, η of `nonadditive_sigma`, or −1 where σ² comes from the table.
        grid: number of cells along each axis; `cells` says whether they are used.
        window: side, in cells, of the windows that displacements work through one after another; 0 for none.
        labels: `(2, N)` row of each particle in `tables`, and its kind: particles of one kind are interchangeable
            (species, or one kind per diameter).
        tables: `(2, row, column)` σ² and ε; a column per particle, or with cells per species.
        diameters: `(N,)`.
    """

    particles: int
    dim: int
    lengths: tuple[float, float, float]
    radius2: float
    coefficients: tuple[float, float, float, float, float]
    inverse_cutoff2: float
    nonadditivity: float
    grid: tuple[int, int, int]
    cells: bool
    window: int
    labels: np.ndarray
    tables: np.ndarray
    diameters: np.ndarray

    @property
    def width(self) -> int:
        """Particles per coordinate row, padding included."""
        return -(-self.particles // LANES) * LANES

    @property
    def kinds(self) -> int:
        """Number of kinds among the particles; swaps need two."""
        return len(np.unique(self.labels[1]))


_WINDOWS_FROM = 20_000
"""From this many particles on, what one move touches no longer stays in a core's cache by itself."""

_WINDOW_PARTICLES = 1000


def build_model(
    system: ParticleSystem, potential: PairPotential, cells: bool | None = None, window: int | None = None
) -> KernelModel:
    """The kernel model of a system; `cells` forces or forbids the cell list, None picks the faster one; `window`
    likewise sets the side of the windows in cells.

    Raises:
        InputError: more than three dimensions, or a cell list asked for where it does not fit (fewer than three
            cells of the largest cutoff along an axis, or no periodic box).
    """
    if system.dim > 3:
        raise InputError(f"system {system.name!r}: Monte Carlo kernels know 1 to 3 dimensions, found {system.dim}")
    n, dim = system.n_particles, system.dim
    lengths, grid, fits = [math.inf] * 3, [1] * 3, False
    reach = potential.largest_cutoff(system)
    if isinstance(system.geometry, FlatTorus):
        lengths[:dim] = system.geometry.lengths
        if math.isfinite(reach) and reach > 0:
            # Cells far smaller than a particle's share of the volume would only cost memory.
            most = max(3, math.ceil((2 * n) ** (1 / dim)))
            grid[:dim] = [min(max(1, int(length / reach)), most) for length in lengths[:dim]]
            fits = min(grid[:dim]) >= 3
    if cells and not fits:
        raise InputError(f"system {system.name!r}: a cell list needs a periodic box of three cutoffs along each axis")
    per_cell = n / math.prod(grid)
    # Measured costs in units of a pair of the plain loop (benchmarks/monte_carlo_speed.py): a cell costs about 33 to
    # visit and 2 per particle in it. The list pays from N = 420 on for discs at density 0.5.
    use_cells = fits and (3**dim * (33 + 2 * per_cell) < n if cells is None else cells)

    if window is None:
        window = math.ceil((_WINDOW_PARTICLES / per_cell) ** (1 / dim)) if use_cells and n >= _WINDOWS_FROM else 0

    species = np.asarray(system.species, np.int64)
    polydisperse = potential.nonadditivity is not None
    eta = -1.0 if potential.nonadditivity is None else float(potential.nonadditivity)
    diameters = np.asarray(system.diameters if polydisperse else np.ones(n), np.float64)
    # One row per kind: per species, or in a polydisperse system per diameter.
    first, kind = np.unique(diameters if polydisperse else species, return_index=True, return_inverse=True)[1:]
    sigma, epsilon = np.asarray(potential.sigma, np.float64), np.asarray(potential.epsilon, np.float64)
    if use_cells:
        row = species
        tables = np.stack([sigma**2 if sigma.shape == epsilon.shape else np.ones_like(epsilon), epsilon])
    else:
        row = kind
        tables = np.ones((2, len(first), -(-n // LANES) * LANES))
        for k, i in enumerate(first):
            pair = nonadditive_sigma(diameters[i], diameters, eta) if polydisperse else sigma[species[i], species]
            tables[0, k, :n] = pair**2
            tables[1, k, :n] = epsilon[species[i], species]
    radius = math.inf if isinstance(system.geometry, FlatTorus) else system.geometry.radius
    c12, c6, c0, c2, c4 = (float(c) for c in potential.coefficients)
    return KernelModel(
        particles=n,
        dim=dim,
        lengths=(float(lengths[0]), float(lengths[1]), float(lengths[2])),
        radius2=float(radius) ** 2,
        coefficients=(c12, c6, c0, c2, c4),
        inverse_cutoff2=float(potential.cutoff) ** -2,
        nonadditivity=eta,
        grid=(grid[0], grid[1], grid[2]),
        cells=use_cells,
        window=window,
        labels=np.stack([row, kind]).astype(np.int64),
        tables=tables,
        diameters=diameters,
    )


def pack(model: KernelModel, positions: np.ndarray) -> np.ndarray:
    """Positions `(..., particle, dim)` as padded coordinate rows `(..., 3, width)`, wrapped into the box."""
    *batch, n, dim = positions.shape
    wrapped = np.array(positions, np.float64)
    for axis in range(dim):
        length = model.lengths[axis]
        if math.isfinite(length):
            column = np.mod(wrapped[..., axis], length)
            wrapped[..., axis] = np.where(column >= length, 0.0, column)
    rows = np.zeros((*batch, 3, model.width))
    rows[..., n:] = FAR
    rows[..., :dim, :n] = np.swapaxes(wrapped, -1, -2)
    return rows


def unpack(model: KernelModel, rows: np.ndarray) -> np.ndarray:
    """The inverse of `pack`: positions `(..., particle, dim)`."""
    return np.ascontiguousarray(np.swapaxes(rows[..., : model.dim, : model.particles], -1, -2))
