"""Electrons of molecules: how many, and which multiplicities they can have."""

from collections.abc import Mapping

from ase.data import atomic_numbers

from particlegen.settings import InputError
from particlegen.system import ParticleSystem

__all__ = ["electrons_and_unpaired", "nuclear_charges"]


def nuclear_charges(system: ParticleSystem, elements: Mapping[str, str] | None = None) -> tuple[int, ...]:
    """Nuclear charge of every particle, from species that are named by chemical symbols.

    Args:
        system: the particles.
        elements: chemical symbol of every species whose name is none.

    Raises:
        InputError: species that are no chemical elements.
    """
    symbols = [(elements or {}).get(name, name) for name in system.species_names]
    unknown = [symbol for symbol in symbols if atomic_numbers.get(symbol, 0) < 1]
    if unknown:
        raise InputError(
            f"system {system.name!r}: no chemical symbols: {', '.join(unknown)}; name its species by their elements, "
            "or state 'elements' where the engine takes them"
        )
    return tuple(int(atomic_numbers[symbols[s]]) for s in system.species)


def electrons_and_unpaired(system: ParticleSystem, charge: int, multiplicity: int | None) -> tuple[int, int]:
    """Number of electrons, those of cores included, and of unpaired ones, 2S.

    Args:
        system: species named by chemical symbols.
        charge: total, in elementary charges.
        multiplicity: 2S + 1; None for 1 with an even number of electrons and 2 with an odd one.

    Raises:
        InputError: no chemical symbols, no electron is left, or a multiplicity that the electrons cannot have.

    >>> from particlegen.geometry import FreeSpace
    >>> silver = ParticleSystem("Ag3", FreeSpace(3), (0, 0, 0), ("Ag",), units="metal")
    >>> electrons_and_unpaired(silver, charge=1, multiplicity=None)
    (140, 0)
    """
    protons = sum(nuclear_charges(system))
    electrons = protons - charge
    if electrons < 1:
        raise InputError(
            f"charge {charge}: system {system.name!r} would have {electrons} electrons; give a charge below {protons}"
        )
    possible = range(1 + electrons % 2, electrons + 2, 2)
    if multiplicity is None:
        multiplicity = possible[0]
    if multiplicity not in possible:
        listed = [str(value) for value in possible]
        shown = listed if len(listed) < 4 else [*listed[:2], "...", listed[-1]]
        raise InputError(
            f"multiplicity {multiplicity}: the {electrons} electrons of system {system.name!r} at charge {charge} can "
            f"have {', '.join(shown)}; give one of these, or another charge"
        )
    return electrons, multiplicity - 1
