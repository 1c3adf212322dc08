"""Order parameters of states, and curves for results and report."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from particlegen.workflow.isomers.job import IsomerJob
from particlegen.workflow.isomers.states import IsomerStates

__all__ = ["observable_curves", "order_parameters"]

NEIGHBOUR = 1.3
"""Two particles are neighbours up to about this many shortest distances of the minimum."""

BINS = 60

Frames = Float[np.ndarray, "frame N 3"]


def _distances(x: Frames) -> Float[np.ndarray, "frame pair"]:
    i, j = np.triu_indices(x.shape[1], 1)
    return np.linalg.norm(x[:, i] - x[:, j], axis=2)


def order_parameters(x: Frames, reference: Float[np.ndarray, "N 3"]) -> dict[str, Float[np.ndarray, " frame"]]:
    """Gyration radius, and the mean coordination 2/N Σ_pairs 1/(1 + (r/r₀)¹²), r₀ = 1.3 shortest distances."""
    centred = x - x.mean(1, keepdims=True)
    reach = NEIGHBOUR * float(_distances(reference[None]).min())
    contacts = 1.0 / (1.0 + (_distances(x) / reach) ** 12)
    return {
        "gyration_radius": np.sqrt(np.square(centred).sum(2).mean(1)),
        "coordination": 2.0 * contacts.sum(1) / x.shape[1],
    }


def observable_curves(job: IsomerJob, states: Sequence[IsomerStates]) -> dict[str, Any]:
    """Densities of distances and of the gyration radius of each isomer, with errors between chains."""
    found: dict[str, Any] = {}
    for isomer, minimum, own in zip(job.built.isomers, job.minima, states, strict=True):
        chains, steps = own.energy.shape
        x = own.positions.reshape(chains * steps, -1, 3)
        radius = order_parameters(x, minimum.frame.reference.numpy())["gyration_radius"]
        found[isomer.name] = {
            "distances": _density(_distances(x).reshape(chains, -1)),
            "gyration_radius": _density(radius.reshape(chains, -1)),
        }
    return found


def _density(values: Float[np.ndarray, "chain value"]) -> dict[str, list[float]]:
    """Histogram as a density, its error from the spread between chains."""
    edges = np.linspace(values.min(), values.max() + 1e-12, BINS + 1)
    width = edges[1] - edges[0]
    rows = [np.histogram(own, edges)[0] for own in values]
    densities = np.array([row / (row.sum() * width) for row in rows])
    stderr = densities.std(0, ddof=1) / np.sqrt(len(densities))
    return {
        "value": (0.5 * (edges[1:] + edges[:-1])).tolist(),
        "density": densities.mean(0).tolist(),
        "stderr": stderr.tolist(),
    }
