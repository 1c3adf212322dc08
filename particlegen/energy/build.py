"""From a card and its overrides to a system, a state and a potential."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from particlegen.catalogue import Card
from particlegen.energy.cards import (
    Count,
    Lengths,
    Positive,
    PotentialCard,
    SystemCard,
    load_potential,
    load_system_card,
)
from particlegen.energy.formulas import PairPotential
from particlegen.geometry import FlatTorus, FreeSpace, Geometry
from particlegen.io.structures import Structure
from particlegen.settings import InputError, Section
from particlegen.system import ParticleSystem, ThermodynamicState
from particlegen.units import Units
from particlegen.validation import near_matches

__all__ = ["BuiltSystem", "SystemSettings", "build_system", "checked_state", "species_of_file"]

# (N/ρ)^(1/d) rounds: a box of exactly twice the cutoff has to pass.
_SLACK = 1.0 + 1e-9


class SystemSettings(Section):
    """The workflow's `system` section: a card, and what is to differ from it.

    Args:
        card: name in the catalogue, or the path of your own card ending in `.yaml`.
        potential: another potential card than the system card's.
        particles: N; split by the card's ratio or a published composition.
        composition: counts by species name; species left out get none.
        lengths: box lengths, rectangular, in the unit of length.
        density: N/V of a cubic or square box; not together with lengths.
        radius: of the confining sphere (free-space cards).
        temperature: in the unit system's own unit.
        truncated_image: whether a cutoff beyond half the box is accepted.
    """

    card: str
    potential: str | None = None
    particles: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    composition: dict[str, Count] | None = None
    lengths: Lengths | None = None
    density: Positive | None = None
    radius: Positive | None = None
    temperature: Positive | None = None
    truncated_image: bool | None = None


@dataclass(frozen=True)
class BuiltSystem:
    """What a system section means.

    Args:
        system: the particles in their box; species ascending, in the card's order, unless a file gave them.
        state: temperature.
        potential: bound pair parameters.
        card: the system card as found.
        citations: of the system and the potential.
        truncated_image: whether the cutoff exceeds half the box, so that the nearest image cuts the potential off.
    """

    system: ParticleSystem
    state: ThermodynamicState
    potential: PairPotential
    card: Card
    citations: tuple[str, ...]
    truncated_image: bool


def build_system(
    settings: SystemSettings, relative_to: Path | None = None, structure: Structure | None = None
) -> BuiltSystem:
    """The system of a card with its overrides; with `structure`, N, box and species are those of the file.

    Numeric species 1, 2, 3 are the card's first, second, third; texts are its species names or stated elements.

    Raises:
        InputError: names the key (or the file's part) that does not fit, and what to do.
    """
    raw, card = load_system_card(settings.card, relative_to)
    where = f"system {settings.card!r}"
    # A potential that the card itself names is cited relative to that card.
    if settings.potential is None:
        # The card names it, so a path is relative to the card and not to the workflow.
        potential_card, potential = load_potential(card.potential, raw.path.parent)
    else:
        potential_card, potential = load_potential(settings.potential, relative_to)
    _check_potential(where, card, potential_card)
    names = tuple(card.composition)
    if structure is None:
        composition = _composition(where, settings, card)
        species = tuple(index for index, name in enumerate(names) for _ in range(composition[name]))
        geometry = _geometry(where, settings, card, len(species))
        diameters = card.diameters.diameters(len(species)) if card.diameters else None
    else:
        _check_no_overrides(where, settings)
        species = species_of_file(where, {name: card.elements.get(name, name) for name in names}, structure)
        geometry = _geometry_from_file(where, card, structure)
        diameters = _diameters_from_file(where, structure) if card.diameters else None
    system = ParticleSystem(
        name=raw.name,
        geometry=geometry,
        species=species,
        species_names=names,
        diameters=diameters,
        units=card.units,
    )
    allowed = card.truncated_image if settings.truncated_image is None else settings.truncated_image
    truncated = _check_image(where, system, potential, allowed)
    temperature = card.temperature if settings.temperature is None else settings.temperature
    return BuiltSystem(
        system=system,
        state=checked_state(where, temperature, card.units),
        potential=potential,
        card=raw,
        citations=tuple(dict.fromkeys((*card.citations, *potential_card.citations))),
        truncated_image=truncated,
    )


def _check_potential(where: str, card: SystemCard, potential: PotentialCard) -> None:
    if tuple(card.composition) != potential.species:
        raise InputError(
            f"{where}: key 'composition' has the species {list(card.composition)}, but its potential is for "
            f"{list(potential.species)}; the names and their order have to be the same"
        )
    if card.units != potential.units:
        raise InputError(f"{where}: units are {card.units}, those of its potential {potential.units}")
    if (card.diameters is None) != (potential.nonadditivity is None):
        raise InputError(
            f"{where}: key 'diameters' and a potential with 'nonadditivity' belong together; one of them is missing"
        )


def _composition(where: str, settings: SystemSettings, card: SystemCard) -> dict[str, int]:
    if settings.composition is None:
        return dict(card.composition) if settings.particles is None else card.composition_for(settings.particles)
    for name in settings.composition:
        if name not in card.composition:
            raise InputError(
                f"{where}: key 'composition' names the species {name!r}: {near_matches(name, list(card.composition))}"
            )
    total = sum(settings.composition.values())
    if settings.particles is not None and settings.particles != total:
        raise InputError(
            f"{where}: key 'composition' adds up to {total}, but 'particles' is {settings.particles}; "
            "correct one or leave 'particles' out"
        )
    if total == 0:
        raise InputError(f"{where}: key 'composition' has no particles")
    return {name: settings.composition.get(name, 0) for name in card.composition}


def _geometry(where: str, settings: SystemSettings, card: SystemCard, n: int) -> Geometry:
    if not card.periodic:
        for key in ("lengths", "density"):
            if getattr(settings, key) is not None:
                raise InputError(f"{where}: key {key!r} does not apply, the card lives in free space; give 'radius'")
        return FreeSpace(card.dimensions, settings.radius or card.radius or float("inf"))
    if settings.radius is not None:
        raise InputError(f"{where}: key 'radius' does not apply to a periodic card; give 'density' or 'lengths'")
    if settings.lengths is not None and settings.density is not None:
        raise InputError(f"{where}: keys 'lengths' and 'density' both fix the box; give one of them")
    lengths = settings.lengths or (None if settings.density else card.lengths)
    if lengths is None:
        density = settings.density or card.density or 1.0
        lengths = ((n / density) ** (1.0 / card.dimensions),) * card.dimensions
    if len(lengths) != card.dimensions:
        raise InputError(f"{where}: key 'lengths' needs {card.dimensions} numbers, found {len(lengths)}")
    box = FlatTorus(tuple(lengths))
    if not 0.0 < box.volume < math.inf:
        raise InputError(f"{where}: key 'lengths': {list(lengths)} have no volume that a number can hold; give others")
    return box


def checked_state(where: str, temperature: float, units: Units) -> ThermodynamicState:
    """The state at a temperature.

    Args:
        where: what an error begins with.
        temperature, units: of the state.

    Raises:
        InputError: 1/kT, or its square that heat capacities take, is beyond what a number can hold.
    """
    state = ThermodynamicState(temperature, units)
    if not 0.0 < state.beta * state.beta < math.inf:
        raise InputError(f"{where}: key 'temperature': found {temperature:g}, whose 1/kT no number can hold")
    return state


def _check_no_overrides(where: str, settings: SystemSettings) -> None:
    for key in ("particles", "composition", "lengths", "density", "radius"):
        if getattr(settings, key) is not None:
            raise InputError(f"{where}: key {key!r} does not apply, N, box and species come from the structure file")


def species_of_file(where: str, elements: Mapping[str, str], structure: Structure) -> tuple[int, ...]:
    """Species index of every particle of a structure, which may carry names, elements or the numbers from 1.

    Args:
        where: what an error begins with.
        elements: of each species, in the card's order.
        structure: from a file.

    Raises:
        InputError: a species that the card does not have.
    """
    names = list(elements)
    lookup: dict[str, int] = {element: names.index(name) for name, element in elements.items()}
    lookup |= {str(k + 1): k for k in range(len(names))} | {name: k for k, name in enumerate(names)}
    unknown = sorted({str(s) for s in structure.species} - set(lookup))
    if unknown:
        raise InputError(
            f"{where}: the file has the species {', '.join(unknown[:5])}; expected {', '.join(names)} or the numbers "
            f"1 to {len(names)} in that order"
        )
    return tuple(lookup[str(s)] for s in structure.species)


def _geometry_from_file(where: str, card: SystemCard, structure: Structure) -> Geometry:
    if structure.dim != card.dimensions:
        raise InputError(f"{where} is {card.dimensions}-dimensional, the file {structure.dim}-dimensional")
    if structure.lengths is None and card.periodic:
        raise InputError(f'{where} is periodic, but the file has no box; add Lattice="..." to its comment line')
    if structure.lengths is not None and not card.periodic:
        raise InputError(f'{where} lives in free space, but the file has a box; remove it or set pbc="F F F"')
    # The confining sphere belongs to the sampled ensemble; a structure from elsewhere need not be centred in it.
    return FlatTorus(structure.lengths) if structure.lengths is not None else FreeSpace(card.dimensions)


def _diameters_from_file(where: str, structure: Structure) -> tuple[float, ...]:
    if structure.diameters is None:
        raise InputError(f"{where} needs a diameter per particle; add a `diameter` or `radius` column to the file")
    return tuple(float(diameter) for diameter in structure.diameters)


def _check_image(where: str, system: ParticleSystem, potential: PairPotential, allowed: bool) -> bool:
    if not isinstance(system.geometry, FlatTorus):
        return False
    reach, half = potential.largest_cutoff(system), 0.5 * min(system.geometry.lengths)
    truncated = reach > half * _SLACK
    if truncated and not allowed:
        raise InputError(
            f"{where}: key 'truncated_image': the cutoff {reach:.6g} exceeds half the box length {half:.6g}, so a "
            "particle would meet an image of its neighbour; use more particles or a lower density, or accept the "
            "nearest image alone with 'truncated_image: true'"
        )
    return truncated
