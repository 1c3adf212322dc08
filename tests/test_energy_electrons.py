"""Electrons of a system and the multiplicities that they can have; the engines that count them say the same words."""

import pytest

from particlegen.energy.electrons import electrons_and_unpaired, nuclear_charges
from particlegen.geometry import FreeSpace
from particlegen.settings import InputError
from particlegen.system import ParticleSystem

# What every engine refuses: symbols, charge, multiplicity, and what it says.
REFUSED = [
    (["H"], 0, 1, "multiplicity 1: the 1 electrons of system 'molecule' at charge 0 can have 2; give one of these"),
    (["H", "H"], 0, 5, "multiplicity 5: the 2 electrons of system 'molecule' at charge 0 can have 1, 3; give one"),
    (["Li", "H"], 1, 3, "multiplicity 3: the 3 electrons of system 'molecule' at charge 1 can have 2, 4; give one"),
    (["Ag", "Ag"], 0, 2, "the 94 electrons of system 'molecule' at charge 0 can have 1, 3, ..., 95; give one of these"),
    (["Li", "H"], 4, None, "charge 4: system 'molecule' would have 0 electrons; give a charge below 4"),
    (["Li", "X1"], 0, None, "system 'molecule': no chemical symbols: X1; name its species by their elements"),
    (["Li", "X"], 0, None, "system 'molecule': no chemical symbols: X; name its species by their elements"),
]


def molecule(symbols, name="molecule"):
    names = tuple(dict.fromkeys(symbols))
    return ParticleSystem(name, FreeSpace(3), tuple(names.index(s) for s in symbols), names, units="metal")


@pytest.mark.parametrize(
    ("symbols", "charge", "multiplicity", "expected"),
    [
        (["H"], 0, None, (1, 1)),
        (["H"], -1, None, (2, 0)),
        (["O", "O"], 0, 3, (16, 2)),
        (["Ag"] * 3, 0, None, (141, 1)),
        (["H"], 0, 2, (1, 1)),
        (["N"], 0, 8, (7, 7)),
    ],
)
def test_electrons_are_counted(symbols, charge, multiplicity, expected):
    assert electrons_and_unpaired(molecule(symbols), charge, multiplicity) == expected


@pytest.mark.parametrize(("symbols", "charge", "multiplicity", "message"), REFUSED)
def test_what_electrons_cannot_have_is_refused(symbols, charge, multiplicity, message):
    with pytest.raises(InputError) as error:
        electrons_and_unpaired(molecule(symbols), charge, multiplicity)
    assert message in str(error.value)


@pytest.mark.parametrize("multiplicity", [0, -1])
def test_a_multiplicity_is_positive(multiplicity):
    with pytest.raises(InputError, match="can have 1, 3"):
        electrons_and_unpaired(molecule(["H", "H"]), 0, multiplicity)


def test_nuclear_charges_follow_the_particles():
    assert nuclear_charges(molecule(["O", "H", "H"])) == (8, 1, 1)
