"""Reference sampling, equilibration, absolute free energies; kernels for chains of isomers."""

from particlegen.sampling.blocks import FrameBlock
from particlegen.sampling.composite import Cycle, RandomScan
from particlegen.sampling.delayed import DelayedAcceptance, DelayedState
from particlegen.sampling.equilibration import Equilibration, diagnose, energies_by_chain
from particlegen.sampling.free_energy import free_energy_by_integration, free_energy_by_tempering
from particlegen.sampling.hamiltonian import sample_hamiltonian
from particlegen.sampling.independence import ISIR, FlowIndependence, LabelledFlows
from particlegen.sampling.kernel import Info, Kernel, State
from particlegen.sampling.local import HamiltonianMonteCarlo, tuned
from particlegen.sampling.reference import sample_reference
from particlegen.sampling.settings import ReferenceSettings
from particlegen.sampling.target import IsomerTarget

__all__ = [
    "ISIR",
    "Cycle",
    "DelayedAcceptance",
    "DelayedState",
    "Equilibration",
    "FlowIndependence",
    "FrameBlock",
    "HamiltonianMonteCarlo",
    "Info",
    "IsomerTarget",
    "Kernel",
    "LabelledFlows",
    "RandomScan",
    "ReferenceSettings",
    "State",
    "diagnose",
    "energies_by_chain",
    "free_energy_by_integration",
    "free_energy_by_tempering",
    "sample_hamiltonian",
    "sample_reference",
    "tuned",
]
