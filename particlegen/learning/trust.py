"""Where to trust learned potentials: nowhere that their own deviation is large."""

import math
from collections.abc import Mapping

from jaxtyping import Int64
from torch import Tensor

from particlegen.energy import UncertainPotential
from particlegen.geometry import Positions
from particlegen.isomers import Basins

__all__ = ["TrustRegion"]


class TrustRegion:
    """The basins, less what a learned potential knows too little of: an indicator for `IsomerTarget`.

    Far from its labels a potential says anything, false minima among it. What is cut off is part of the law that is
    sampled, by the learned potential and by the engine alike; that it holds next to no weight is told by the deviations
    of the states in production (`surrogate_deviation` of a run's results), far below the limit.

    Args:
        basins: isomers by geometry.
        potentials: by index of the isomer; basins without one are trusted as a whole.
        limit: largest predicted standard deviation of the energy, in the unit of energy.

    Raises:
        ValueError: a limit that is not positive.
    """

    def __init__(self, basins: Basins, potentials: Mapping[int, UncertainPotential], limit: float):
        if not (limit > 0 and math.isfinite(limit)):
            raise ValueError(f"the limit of the deviation has to be positive and finite, found {limit}")
        self._basins, self._potentials, self._limit = basins, dict(potentials), limit

    def __call__(self, x: Positions) -> Int64[Tensor, " batch"]:
        """Index of the isomer in whose trusted part each configuration lies, -1 for none."""
        labels = self._basins.assign(x)
        for index, potential in self._potentials.items():
            rows = (labels == index).nonzero()[:, 0]
            if len(rows):
                known = potential.deviation(x[rows]).cpu() <= self._limit
                labels[rows[~known]] = -1
        return labels
