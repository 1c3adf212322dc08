"""Engines of a workflow, opened from their cards in this process or in workers."""

from pathlib import Path

from particlegen.energy import EnergyProvider, PairPotential, Recipe, open_engine
from particlegen.energy.engine_cards import engine_digest
from particlegen.settings import InputError
from particlegen.system import ParticleSystem

__all__ = ["engine_recipe"]


def _open(
    system: ParticleSystem, name: str, potential: PairPotential | None, relative_to: Path, digest: str
) -> EnergyProvider:
    """The engine of a card that is still what it was: a worker may open it long after the run began."""
    if engine_digest(name, relative_to) != digest:
        raise InputError(f"engine card {name!r} changed while the run went on; restore it")
    return open_engine(system, name, potential, relative_to)


def engine_recipe(system: ParticleSystem, name: str, potential: PairPotential | None, relative_to: Path) -> Recipe:
    """Equal for equal cards only, so a process that runs two workflows does not take the engine of an older card.

    Args:
        system: the particles.
        name: of the card, or its path.
        potential: pair potential of the system's own card, for engines that need one.
        relative_to: folder that a card's path is relative to.
    """
    return Recipe.of(_open, system, name, potential, relative_to, engine_digest(name, relative_to))
