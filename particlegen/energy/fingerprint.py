"""What an energy depends on, as hashes: the settings of an engine, and the geometry that it is asked about."""

import functools
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from particlegen.energy.provider import EnergyProvider
from particlegen.geometry import FlatTorus, FreeSpace
from particlegen.settings import InputError
from particlegen.system import ParticleSystem

__all__ = [
    "Reproducible",
    "canonical_json",
    "canonical_system",
    "geometry_hash",
    "settings_hash",
    "settings_of",
    "system_from",
    "system_hash",
    "system_json",
]


class Reproducible(Protocol):
    """A provider that says what its answers depend on, so that they can be kept and found again."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Engine, method, every parameter and the versions, as JSON: all that changes an energy beyond rounding.

        Not in it: what the geometry holds (positions, species, diameters, box, units), and what changes the time
        alone (device, threads).
        """
        ...


def canonical_json(content: Mapping[str, Any]) -> str:
    """One text for equal contents: keys sorted, no spaces, floats in their shortest exact form.

    Raises:
        InputError: something that JSON cannot hold, NaN and infinity among it.
    """
    try:
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"settings: {error}; use texts, finite numbers, lists and mappings") from error


def settings_hash(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of an engine's settings, 64 hexadecimal digits.

    Raises:
        InputError: as `canonical_json`.

    >>> settings_hash({"engine": "emt", "versions": {"ase": "3.26"}})[:12]
    'bddec740a7d0'
    """
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()


def settings_of(provider: EnergyProvider) -> dict[str, Any]:
    """The settings of a provider, as JSON gives them back.

    Raises:
        InputError: it has none, or they are no JSON.
    """
    settings = getattr(provider, "settings", None)
    if settings is None:
        raise InputError(
            f"energy provider {provider.name!r} does not say what its answers depend on; give it a property "
            "`settings`, or state them: Cached(provider, store, settings={...})"
        )
    return json.loads(canonical_json(settings))


@functools.lru_cache(maxsize=256)
def canonical_system(system: ParticleSystem) -> ParticleSystem:
    """The same particles, however a card calls them: species in the order of their names, unused ones left out.

    >>> canonical_system(ParticleSystem("mine", FreeSpace(3), (1, 0, 1), ("B", "A"))).name
    'A2B1'
    """
    kinds = [system.species_names[s] for s in system.species]
    counts = Counter(kinds)
    names = tuple(sorted(counts))
    index = {name: number for number, name in enumerate(names)}
    return ParticleSystem(
        name="".join(f"{name}{counts[name]}" for name in names),
        geometry=system.geometry,
        species=tuple(index[kind] for kind in kinds),
        species_names=names,
        diameters=system.diameters,
        units=system.units,
    )


@functools.lru_cache(maxsize=256)
def system_json(system: ParticleSystem) -> str:
    """Everything about a geometry but the positions, in canonical JSON; names of cards are not part of it."""
    box = system.geometry
    radius = getattr(box, "radius", math.inf)
    return canonical_json(
        {
            "dimensions": system.dim,
            "units": system.units,
            "species": [system.species_names[s] for s in system.species],
            "diameters": None if system.diameters is None else [float(d) for d in system.diameters],
            "lengths": [float(length) for length in box.lengths] if isinstance(box, FlatTorus) else None,
            "radius": float(radius) if math.isfinite(radius) else None,
        }
    )


@functools.lru_cache(maxsize=256)
def system_from(text: str) -> ParticleSystem:
    """The canonical system that `system_json` wrote.

    Raises:
        ValueError, KeyError, TypeError: the text is not of that kind.
    """
    content = json.loads(text)
    kinds, lengths, radius = content["species"], content["lengths"], content["radius"]
    names = tuple(dict.fromkeys(kinds))
    index = {name: number for number, name in enumerate(names)}
    space = FreeSpace(content["dimensions"], math.inf if radius is None else radius)
    return canonical_system(
        ParticleSystem(
            name="",
            geometry=space if lengths is None else FlatTorus(tuple(lengths)),
            species=tuple(index[kind] for kind in kinds),
            species_names=names,
            diameters=None if content["diameters"] is None else tuple(content["diameters"]),
            units=content["units"],
        )
    )


@functools.lru_cache(maxsize=256)
def system_hash(system: ParticleSystem) -> str:
    """SHA-256 of `system_json`."""
    return hashlib.sha256(system_json(system).encode()).hexdigest()


def geometry_hash(system: ParticleSystem, positions: Float[np.ndarray, "particle dim"]) -> str:
    """SHA-256 of a configuration: the exact float64 bytes of the positions after `system_json`'s hash.

    −0.0 counts as 0.0. Nothing is rounded or wrapped: an image in the next cell, or another order of like particles,
    is another geometry.

    >>> pair = ParticleSystem("pair", FreeSpace(1), (0, 0), ("A",))
    >>> geometry_hash(pair, np.array([[0.0], [1.0]])) == geometry_hash(pair, np.array([[-0.0], [1.0]]))
    True
    """
    exact = (np.asarray(positions, dtype=np.float64) + 0.0).astype("<f8").tobytes()
    return hashlib.sha256(system_hash(system).encode() + exact).hexdigest()
