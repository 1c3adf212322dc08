"""Weights, free energies, convergence and observables: pure functions of numpy arrays."""

from particlegen.estimate.budget import ErrorBudget, basin_term, error_of
from particlegen.estimate.convergence import (
    effective_sample_size,
    mean_with_correlation,
    split_r_hat,
    statistical_inefficiency,
)
from particlegen.estimate.free_energy import (
    FreeEnergies,
    FreeEnergyResult,
    bar,
    free_energy_excess,
    free_energy_total,
    mbar,
)
from particlegen.estimate.isomers import (
    LabelPopulations,
    ReweightedFreeEnergy,
    difference,
    flow_bar,
    flow_free_energy,
    label_populations,
    work_distributions,
)
from particlegen.estimate.observables import Curve, EnergyHistograms, energy_histogram, rdf, structure_factor
from particlegen.estimate.result import Estimate
from particlegen.estimate.spectra import absorption, broadened, complete_up_to
from particlegen.estimate.surrogate import SurrogateCorrection, agree, average_shift, one_sided, reweighted, two_sided
from particlegen.estimate.vibrations import HANN_RESOLUTION, density_of_states, velocity_spectra
from particlegen.estimate.weights import (
    bootstrap_stderr,
    discard_fraction,
    ess_per_sample,
    forward_ess,
    log_weights,
    normalised_weights,
    pareto_k,
    resample,
    reweighted_heat_capacity,
    reweighted_mean,
)

__all__ = [
    "HANN_RESOLUTION",
    "Curve",
    "EnergyHistograms",
    "ErrorBudget",
    "Estimate",
    "FreeEnergies",
    "FreeEnergyResult",
    "LabelPopulations",
    "ReweightedFreeEnergy",
    "SurrogateCorrection",
    "absorption",
    "agree",
    "average_shift",
    "bar",
    "basin_term",
    "bootstrap_stderr",
    "broadened",
    "complete_up_to",
    "density_of_states",
    "difference",
    "discard_fraction",
    "effective_sample_size",
    "energy_histogram",
    "error_of",
    "ess_per_sample",
    "flow_bar",
    "flow_free_energy",
    "forward_ess",
    "free_energy_excess",
    "free_energy_total",
    "label_populations",
    "log_weights",
    "mbar",
    "mean_with_correlation",
    "normalised_weights",
    "one_sided",
    "pareto_k",
    "rdf",
    "resample",
    "reweighted",
    "reweighted_heat_capacity",
    "reweighted_mean",
    "split_r_hat",
    "statistical_inefficiency",
    "structure_factor",
    "two_sided",
    "velocity_spectra",
    "work_distributions",
]
