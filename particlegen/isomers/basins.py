"""Which isomer a configuration belongs to: a geometric rule that is frozen before anything is sampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from particlegen.geometry import Positions

__all__ = ["Basins"]


@dataclass(frozen=True, eq=False)
class Basins:
    """The nearest reference structure by sorted distances.

    Two configurations are compared by the root mean square difference of their distances, sorted within each pair of
    species. That does not change under permutation of like particles, rotation, reflection and translation, and knows
    no potential, so that a learned potential and the engine it stands for share one rule.

    Args:
        references: `(isomer, N, 3)`, one structure each.
        species: of each particle.
        reach: a configuration farther than this from every reference belongs to no isomer; infinite if all do.
        others: how many references, the last ones, are not asked for: what is nearest to them belongs to no isomer.
        scales: factors on the distances when the nearest reference is looked for, one for each; above 1 makes a basin
            smaller, as a shallow one beside a deep one is. Default all 1. The reach is of the distance itself.

    Raises:
        ValueError: two references that cannot be told apart; scales of another number, or not positive.

    >>> line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> corner = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.5, 0.9, 0]])
    >>> Basins(torch.stack([line, corner]), (0, 0, 0), reach=0.5).assign(torch.stack([1.1 * corner, 9 * line]))
    tensor([ 1, -1])
    """

    references: Float[Tensor, "isomer N 3"]
    species: tuple[int, ...]
    reach: float = float("inf")
    others: int = 0
    scales: tuple[float, ...] = ()

    def __post_init__(self):
        if self.scales and (len(self.scales) != len(self.references) or min(self.scales) <= 0):
            raise ValueError(f"expected {len(self.references)} positive scales, found {self.scales}")
        apart = torch.cdist(self._known, self._known) + torch.diag(torch.full((len(self._known),), torch.inf))
        if (apart < 1e-3 * self._known.mean()).any():
            a, b = sorted(divmod(int(apart.argmin()), len(apart)))
            raise ValueError(f"structures {a} and {b} have the same sorted distances: they are one isomer")

    def assign(self, x: Positions) -> Int[Tensor, " batch"]:
        """Index of the isomer of each configuration, −1 for none."""
        distances = self.distances(x)
        isomer = self.scaled(distances).argmin(1)
        near = distances.gather(1, isomer[:, None])[:, 0] <= self.reach
        return torch.where(near & (isomer < len(self.references) - self.others), isomer, -1)

    def scaled(self, distances: Float[Tensor, "batch isomer"]) -> Float[Tensor, "batch isomer"]:
        """`distances` as they are compared with each other."""
        return distances * torch.tensor(self.scales or 1.0).to(distances)

    def distances(self, x: Positions) -> Float[Tensor, "batch isomer"]:
        """Root mean square difference of sorted distances to every reference, in the unit of length."""
        found = self._sorted(x)
        return (found[:, None] - self._known.to(found)).square().mean(2).sqrt()

    @cached_property
    def _known(self) -> Tensor:
        return self._sorted(self.references.detach().to("cpu", torch.float64))

    @cached_property
    def _groups(self) -> list[tuple[Tensor, Tensor]]:
        """Pairs of particles by their species."""
        groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for i in range(len(self.species)):
            for j in range(i):
                a, b = sorted((self.species[i], self.species[j]))
                groups.setdefault((a, b), []).append((i, j))
        columns: Sequence[Tensor] = [torch.tensor(groups[key]).T for key in sorted(groups)]
        return [(first, second) for first, second in columns]

    def _sorted(self, x: Tensor) -> Tensor:
        pieces = [(x[:, first] - x[:, second]).norm(dim=2).sort(1).values for first, second in self._groups]
        return torch.cat(pieces, 1)
