"""Gaussian processes on inverse distances: features, the symmetry of a reference, covariances of energies and slopes.

Energies U = f(φ) with φ the inverse distances of all pairs, f a Gaussian process averaged over the symmetry of a
reference structure. Slopes are derivatives of U along orthonormal directions of the Cartesian coordinates: those that
change distances, in number 3N − 6 in three dimensions. Covariances with slopes as in Solak et al. 2003; the average
over permutations of like atoms as in Chmiela et al. 2018 (sGDML), here with energies and slopes together.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from particlegen.geometry import Positions
from particlegen.settings import InputError

__all__ = ["MOST_ORDERS", "Folding", "Points", "covariance", "inverse_distances", "matern", "own_covariance", "points"]

MOST_ORDERS = 40_320
"""Orders of like particles that are compared one by one: up to eight particles of one species."""
_ELEMENTS_AT_ONCE = 1 << 23
"""Numbers in the largest array of a chunk of covariances."""
_TINY = 1e-24
"""Added to squared distances, whose root has no slope at 0."""


def inverse_distances(x: Positions) -> Float[Tensor, "batch pair"]:
    """Reciprocal distances of all pairs (i, j), i > j, ordered by i, then j."""
    first, second = torch.tril_indices(x.shape[1], x.shape[1], -1, device=x.device)
    return (x[:, first] - x[:, second]).norm(dim=2).reciprocal()


class Folding:
    """Labelled copies of a structure brought onto one: like particles reordered so that distances come nearest.

    The measure is the squared difference of inverse distances, which knows neither rotations nor reflections.

    Args:
        reference: `(N, dim)` the structure.
        species: index of each particle.
        tolerance: two structures with distances closer than this, all of them, are alike.

    Raises:
        InputError: more orders of like particles than `MOST_ORDERS`, or a tolerance that tells copies apart no more.
    """

    def __init__(self, reference: Float[Tensor, "particle dim"], species: Sequence[int], tolerance: float):
        n, kinds = len(species), sorted(set(species))
        members = [[k for k, kind in enumerate(species) if kind == wanted] for wanted in kinds]
        orders = math.prod(math.factorial(len(alike)) for alike in members)
        if orders > MOST_ORDERS:
            raise InputError(
                f"kernel potential: {orders} orders of like particles, at most {MOST_ORDERS} (8!) are compared; use a "
                "network (kind: network) for so many"
            )
        places = torch.tensor([place for alike in members for place in alike]).argsort()
        sources = itertools.product(*map(itertools.permutations, members))
        permutations = torch.tensor([list(itertools.chain(*parts)) for parts in sources])[:, places]
        first, second = torch.tril_indices(n, n, -1)
        number = torch.zeros(n, n, dtype=torch.int64)
        number[first, second] = number[second, first] = torch.arange(len(first))
        self._pairs = number[permutations[:, first], permutations[:, second]]
        self.reference = inverse_distances(reference[None].to("cpu", torch.float64))[0]
        distances = self.reference.reciprocal()
        self.images = self._pairs[(distances[self._pairs] - distances).abs().amax(1) <= tolerance]
        group = {tuple(image) for image in self.images.tolist()}
        if any(tuple(one[two].tolist()) not in group for one in self.images for two in self.images):
            raise InputError(
                f"kernel potential: within a tolerance of {tolerance:g} the symmetry of the reference is no group; "
                "give another tolerance, or a reference closer to its minimum"
            )
        # Column c is the reference as a configuration in order c would have it, so that one product compares all.
        self._copies = torch.stack([self.reference[order.argsort()] for order in self._pairs], 1)

    def order(self, features: Float[Tensor, "batch pair"]) -> Int[Tensor, "batch pair"]:
        """For each configuration the order of its pairs that brings it nearest to the reference."""
        best = (features @ self._copies.to(features)).argmax(1)
        return self._pairs.to(features.device)[best]


@dataclass(frozen=True)
class Points:
    """Configurations as a kernel sees them.

    Args:
        features: `(point, pair)` folded inverse distances, less the reference's.
        slopes: `(point, pair, direction)` their derivatives along the directions.
        directions: `(point, coordinate, direction)` orthonormal; of the coordinates of the configuration as given.
    """

    features: Float[Tensor, "point pair"]
    slopes: Float[Tensor, "point pair direction"]
    directions: Float[Tensor, "point coordinate direction"]

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, which: Tensor | slice) -> "Points":
        return Points(self.features[which], self.slopes[which], self.directions[which])

    def split(self, size: int) -> "list[Points]":
        """In chunks of at most that many; one chunk of none where there are none."""
        return [self[start : start + size] for start in range(0, max(1, len(self)), size)]


def points(folding: Folding, x: Positions, slopes: bool = True) -> Points:
    """Folded features of configurations, and their slopes along the directions that change distances, if wanted."""
    n, dim = x.shape[1:]
    first, second = torch.tril_indices(n, n, -1, device=x.device)
    phi = inverse_distances(x)
    order = folding.order(phi)
    features = phi.gather(1, order) - folding.reference.to(phi)
    if not slopes:
        return Points(features, x.new_zeros(*phi.shape, 0), x.new_zeros(len(x), n * dim, 0))
    pull = (x[:, first] - x[:, second]) * phi[..., None] ** 3
    jacobian = x.new_zeros(len(x), phi.shape[1], n, dim)
    rows = torch.arange(phi.shape[1], device=x.device)
    jacobian[:, rows, first], jacobian[:, rows, second] = -pull, pull
    jacobian = jacobian.flatten(2)
    # All but translations and rotations; where distances have fewer slopes, as in a plane, the rest is 0.
    free = min(phi.shape[1], n * dim - dim * (dim + 1) // 2)
    directions = torch.linalg.svd(jacobian, full_matrices=False)[2][:, :free].mT
    steep = (jacobian @ directions).gather(1, order[..., None].expand(-1, -1, free))
    return Points(features, steep, directions)


def matern(q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """k = (1 + z + 2z²/5 + z³/15) e^−z with z = √(7 q) (Matérn, ν = 7/2), and its first two derivatives by q."""
    z = (7.0 * (q + _TINY)).sqrt()
    decay = (-z).exp()
    value = (1.0 + z + 0.4 * z * z + z * z * z / 15.0) * decay
    return value, -0.7 * (1.0 + z + z * z / 3.0) * decay, 49.0 / 60.0 * (1.0 + z) * decay


def covariance(
    a: Points, b: Points, images: Int[Tensor, "image pair"], length: float | Tensor
) -> Float[Tensor, "a row b column"]:
    """Covariances of energy (row 0) and slopes (the others) of configurations `a` with those of `b`, at unit variance.

    The average over the images of k(|φ_a − P φ_b|² / length²).
    """
    size = max(1, _ELEMENTS_AT_ONCE // max(1, len(b) * images.numel()))
    return torch.cat([_covariance(chunk, b, images, length) for chunk in a.split(size)])


def _covariance(a: Points, b: Points, images: Tensor, length: float | Tensor) -> Tensor:
    features, slopes = b.features[:, images], b.slopes[:, images]
    apart = a.features[:, None, None] - features
    value, first, second = matern(apart.square().sum(3) / length**2)
    first, second = -2.0 * first / length**2, -4.0 * second / length**4
    along_a = torch.einsum("abgp,apm->abgm", apart, a.slopes)
    along_b = torch.einsum("abgp,bgpn->abgn", apart, slopes)
    pulled = torch.einsum("abg,bgpn->abpn", first, slopes)
    mixed = (second[..., None] * along_a).mT @ along_b + torch.einsum("apm,abpn->abmn", a.slopes, pulled)
    with_energy = torch.cat([value[..., None], first[..., None] * along_b], 3).sum(2)[:, None]
    with_slopes = torch.cat([-(first[..., None] * along_a).sum(2)[..., None], mixed], 3).transpose(1, 2)
    return torch.cat([with_energy, with_slopes], 1) / len(images)


def own_covariance(
    a: Points, images: Int[Tensor, "image pair"], length: float | Tensor
) -> Float[Tensor, "a row column"]:
    """Covariances of energy and slopes of each configuration with its own."""

    def single(features: Tensor, slopes: Tensor, directions: Tensor) -> Tensor:
        one = Points(features[None], slopes[None], directions[None])
        return _covariance(one, one, images, length)[0, :, 0]

    return torch.vmap(single)(a.features, a.slopes, a.directions)
