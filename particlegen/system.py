"""Plain frozen data: which particles, in which space, at which state."""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from particlegen import units as unit_systems
from particlegen.geometry import FlatTorus, Geometry
from particlegen.units import Units

__all__ = ["Isomer", "ParticleSystem", "ThermodynamicState"]


@dataclass(frozen=True)
class ParticleSystem:
    """N labelled particles in a geometry.

    Args:
        name: the card's name.
        geometry: `FlatTorus` or `FreeSpace`.
        species: species index of every particle, length N.
        species_names: one name per species index.
        diameters: per-particle diameters (polydisperse systems), length N, or None.
        units: `lj` or `metal`.

    Raises:
        ValueError: species out of range, or lengths that differ.
    """

    name: str
    geometry: Geometry
    species: tuple[int, ...]
    species_names: tuple[str, ...]
    diameters: tuple[float, ...] | None = None
    units: Units = "lj"

    def __post_init__(self):
        if not self.species:
            raise ValueError(f"system {self.name!r} has no particles")
        if not all(0 <= s < len(self.species_names) for s in self.species):
            raise ValueError(f"system {self.name!r}: species indices must lie in 0..{len(self.species_names) - 1}")
        if self.diameters is not None and len(self.diameters) != len(self.species):
            raise ValueError(f"system {self.name!r}: {len(self.diameters)} diameters for {len(self.species)} particles")

    @property
    def n_particles(self) -> int:
        return len(self.species)

    @property
    def dim(self) -> int:
        return self.geometry.dim

    @property
    def composition(self) -> tuple[int, ...]:
        """Number of particles of each species."""
        return tuple(int(n) for n in np.bincount(self.species, minlength=len(self.species_names)))

    @property
    def blocks(self) -> tuple[int, ...]:
        """For every particle the index of its block: neighbours in order that are alike in species and diameter.

        Particles of one block are interchangeable; the torus coupling permutes within blocks.

        >>> from particlegen.geometry import FlatTorus
        >>> ParticleSystem("s", FlatTorus((2.0, 2.0)), (0, 0, 0, 1), ("A", "B"), diameters=(1.0, 1.0, 1.2, 1.2)).blocks
        (0, 0, 1, 2)
        """
        kinds = list(zip(self.species, self.diameters or (0.0,) * self.n_particles, strict=True))
        changes = [int(now != before) for before, now in itertools.pairwise(kinds)]
        return (0, *itertools.accumulate(changes))

    @property
    def log_uniform_density(self) -> float:
        """log q of independent uniform particles, −N log V."""
        return -self.n_particles * float(np.log(self.geometry.volume))

    @property
    def density(self) -> float:
        """Number density N/V; 0 without confinement."""
        return self.n_particles / self.geometry.volume

    @property
    def torus(self) -> FlatTorus:
        """The geometry as a torus; raises TypeError for free space."""
        if not isinstance(self.geometry, FlatTorus):
            raise TypeError(f"system {self.name!r} lives in free space; a periodic box is needed here")
        return self.geometry


@dataclass(frozen=True, eq=False)
class Isomer:
    """A named structure of a cluster.

    Args:
        name: as results carry it.
        structure: `(N, 3)` float64, centre at the origin, in the system's unit of length.
        title: what it is.
    """

    name: str
    structure: Float[Tensor, "N 3"]
    title: str = ""


@dataclass(frozen=True)
class ThermodynamicState:
    """Canonical state: temperature in the unit system's own unit (ε/k_B or K)."""

    temperature: float
    units: Units = "lj"

    @property
    def beta(self) -> float:
        return unit_systems.beta(self.temperature, self.units)
