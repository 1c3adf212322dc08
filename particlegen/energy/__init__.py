"""Energies: the provider contract, the torch pair engine, and cards bound into systems."""

from particlegen.energy.algebra import LinearEnergy, lambda_derivative, lambda_path
from particlegen.energy.ase_engine import ASEEnergy, ProviderCalculator, ase_calculator
from particlegen.energy.build import BuiltSystem, SystemSettings, build_system
from particlegen.energy.cached import Cached
from particlegen.energy.canonical import CanonicalFrame, canonical_frame
from particlegen.energy.distributed import Distributed, Recipe
from particlegen.energy.engine_cards import open_engine
from particlegen.energy.files import energies_of_frames, energy_of_file
from particlegen.energy.fingerprint import Reproducible, geometry_hash, settings_hash
from particlegen.energy.formulas import PairPotential, even_power_energy
from particlegen.energy.kernel_potential import KernelModel, KernelPotential, KernelWeights
from particlegen.energy.kernel_training import KernelSettings, fit_kernel
from particlegen.energy.label import Label
from particlegen.energy.label_files import export_labels, import_labels
from particlegen.energy.label_sets import LabelSet
from particlegen.energy.labels import LabelStore, LabelSummary
from particlegen.energy.learned import Committee, LearnedModel, LearnedPotential
from particlegen.energy.learned_answer import Disagreement, UncertainPotential
from particlegen.energy.learned_card import KernelCard, LearnedCard, save_learned
from particlegen.energy.learned_training import (
    LearnedErrors,
    LearnedSettings,
    PotentialTraining,
    learned_errors,
    train_potential,
)
from particlegen.energy.openmm_engine import OpenMMEnergy
from particlegen.energy.pair import TorchPairEnergy
from particlegen.energy.provider import Counted, EnergyProvider, EnergyResult, Ledger, LedgerEntry
from particlegen.energy.pyscf_engine import Excitations, PySCFEnergy
from particlegen.energy.pyscf_restart import ReferenceDensity
from particlegen.energy.pyscf_scf import SCFSolution
from particlegen.energy.pyscf_settings import PySCFSettings, load_pyscf_settings
from particlegen.energy.pyscf_spectra import shared_excitations
from particlegen.energy.torchsim_engine import TorchSimEnergy, torchsim_model, torchsim_state
from particlegen.energy.xtb_engine import xtb_energy

__all__ = [
    "ASEEnergy",
    "BuiltSystem",
    "Cached",
    "CanonicalFrame",
    "Committee",
    "Counted",
    "Disagreement",
    "Distributed",
    "EnergyProvider",
    "EnergyResult",
    "Excitations",
    "KernelCard",
    "KernelModel",
    "KernelPotential",
    "KernelSettings",
    "KernelWeights",
    "Label",
    "LabelSet",
    "LabelStore",
    "LabelSummary",
    "LearnedCard",
    "LearnedErrors",
    "LearnedModel",
    "LearnedPotential",
    "LearnedSettings",
    "Ledger",
    "LedgerEntry",
    "LinearEnergy",
    "OpenMMEnergy",
    "PairPotential",
    "PotentialTraining",
    "ProviderCalculator",
    "PySCFEnergy",
    "PySCFSettings",
    "Recipe",
    "ReferenceDensity",
    "Reproducible",
    "SCFSolution",
    "SystemSettings",
    "TorchPairEnergy",
    "TorchSimEnergy",
    "UncertainPotential",
    "ase_calculator",
    "build_system",
    "canonical_frame",
    "energies_of_frames",
    "energy_of_file",
    "even_power_energy",
    "export_labels",
    "fit_kernel",
    "geometry_hash",
    "import_labels",
    "lambda_derivative",
    "lambda_path",
    "learned_errors",
    "load_pyscf_settings",
    "open_engine",
    "save_learned",
    "settings_hash",
    "shared_excitations",
    "torchsim_model",
    "torchsim_state",
    "train_potential",
    "xtb_energy",
]
