"""Is the reference ensemble equilibrated? Judged from the energies of independent chains."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from particlegen.estimate.convergence import mean_with_correlation, split_r_hat, statistical_inefficiency

__all__ = ["Equilibration", "diagnose", "energies_by_chain"]


@dataclass(frozen=True)
class Equilibration:
    """The verdict and what it rests on.

    Args:
        r_hat: rank-normalised split R̂ over the chains' energies; NaN where it is undefined.
        statistical_inefficiency: frames worth one independent frame.
        drift: mean energy of the second halves of the chains minus that of the first halves, and its `drift_stderr`.
        mean, stderr: energy, with the correlation of successive frames allowed for.
        equilibrated: no reason against it was found.
        reasons: one sentence per finding, each saying what to do.
    """

    r_hat: float
    statistical_inefficiency: float
    drift: float
    drift_stderr: float
    mean: float
    stderr: float
    equilibrated: bool
    reasons: tuple[str, ...]


def energies_by_chain(
    energies: Float[np.ndarray, " frame"], chain: np.ndarray
) -> Float[np.ndarray, "chain frame_of_chain"]:
    """Energies of consecutive blocks `(frame,)` as `(chain, frame)`, in the order recorded.

    Raises:
        ValueError: the chains have different numbers of frames.
    """
    labels, counts = np.unique(chain, return_counts=True)
    if len(set(counts.tolist())) > 1:
        raise ValueError(f"chains of equal length expected, found {sorted(set(counts.tolist()))} frames")
    return np.stack([energies[chain == label] for label in labels])


def diagnose(
    energies: Float[np.ndarray, "chain frame"],
    max_r_hat: float = 1.01,
    min_independent_frames: float = 100.0,
    drift_errors: float = 4.0,
) -> Equilibration:
    """Judge energies `(chain, frame)` recorded after equilibration.

    Not equilibrated when R̂ exceeds `max_r_hat`, when all chains together hold fewer than `min_independent_frames`
    independent frames (100 per Vehtari et al. 2021 for each of four chains is the stricter usage; below that R̂ itself
    is unreliable), or when the halves of the chains differ by more than `drift_errors` standard errors.

    Raises:
        ValueError: fewer than 8 frames per chain, or energies that are not finite.
    """
    energies = np.atleast_2d(np.asarray(energies, np.float64))
    frames = energies.shape[1]
    if frames < 8:
        raise ValueError(f"a diagnosis needs at least 8 frames per chain, found {frames}")
    r_hat = split_r_hat(energies)
    inefficiency = statistical_inefficiency(energies)
    mean = mean_with_correlation(energies)
    first = mean_with_correlation(energies[:, : frames // 2])
    second = mean_with_correlation(energies[:, -(frames // 2) :])
    drift, drift_stderr = second.value - first.value, math.hypot(first.stderr, second.stderr)

    longer = "raise reference.equilibration_sweeps or sweeps_between_frames, or try sampler: tempering or swap"
    reasons = []
    if r_hat > max_r_hat:
        reasons.append(f"the chains disagree: R-hat {r_hat:.4f} exceeds {max_r_hat}; {longer}")
    independent = energies.size / inefficiency
    if independent < min_independent_frames:
        reasons.append(
            f"only {independent:.0f} independent frames of {energies.size} (at least {min_independent_frames:g} are "
            f"needed); raise reference.frames or sweeps_between_frames"
        )
    if abs(drift) > drift_errors * drift_stderr:
        reasons.append(f"the energy drifts: {drift:+.4g} +- {drift_stderr:.2g} from first to second half; {longer}")
    return Equilibration(
        r_hat=r_hat,
        statistical_inefficiency=inefficiency,
        drift=drift,
        drift_stderr=drift_stderr,
        mean=mean.value,
        stderr=mean.stderr,
        equilibrated=not reasons,
        reasons=tuple(reasons),
    )
