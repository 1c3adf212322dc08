"""Reference sampling: compiled Monte Carlo, Hamiltonian Monte Carlo, equilibration, absolute free energies."""

from particlegen.sampling.blocks import FrameBlock
from particlegen.sampling.equilibration import Equilibration, diagnose, energies_by_chain
from particlegen.sampling.free_energy import free_energy_by_integration, free_energy_by_tempering
from particlegen.sampling.hamiltonian import sample_hamiltonian
from particlegen.sampling.reference import sample_reference
from particlegen.sampling.settings import ReferenceSettings

__all__ = [
    "Equilibration",
    "FrameBlock",
    "ReferenceSettings",
    "diagnose",
    "energies_by_chain",
    "free_energy_by_integration",
    "free_energy_by_tempering",
    "sample_hamiltonian",
    "sample_reference",
]
