"""Pair potentials as arithmetic, written once: torch evaluates it on tensors, numba compiles it on floats."""

from dataclasses import dataclass

import numpy as np

from particlegen.system import ParticleSystem

__all__ = ["PairPotential", "even_power_energy", "nonadditive_sigma"]


def even_power_energy(s2, epsilon, c12, c6, c0, c2, c4):
    """V(r) = ε [c12 s¹² + c6 s⁶ + c0 + c2 s⁻² + c4 s⁻⁴] with s² = (σ/r)²; the caller applies the cutoff.

    Covers the shifted inverse power law (c12 = 1), Lennard-Jones (4, −4) and both with the even polynomial that
    makes U, U', U'' vanish at the cutoff (Kob & Andersen 1994; Gutiérrez et al. 2015; Ninarello et al. 2017, eq. 1).
    """
    s6 = s2 * s2 * s2
    return epsilon * (s6 * (c12 * s6 + c6) + c0 + (c2 + c4 / s2) / s2)


def nonadditive_sigma(diameter_i, diameter_j, nonadditivity):
    """σ_ij = ½(σ_i + σ_j)(1 − η |σ_i − σ_j|) of polydisperse mixtures (Ninarello et al. 2017, eq. 2)."""
    return 0.5 * (diameter_i + diameter_j) * (1.0 - nonadditivity * abs(diameter_i - diameter_j))


@dataclass(frozen=True)
class PairPotential:
    """Parameters of `even_power_energy` for every pair of species.

    Args:
        name: the card's name.
        coefficients: (c12, c6, c0, c2, c4).
        sigma: `(species, species)` symmetric, in the unit of length; ignored for polydisperse systems.
        epsilon: `(species, species)` symmetric, in the unit of energy.
        cutoff: in units of σ_ij; infinite for none. V = 0 at r >= cutoff σ_ij.
        nonadditivity: η of `nonadditive_sigma`; not None means that σ_ij comes from per-particle diameters.
    """

    name: str
    coefficients: tuple[float, float, float, float, float]
    sigma: tuple[tuple[float, ...], ...]
    epsilon: tuple[tuple[float, ...], ...]
    cutoff: float
    nonadditivity: float | None = None

    def pair_sigma(self, system: ParticleSystem) -> np.ndarray:
        """σ_ij for every pair of particles, `(particle, particle)` float64; O(N²) memory."""
        if self.nonadditivity is not None:
            d = np.asarray(system.diameters, dtype=float)
            return nonadditive_sigma(d[:, None], d[None, :], self.nonadditivity)
        species = np.asarray(system.species)
        return np.asarray(self.sigma)[species[:, None], species[None, :]]

    def pair_epsilon(self, system: ParticleSystem) -> np.ndarray:
        """ε_ij for every pair of particles, `(particle, particle)` float64; O(N²) memory."""
        species = np.asarray(system.species)
        return np.asarray(self.epsilon)[species[:, None], species[None, :]]

    def parameters_of_pairs(
        self, system: ParticleSystem, first: np.ndarray, second: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """σ_ij and ε_ij, each `(pair,)` float64, of the pairs (first[k], second[k]); no N² memory."""
        species = np.asarray(system.species)
        epsilon = np.asarray(self.epsilon, dtype=float)[species[first], species[second]]
        if self.nonadditivity is not None:
            d = np.asarray(system.diameters, dtype=float)
            return nonadditive_sigma(d[first], d[second], self.nonadditivity), epsilon
        return np.asarray(self.sigma, dtype=float)[species[first], species[second]], epsilon

    def largest_cutoff(self, system: ParticleSystem) -> float:
        """The largest cutoff radius among the pairs of species or diameters present, in the unit of length."""
        if self.nonadditivity is not None:
            return self.cutoff * max(system.diameters or (0.0,))
        present = sorted(set(system.species))
        return self.cutoff * max(self.sigma[a][b] for a in present for b in present)
