"""Energies of the structures in a file, under a cluster's card."""

from pathlib import Path
from typing import Any

from particlegen.energy import energies_of_frames, open_engine
from particlegen.energy.build import species_of_file
from particlegen.energy.provider import EnergyProvider
from particlegen.geometry import FreeSpace
from particlegen.io.structures import Structure
from particlegen.isomers.cards import check_free, load_cluster_card
from particlegen.system import ParticleSystem

__all__ = ["cluster_energy_of_file"]


def cluster_energy_of_file(
    name: str, path: Path | str, relative_to: Path | None = None, engine: str | None = None
) -> list[dict[str, Any]]:
    """Energy of every frame of a structure file by the card's engine; the particles come from the file.

    Args:
        name: of the cluster's card, or its path.
        path: structure file, see `iter_structures`.
        relative_to: folder that the paths of cards are relative to.
        engine: name or path of another engine card than the cluster's.

    Returns:
        As `particlegen.energy.energy_of_file`.

    Raises:
        InputError: the card or the file is wrong, or they do not fit each other.
    """
    raw, card = load_cluster_card(name, relative_to)

    def opened(first: Structure) -> EnergyProvider:
        where = f"system {name!r}"
        check_free(where, first)
        species = species_of_file(where, card.symbols, first)
        # as for other systems, the confining sphere belongs to what is sampled and not to a structure from elsewhere
        system = ParticleSystem(raw.name, FreeSpace(3), species, tuple(card.composition), units=card.units)
        if engine is None:
            return open_engine(system, card.engine, relative_to=raw.path.parent)
        return open_engine(system, engine, relative_to=relative_to)

    return energies_of_frames(opened, path)
