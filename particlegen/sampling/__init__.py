"""Reference sampling: compiled Monte Carlo chains, tempering, equilibration, absolute free energies."""

from particlegen.sampling.equilibration import Equilibration, diagnose, energies_by_chain
from particlegen.sampling.free_energy import free_energy_by_integration, free_energy_by_tempering
from particlegen.sampling.reference import FrameBlock, sample_reference
from particlegen.sampling.settings import ReferenceSettings

__all__ = [
    "Equilibration",
    "FrameBlock",
    "ReferenceSettings",
    "diagnose",
    "energies_by_chain",
    "free_energy_by_integration",
    "free_energy_by_tempering",
    "sample_reference",
]
