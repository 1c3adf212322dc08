"""The one acceptance rule of every move, kept apart so that it can be enumerated on small discrete systems."""

import math

from numba import njit

from particlegen.sampling.generator import uniform

__all__ = ["acceptance_probability", "accepts", "exchange_log_ratio", "move_log_ratio"]


@njit(cache=True, nogil=True)
def move_log_ratio(beta, energy_change):
    """log π(new)/π(old) of a move with a symmetric proposal: displacements, and swaps of two positions."""
    return -beta * energy_change


@njit(cache=True, nogil=True)
def exchange_log_ratio(beta_a, beta_b, energy_a, energy_b):
    """log of π_a(x_b) π_b(x_a) / [π_a(x_a) π_b(x_b)] of a temperature exchange (Hukushima & Nemoto 1996, eq. 7)."""
    return (beta_a - beta_b) * (energy_a - energy_b)


@njit(cache=True, nogil=True)
def acceptance_probability(log_ratio):
    """Metropolis' min(1, π'/π) (Metropolis et al. 1953); 0 for NaN, so that a failed energy is never accepted."""
    if log_ratio >= 0.0:
        return 1.0
    if math.isnan(log_ratio):
        return 0.0
    return math.exp(log_ratio)


@njit(cache=True, nogil=True)
def accepts(log_ratio, state):
    """Whether a move is accepted; draws one number from the stream `state` when the answer is not certain."""
    probability = acceptance_probability(log_ratio)
    return probability >= 1.0 or uniform(state) < probability
