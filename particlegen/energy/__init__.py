"""Energies: the provider contract, the torch pair engine, and cards bound into systems."""

from particlegen.energy.build import BuiltSystem, SystemSettings, build_system
from particlegen.energy.files import energy_of_file
from particlegen.energy.formulas import PairPotential, even_power_energy
from particlegen.energy.pair import TorchPairEnergy
from particlegen.energy.provider import Counted, EnergyProvider, EnergyResult, Ledger

__all__ = [
    "BuiltSystem",
    "Counted",
    "EnergyProvider",
    "EnergyResult",
    "Ledger",
    "PairPotential",
    "SystemSettings",
    "TorchPairEnergy",
    "build_system",
    "energy_of_file",
    "even_power_energy",
]
