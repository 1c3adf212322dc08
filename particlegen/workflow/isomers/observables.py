"""Order parameters of states, and curves for results and report."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from particlegen.estimate import average_shift
from particlegen.workflow.isomers.states import IsomerStates, LabelledStates

__all__ = ["observable_curves", "order_parameters"]

NEIGHBOUR = 1.3
"""Two particles are neighbours up to about this many shortest distances of the minimum."""

BINS = 60

Frames = Float[np.ndarray, "frame N 3"]


def _distances(x: Frames) -> Float[np.ndarray, "frame pair"]:
    i, j = np.triu_indices(x.shape[1], 1)
    return np.linalg.norm(x[:, i] - x[:, j], axis=2)


def _gyration_radius(x: Frames) -> Float[np.ndarray, " frame"]:
    return np.sqrt(np.square(x - x.mean(1, keepdims=True)).sum(2).mean(1))


def order_parameters(x: Frames, reference: Float[np.ndarray, "N 3"]) -> dict[str, Float[np.ndarray, " frame"]]:
    """Gyration radius, and the mean coordination 2/N Σ_pairs 1/(1 + (r/r₀)¹²), r₀ = 1.3 shortest distances."""
    reach = NEIGHBOUR * float(_distances(reference[None]).min())
    contacts = 1.0 / (1.0 + (_distances(x) / reach) ** 12)
    return {
        "gyration_radius": _gyration_radius(x),
        "coordination": 2.0 * contacts.sum(1) / x.shape[1],
    }


def observable_curves(
    names: Sequence[str], states: Sequence[IsomerStates], labels: Sequence[LabelledStates | None]
) -> dict[str, Any]:
    """Densities of distances and of the gyration radius of each isomer in the engine's ensemble, with errors.

    Args:
        names: of the isomers.
        states: of each, from production.
        labels: what the engine labelled of them; None where it was sampled itself.
    """
    found: dict[str, Any] = {}
    for name, own, labelled in zip(names, states, labels, strict=True):
        chains, steps = own.energy.shape
        of_states = _observed(own.positions.reshape(chains * steps, -1, 3))
        of_labelled = {} if labelled is None else _observed(labelled.positions)
        found[name] = {
            key: _density(values.reshape(chains, -1), labelled and labelled.log_weight, of_labelled.get(key))
            for key, values in of_states.items()
        }
    return found


def _observed(x: Frames) -> dict[str, Float[np.ndarray, "frame value"]]:
    """What curves are drawn of."""
    return {"distances": _distances(x), "gyration_radius": _gyration_radius(x)[:, None]}


def _density(
    values: Float[np.ndarray, "chain value"],
    log_w: Float[np.ndarray, " state"] | None,
    labelled: Float[np.ndarray, "state own"] | None,
) -> dict[str, list[float]]:
    """Histogram as a density, its error from the spread between chains; shifted from a learned potential's ensemble to
    that of the engine by states that it labelled."""
    edges = np.linspace(values.min(), values.max() + 1e-12, BINS + 1)
    densities = _histograms(values, edges)
    density, variance = densities.mean(0), densities.var(0, ddof=1) / len(densities)
    if log_w is not None and labelled is not None:
        rows = _histograms(labelled, edges)
        shift, stderr = average_shift(log_w, rows, rows)
        density, variance = density + shift, variance + stderr**2
    return {
        "value": (0.5 * (edges[1:] + edges[:-1])).tolist(),
        "density": density.tolist(),
        "stderr": np.sqrt(variance).tolist(),
    }


def _histograms(values: Float[np.ndarray, "row value"], edges: Float[np.ndarray, " edge"]) -> np.ndarray:
    """Densities of the values of each row, `(row, bin)`."""
    counts = np.array([np.histogram(own, edges)[0] for own in values])
    return counts / (values.shape[1] * (edges[1] - edges[0]))
