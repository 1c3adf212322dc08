"""From a surrogate's free energy to that of the exact engine, in kT.

delta = β(U_exact − U_surrogate), `(sample,)`. A constant in delta moves the free energy by itself, so energies may
refer to any zero.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from particlegen.estimate.free_energy import FreeEnergyResult
from particlegen.estimate.isomers import ReweightedFreeEnergy, flow_bar, flow_free_energy
from particlegen.estimate.result import Estimate

__all__ = ["SurrogateCorrection", "agree", "one_sided", "two_sided"]

Samples = Float[np.ndarray, " sample"]
Chains = Float[np.ndarray, "chain step"]


@dataclass(frozen=True)
class SurrogateCorrection:
    """F_exact − F_surrogate from surrogate configurations alone.

    Args:
        average: −ln⟨e^{−delta}⟩ with error, interval, ESS, Pareto k and warnings.
        cumulant: ⟨delta⟩ − var(delta)/2, exact where delta is Gaussian: a check, and as good as `average` there.
    """

    average: ReweightedFreeEnergy
    cumulant: Estimate

    @property
    def estimate(self) -> Estimate:
        return self.average.estimate


def one_sided(delta: Samples) -> SurrogateCorrection:
    """F_exact − F_surrogate = −ln⟨e^{−delta}⟩ in kT over independent configurations of the surrogate's ensemble.

    Args:
        delta: β(U_exact − U_surrogate), `(sample,)`; +inf where the exact energy is. A failed calculation is neither
            and has no place here: leave it out and report it, since what fails may not be a random share.

    Returns:
        The exponential average, free of its bias var/(2n) to that order, with its diagnostics; and the cumulant,
        whose error is that of delta − (delta − ⟨delta⟩)²/2 (NaN where some delta is infinite).

    Raises:
        ValueError: NaN or −inf, fewer than 2, or nothing finite.

    Source: Zwanzig, J. Chem. Phys. 22, 1420 (1954), equations 10 and 17.
    """
    delta = np.asarray(delta, np.float64)
    average = flow_free_energy(-delta)
    method = f"second-order cumulant of {delta.size} energy differences"
    if not np.isfinite(delta).all():
        return SurrogateCorrection(average, Estimate(math.nan, math.nan, "kT", method))
    centred = delta - delta.mean()
    variance = float(np.var(delta, ddof=1))
    stderr = float(np.std(centred - centred**2 / 2, ddof=1)) / math.sqrt(delta.size)
    return SurrogateCorrection(average, Estimate(float(delta.mean()) - variance / 2, stderr, "kT", method))


def two_sided(delta_surrogate: Samples, delta_exact: Chains | Samples) -> FreeEnergyResult:
    """F_exact − F_surrogate in kT by BAR, where delayed acceptance gives configurations of the exact ensemble too.

    Args:
        delta_surrogate: at independent configurations of the surrogate's ensemble, `(sample,)`.
        delta_exact: at states of chains of the exact ensemble, `(chain, step)` or `(step,)`; correlated.

    Returns, raises: as `flow_bar`, of which this is the case w = e^{−delta}.
    """
    return flow_bar(-np.asarray(delta_surrogate, np.float64), -np.asarray(delta_exact, np.float64))


def agree(a: Estimate, b: Estimate) -> float:
    """|a − b| in combined standard errors, for independent estimates of one quantity.

    Estimates that share samples (one-sided and two-sided of the same run) agree better than this says.

    Raises:
        ValueError: different units.
    """
    if a.unit != b.unit:
        raise ValueError(f"cannot compare {a.unit!r} with {b.unit!r}; convert one with Estimate.scaled")
    return a.distance(b.value, b.stderr)
