"""Absorption spectra of ensembles from vertical excitations: the nuclear-ensemble approach."""

import math

import numpy as np
from jaxtyping import Float

from particlegen.estimate.observables import Curve
from particlegen.estimate.weights import normalised_weights

__all__ = ["absorption", "broadened", "complete_up_to"]

Excitations = Float[np.ndarray, "configuration state"]
LogWeights = Float[np.ndarray, " configuration"]
Grid = Float[np.ndarray, " point"]


def broadened(
    energies: Excitations, strengths: Excitations, grid: Grid, broadening: float
) -> Float[np.ndarray, "configuration point"]:
    """S(E) = Σ_k f_k g(E − E_k) of each configuration: oscillator strength per energy, g a normal density.

    Its integral is the sum of the strengths. Times 1.0976 Å² eV it is the absorption cross-section,
    π e² ħ / (2 ε₀ m_e c) S(E).

    Args:
        energies: E_k, finite.
        strengths: f_k.
        grid: E, in the unit of the energies.
        broadening: standard deviation of g, positive, in the same unit.

    >>> grid = np.linspace(0.0, 4.0, 401)
    >>> spectrum = broadened(np.array([[2.0]]), np.array([[0.5]]), grid, 0.1)
    >>> round(float(spectrum.sum() * 0.01), 6)
    0.5
    """
    z = (grid - energies[..., None]) / broadening
    return np.sum(strengths[..., None] * np.exp(-(z**2) / 2), axis=1) / (broadening * math.sqrt(2 * math.pi))


def absorption(
    energies: Excitations, strengths: Excitations, log_w: LogWeights, grid: Grid, broadening: float, label: str = ""
) -> Curve:
    """The mean spectrum under weights, with its standard error from configuration to configuration.

    Args:
        energies, strengths, grid, broadening: as `broadened`.
        log_w: log weights of independent configurations, up to a constant; zeros where all weigh alike.
        label: for a legend.

    Returns:
        Σ w S / Σ w, and the delta-method error sqrt(n/(n−1) Σ w̄² (S − mean)²), w̄ = w/Σw, at every point.

    Raises:
        ValueError: fewer than 2 configurations, or weights that are no numbers.

    Source: Crespo-Otero, Barbatti, Theor. Chem. Acc. 131, 1237 (2012); error: Owen, Monte Carlo theory, methods and
    examples (2013), equation 9.9.
    """
    w = normalised_weights(log_w)
    spectra = broadened(energies, strengths, grid, broadening)
    mean = w @ spectra
    stderr = np.sqrt(w.size / (w.size - 1) * (w**2 @ (spectra - mean) ** 2))
    return Curve(grid, mean, stderr, label, "energy (eV)", "oscillator strength (1/eV)")


def complete_up_to(energies: Excitations) -> float:
    """The energy below which no configuration has an excitation that was not asked for: the lowest of the highest."""
    return float(energies.max(axis=1).min())
