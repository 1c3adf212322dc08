"""The two unit systems, and the only place where one is converted into the other.

`lj`: reduced units, k_B = 1, lengths in σ, energies in ε. `metal`: eV, Å, K.
"""

from typing import Literal

__all__ = [
    "BOHR",
    "BOLTZMANN",
    "EXPORT_LENGTH",
    "HARTREE",
    "HBAR_SQUARED_PER_MASS",
    "OPENMM",
    "WAVENUMBER",
    "Units",
    "beta",
    "energy_unit",
    "frequency_unit",
    "length_unit",
]

Units = Literal["lj", "metal"]

BOLTZMANN: dict[str, float] = {"lj": 1.0, "metal": 8.617333262e-5}
"""Boltzmann's constant: 1 in reduced units, eV/K in metal units (CODATA 2018)."""

EXPORT_LENGTH: dict[tuple[str, str], float] = {
    ("lj", "angstrom"): 1.0,
    ("lj", "nanometre"): 0.1,
    ("metal", "angstrom"): 1.0,
    ("metal", "nanometre"): 0.1,
}
"""Factor from a unit system's length to that of an export format; one σ is drawn as 1 Å."""

OPENMM: dict[str, tuple[float, float]] = {"lj": (1.0, 1.0), "metal": (0.1, 96.48533212331002)}
"""Factors to OpenMM's nm and kJ/mol (CODATA 2018, exact); reduced units are taken over as they are."""


BOHR = 0.529177210903
"""Bohr radius in Å (CODATA 2018)."""

HARTREE = 27.211386245988
"""Hartree energy in eV (CODATA 2018)."""

HBAR_SQUARED_PER_MASS = 4.180159280496722e-3
"""ħ²/(1 u) in eV Å² (CODATA 2018): (ħω)² of a curvature in eV/Å² and a mass in u."""

WAVENUMBER: dict[str, float] = {"lj": 1.0, "metal": 3276.498286775872}
"""What a frequency of 1 √(energy/mass)/length is in `frequency_unit`: 1 in reduced units with masses of 1, and
√(eV/u)/(c Å) in cm⁻¹ with masses in u (CODATA 2018)."""


def beta(temperature: float, units: Units) -> float:
    """Inverse temperature 1/(k_B T), in 1/ε or 1/eV.

    >>> beta(0.5, "lj")
    2.0
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, found {temperature}")
    return 1.0 / (BOLTZMANN[units] * temperature)


def energy_unit(units: Units) -> str:
    return {"lj": "epsilon", "metal": "eV"}[units]


def length_unit(units: Units) -> str:
    return {"lj": "sigma", "metal": "angstrom"}[units]


def frequency_unit(units: Units) -> str:
    """Of vibrations: 1/τ with τ = σ √(m/ε), or wavenumbers."""
    return {"lj": "1/tau", "metal": "cm^-1"}[units]
