"""A number with its error bar, as it stands in results.json."""

import math
from dataclasses import dataclass

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """One estimated quantity.

    Args:
        value: the estimate.
        stderr: its standard error (one standard deviation); NaN where none can be given.
        unit: unit of both, e.g. `kT`, `epsilon`; empty for a pure number.
        method: how it was estimated, in words.

    >>> Estimate(1.5, 0.1, "kT", "jackknife").as_dict()
    {'value': 1.5, 'stderr': 0.1, 'unit': 'kT', 'method': 'jackknife'}
    """

    value: float
    stderr: float
    unit: str = ""
    method: str = ""

    def as_dict(self) -> dict[str, float | str | None]:
        """The same as a JSON object; a value or error that is not finite becomes null, since JSON has no NaN."""
        return {
            "value": self.value if math.isfinite(self.value) else None,
            "stderr": self.stderr if math.isfinite(self.stderr) else None,
            "unit": self.unit,
            "method": self.method,
        }

    def scaled(self, factor: float, unit: str) -> "Estimate":
        """The same in another unit, e.g. from kT to eV with factor = k_B T in eV."""
        return Estimate(self.value * factor, self.stderr * abs(factor), unit, self.method)

    def distance(self, truth: float, truth_stderr: float = 0.0) -> float:
        """|value − truth| in combined standard errors; infinite when neither has an error and they differ."""
        sigma = math.hypot(self.stderr, truth_stderr)
        gap = abs(self.value - truth)
        if sigma == 0:
            return 0.0 if gap == 0 else math.inf
        return gap / sigma
