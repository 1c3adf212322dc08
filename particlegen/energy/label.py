"""One answer of a costly engine, with everything that says where it comes from."""

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from particlegen.energy.fingerprint import canonical_system, geometry_hash
from particlegen.system import ParticleSystem

__all__ = ["Label", "contradict", "merged"]


@dataclass(frozen=True, eq=False)
class Label:
    """What an engine found for one configuration. Two labels are the same where their `digest` is.

    Args:
        settings_hash: of the engine's settings, see `settings_hash`.
        system: species, diameters, box and units; kept in canonical form.
        positions: `(particle, dim)` float64, finite, exactly as the engine was given them.
        energy: in the system's unit; None where the engine failed.
        forces: `(particle, dim)` float64, or None where nobody asked.
        virial: W, or None where nobody asked.
        reason: why the engine failed; None where it did not.
        iterations: of the engine's self-consistency, where it tells.
        seconds: that the answer took.
        provider: name of the engine.
        time: of arrival, seconds since 1970.

    Raises:
        ValueError: shapes that do not fit, a number that is none, a failure with an energy, or neither of the two.
    """

    settings_hash: str
    system: ParticleSystem
    positions: Float64[np.ndarray, "particle dim"]
    energy: float | None
    forces: Float64[np.ndarray, "particle dim"] | None
    virial: float | None
    reason: str | None
    iterations: int | None
    seconds: float
    provider: str
    time: float

    def __post_init__(self):
        object.__setattr__(self, "system", canonical_system(self.system))
        for name in ("energy", "virial"):  # SQLite keeps no sign of zero
            number = getattr(self, name)
            object.__setattr__(self, name, None if number is None else float(number) + 0.0)
        if self.positions.shape != (self.system.n_particles, self.system.dim) or not np.isfinite(self.positions).all():
            raise ValueError(f"a label of {self.system.name} needs finite positions {self._shape}")
        if (self.energy is None) == (self.reason is None):
            raise ValueError("a label has either an energy or the reason why there is none")
        if self.reason is not None and (self.forces is not None or self.virial is not None):
            raise ValueError("a failed label has no forces and no virial")
        if any(number is not None and math.isnan(number) for number in (self.energy, self.virial)):
            raise ValueError("an energy or virial that is not a number is a failure; give its reason")
        if self.forces is not None and (self.forces.shape != self._shape or np.isnan(self.forces).any()):
            raise ValueError(f"a label of {self.system.name} needs forces {self._shape} that are numbers")

    @property
    def _shape(self) -> tuple[int, int]:
        return self.system.n_particles, self.system.dim

    @property
    def converged(self) -> bool:
        return self.reason is None

    @cached_property
    def geometry_hash(self) -> str:
        return geometry_hash(self.system, self.positions)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every bit of the label."""
        numbers = (self.energy, self.virial, self.reason, self.iterations, self.seconds, self.provider, self.time)
        text = repr((self.settings_hash, self.geometry_hash, self.forces is None, *numbers))
        forces = b"" if self.forces is None else self.forces.astype("<f8").tobytes()
        return hashlib.sha256(text.encode() + self.positions.astype("<f8").tobytes() + forces).hexdigest()

    @property
    def quantities(self) -> frozenset[str]:
        """What the label holds: `energy`, `forces`, `virial`; nothing where the engine failed."""
        return frozenset(name for name in ("energy", "forces", "virial") if getattr(self, name) is not None)


def merged(held: Label, new: Label) -> Label:
    """What a store holds on to when a second label of the same settings and geometry arrives.

    An energy once served never changes: the first success stays, and only gains the forces and the virial that it
    lacks (and the seconds that they took). A success replaces a failure, a failure replaces nothing.
    """
    if new.quantities <= held.quantities:
        return held
    if not held.converged:
        return new
    return replace(
        held,
        forces=new.forces if held.forces is None else held.forces,
        virial=new.virial if held.virial is None else held.virial,
        seconds=held.seconds + new.seconds,
    )


def contradict(one: Label, other: Label) -> bool:
    """Whether two labels of the same settings and geometry state different energies, forces or virials."""
    if not (one.converged and other.converged):
        return False
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("energy", "virial", "forces")]
    return any(a is not None and b is not None and not np.array_equal(a, b) for a, b in pairs)
