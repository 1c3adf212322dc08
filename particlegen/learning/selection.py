"""Which configurations to label next: those that are little known and count much, kept apart from each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from particlegen.energy import geometry_hash
from particlegen.geometry import Positions
from particlegen.system import ParticleSystem

__all__ = ["Descriptor", "LabelRequest", "requests_for", "select", "sorted_inverse_distances"]

Descriptor = Callable[[Positions], Float[Tensor, "batch feature"]]
"""Features whose Euclidean distance says how different two configurations are."""


@dataclass(frozen=True, eq=False)
class LabelRequest:
    """A configuration to be labelled.

    Args:
        id: hash of the geometry (`energy.geometry_hash`), the same in every process.
        isomer: whose label it will be.
        positions: `(N, dim)` float64.
    """

    id: str
    isomer: str
    positions: Float[Tensor, "particle dim"]


def requests_for(system: ParticleSystem, isomer: str, positions: Positions) -> list[LabelRequest]:
    """Requests for configurations, sorted by id; one for those that are the same."""
    found = {}
    for x in positions.detach().to("cpu", torch.float64):
        key = geometry_hash(system, x.numpy())
        found[key] = LabelRequest(key, isomer, x)
    return [found[key] for key in sorted(found)]


def sorted_inverse_distances(system: ParticleSystem) -> Descriptor:
    """Inverse distances, sorted within each pair of species: blind to the order of like particles and to rotations."""
    n = system.n_particles
    first, second = torch.tril_indices(n, n, -1)
    species = torch.tensor(system.species)
    low, high = torch.minimum(species[first], species[second]), torch.maximum(species[first], species[second])
    kinds = low * len(system.species_names) + high

    def descriptor(x: Positions) -> Float[Tensor, "batch feature"]:
        inverse = system.geometry.displacement(x[:, first], x[:, second]).norm(dim=2).reciprocal()
        return torch.cat([inverse[:, kinds == kind].sort(1).values for kind in kinds.unique()], 1)

    return descriptor


def select(
    candidates: Positions,
    uncertainty: Float[Tensor, " batch"],
    weights: Float[Tensor, " batch"],
    budget: int,
    descriptor: Descriptor,
    known: Float[Tensor, "label particle dim"] | None = None,
) -> Int[Tensor, " chosen"]:
    """Indices of a diverse batch of candidates that stands for what is uncertain and counts, in the order of taking.

    Each one lowers Σ_i uncertainty_i · weight_i · (distance of i to the nearest one taken) the most: greedy,
    deterministic, within 1 − 1/e of the best batch (facility location, Nemhauser et al. 1978). Farthest points would
    be outliers; this takes what many uncertain candidates are near. Ties go to the lower index.

    Args:
        candidates: configurations to choose from; memory grows with the square of their number.
        uncertainty: of what is to be learned, such as `UncertainPotential.deviation`; where it is not finite a
            candidate is left out.
        weights: what a candidate counts in the ensemble of interest, not negative; 0 leaves it out.
        budget: how many to take at most; fewer where the others are equal to one that is taken.
        descriptor: features whose distance keeps the batch apart.
        known: `(label, N, dim)` configurations that count as taken.

    Raises:
        ValueError: a negative budget or weight.
    """
    if budget < 0 or bool((weights < 0).any()):
        raise ValueError("a budget and weights that are not negative are needed")
    score = torch.where(uncertainty.isfinite(), uncertainty * weights, 0.0)
    allowed = score.nonzero()[:, 0]
    if not len(allowed):
        return allowed
    features, score = descriptor(candidates[allowed]), score[allowed]
    apart = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = torch.full_like(score, 1.0 + float(apart.max()))
    if known is not None and len(known):
        nearest = torch.cdist(features, descriptor(known)).amin(1)
    chosen: list[int] = []
    while len(chosen) < budget:
        gain = score @ (nearest[:, None] - apart).clamp_min(0.0)
        best = int(gain.argmax())
        if not gain[best] > 0 or not nearest[best] > 0:
            break
        chosen.append(best)
        nearest = torch.minimum(nearest, apart[best])
    return allowed[chosen]


def stacked(requests: Sequence[LabelRequest]) -> Positions:
    """The positions of requests as a batch; at least one request."""
    return torch.stack([request.positions for request in requests])
