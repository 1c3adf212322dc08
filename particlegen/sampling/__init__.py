"""Reference sampling: compiled Monte Carlo chains, tempering, equilibration."""

from particlegen.sampling.equilibration import Equilibration, diagnose, energies_by_chain
from particlegen.sampling.reference import FrameBlock, sample_reference
from particlegen.sampling.settings import ReferenceSettings

__all__ = [
    "Equilibration",
    "FrameBlock",
    "ReferenceSettings",
    "diagnose",
    "energies_by_chain",
    "sample_reference",
]
