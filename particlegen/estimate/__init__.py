"""Weights, free energies, convergence and observables: pure functions of numpy arrays."""

from particlegen.estimate.convergence import (
    effective_sample_size,
    mean_with_correlation,
    split_r_hat,
    statistical_inefficiency,
)
from particlegen.estimate.result import Estimate

__all__ = [
    "Estimate",
    "effective_sample_size",
    "mean_with_correlation",
    "split_r_hat",
    "statistical_inefficiency",
]
