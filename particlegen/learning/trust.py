"""Where to trust a learned potential: nowhere that its own deviation is large."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from particlegen.energy import EnergyResult, UncertainPotential
from particlegen.energy.provider import Wrapper
from particlegen.geometry import Positions

__all__ = ["Trusted"]


class Trusted(Wrapper):
    """A learned potential that has no energy where it does not know: beyond a limit of its deviation an item fails.

    Samplers reject what fails, so that a chain stays where the potential is known; what it samples is the Boltzmann
    law within that region. The others' answers are the potential's own.

    Args:
        potential: with a `deviation`.
        limit: largest standard deviation of the energy, in the unit of energy.

    Raises:
        ValueError: a limit that is not positive.
    """

    def __init__(self, potential: UncertainPotential, limit: float):
        if not (limit > 0 and math.isfinite(limit)):
            raise ValueError(f"the limit of the deviation has to be positive and finite, found {limit}")
        super().__init__(potential)
        self._potential, self.limit = potential, limit

    @property
    def differentiable(self) -> bool:
        return self._potential.differentiable

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the potential, and the limit."""
        return {"engine": "trusted", "limit": self.limit, "potential": dict(super().settings)}

    def contains(self, positions: Positions) -> Bool[Tensor, " batch"]:
        """Which configurations are trusted; not those without a finite energy."""
        return self._potential.deviation(positions) <= self.limit

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        """As the potential's, failed where the deviation is beyond the limit."""
        found = self._potential.evaluate(positions, want)
        beyond = found.energy.isfinite() & ~self.contains(positions)

        def known(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.masked_fill(beyond.view(-1, *(1,) * (values.ndim - 1)), math.nan)

        said = f"the potential's deviation is above {self.limit:g}"
        reasons = zip(beyond.tolist(), found.reasons, strict=True)
        return replace(
            found,
            energy=found.energy.masked_fill(beyond, math.nan),
            forces=known(found.forces),
            virial=known(found.virial),
            ok=found.ok & ~beyond,
            reasons=tuple(said if new else reason for new, reason in reasons),
        )
