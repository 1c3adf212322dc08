"""Vibrational densities of states from trajectories: power spectra of mass-weighted velocities."""

import numpy as np
from jaxtyping import Float

from particlegen.estimate.observables import Curve
from particlegen.estimate.weights import normalised_weights

__all__ = ["HANN_RESOLUTION", "density_of_states", "velocity_spectra"]

HANN_RESOLUTION = 1.44
"""Full width at half maximum of a line in the power spectrum under Hann's window, in 1/duration (Harris 1978)."""


def velocity_spectra(
    velocities: Float[np.ndarray, "trajectory frame component"], interval: float
) -> tuple[Float[np.ndarray, " bin"], Float[np.ndarray, "trajectory bin"]]:
    """Power spectra of velocities under Hann's window, summed over components.

    By Wiener and Khinchin they are the Fourier transforms of the velocities' autocorrelation functions.

    Args:
        velocities: mass-weighted, an even number of frames.
        interval: time between frames.

    Returns:
        Frequencies from 0 to 1/(2 interval), and the density of the power over them: its sum over the bins times their
        width is the mean of v² under the window.

    Raises:
        ValueError: an odd number of frames, fewer than 4, or velocities that are not finite.

    Source: Harris, Proc. IEEE 66, 51 (1978), for the window; Dickey, Paskin, Phys. Rev. 188, 1407 (1969).
    """
    frames = velocities.shape[1]
    if frames < 4 or frames % 2 or not np.isfinite(velocities).all():
        raise ValueError(f"expected an even number of frames, 4 or more, all finite, found shape {velocities.shape}")
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(frames) / frames)
    amplitudes = np.fft.rfft(velocities * window[None, :, None], axis=1)
    power = np.square(np.abs(amplitudes)).sum(2) * interval / np.square(window).sum()
    power[:, 1:-1] *= 2.0  # negative frequencies
    return np.fft.rfftfreq(frames, interval), power


def density_of_states(
    frequency: Float[np.ndarray, " bin"],
    spectra: Float[np.ndarray, "trajectory bin"],
    log_w: Float[np.ndarray, " trajectory"],
    vibrations: int,
) -> Curve:
    """Weighted mean of the spectra, scaled to the number of vibrations, with its error from the spread of trajectories.

    Classical equipartition gives every vibration the same power, so that what is left is how many there are.

    Args:
        frequency: equally spaced.
        spectra: of independent trajectories, from `velocity_spectra`.
        log_w: log weights of the trajectories.
        vibrations: what the curve's sum times the width of a bin has to be, 3N − 6.

    Returns:
        The density over frequency; errors are those of a ratio of means, to first order.

    Raises:
        ValueError: fewer than 2 trajectories, or no weight.
    """
    w = normalised_weights(log_w)
    width = float(frequency[1] - frequency[0])
    power = float(w @ spectra.sum(1)) * width
    value = vibrations * (w @ spectra) / power
    residuals = w[:, None] * (vibrations * spectra - value * spectra.sum(1, keepdims=True) * width) / power
    stderr = np.sqrt(len(w) / (len(w) - 1) * np.square(residuals).sum(0))
    return Curve(frequency, value, stderr, "vibrational density of states", "frequency", "density of states")
