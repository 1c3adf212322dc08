"""The error budget of a free-energy difference: statistics, surrogate, basins, label noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Int

from particlegen.estimate.isomers import NORMAL_95
from particlegen.estimate.result import Estimate

__all__ = ["ErrorBudget", "basin_term", "error_of"]


def error_of(*estimates: Estimate) -> Estimate:
    """A part of a budget: the root of the squares of the standard errors of independent estimates.

    Raises:
        ValueError: none given, or different units.
    """
    units = {one.unit for one in estimates}
    if len(units) != 1:
        raise ValueError(f"expected estimates in one unit, found {sorted(units)}; convert with Estimate.scaled")
    method = "; ".join(dict.fromkeys(one.method for one in estimates))
    return Estimate(math.hypot(*(one.stderr for one in estimates)), math.nan, units.pop(), method)


@dataclass(frozen=True)
class ErrorBudget:
    """What a free-energy difference may be wrong by, in one unit.

    Each part is an `Estimate` whose value is the size of that error as one standard deviation, zero or more; its
    stderr says how well the size is known and enters nowhere. NaN stands for a part that is not known, and makes the
    total NaN.

    Args:
        statistical: of sampling with the surrogate (flows, chains).
        surrogate: of the correction from the surrogate to the exact engine.
        basin: of where one isomer ends, see `basin_term`.
        scf: numerical noise of the exact engine's labels (grid, convergence).

    Raises:
        ValueError: different units, or a negative part.
    """

    statistical: Estimate
    surrogate: Estimate
    basin: Estimate
    scf: Estimate

    def __post_init__(self) -> None:
        if len({part.unit for part in self.parts.values()}) != 1:
            found = {name: part.unit for name, part in self.parts.items()}
            raise ValueError(f"the parts of a budget need one unit, found {found}; convert with Estimate.scaled")
        for name, part in self.parts.items():
            if part.value < 0:
                raise ValueError(f"budget part {name!r} is {part.value}; expected the size of an error, 0 or more")

    @property
    def parts(self) -> dict[str, Estimate]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def unit(self) -> str:
        return self.statistical.unit

    @property
    def total(self) -> float:
        """Root of the sum of the squares of the parts."""
        return math.hypot(*(part.value for part in self.parts.values()))

    @property
    def half_width(self) -> float:
        """Of the 95 % interval, 1.96 × total."""
        return NORMAL_95 * self.total

    def scaled(self, factor: float, unit: str) -> "ErrorBudget":
        """The same in another unit."""
        return ErrorBudget(**{name: part.scaled(factor, unit) for name, part in self.parts.items()})

    def as_dict(self) -> dict[str, Any]:
        """For results.json: each part with how it was made, and the half-width of the 95 % interval."""
        parts = {name: part.as_dict() for name, part in self.parts.items()}
        method = "1.96 x root of the sum of the squares of the parts"
        return parts | {"half_width": Estimate(self.half_width, math.nan, self.unit, method).as_dict()}


def _loss_and_gain(counts: np.ndarray, f: np.ndarray, i: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """l_i and G_i of `basin_term`, each with its binomial standard error."""
    rows = counts.sum(axis=1)
    n = float(rows[i])
    share = (n - counts[i, i] + 0.5) / (n + 1)
    loss = -math.log1p(-share), math.sqrt(share / ((1 - share) * (n + 1)))
    others = np.arange(f.size) != i
    shares, ratio = counts[others, i] / rows[others], np.exp(f[i] - f[others])
    total = float(shares @ ratio)
    stderr = math.sqrt(float(np.sum(ratio**2 * shares * (1 - shares) / rows[others]))) / (1 + total)
    return loss, max((math.log1p(total), stderr), loss)


def basin_term(
    audit: Int[np.ndarray, "isomer destination"],
    free_energies: Sequence[float],
    b: int,
    a: int,
    names: Sequence[str] | None = None,
) -> Estimate:
    """How far F_b − F_a would move, at most, if quenches and not the indicator said where an isomer ends; in kT.

    Let f_ij be the share of the configurations that the indicator gives to i and that quench to j, f_i = Σ_{j≠i} f_ij.
    With quenches, isomer i loses the share f_i of its integral Z_i = e^{−F_i} and gains Σ_{j≠i} f_ji Z_j: F_i shifts by

        −ln(1 − f_i + g_i),   g_i = Σ_{j≠i} f_ji Z_j/Z_i,   which lies between −ln(1 + g_i) and −ln(1 − f_i) = l_i.

    Configurations that the indicator gives to no isomer are in no audit, and rare visitors from a much more stable
    isomer are too few to count; a boundary that runs along the ridge errs as much to either side. So the gain is
    taken as G_i = max(ln(1 + g_i), l_i), and the bound is max(l_b + G_a, l_a + G_b).

    Args:
        audit: counts of quenched configurations, `(isomer, isomer + 1)`: row i of those with indicator i, column j
            of those that ended in j, the last column for any other minimum. Independent configurations of each
            isomer's ensemble; thin chains first.
        free_energies: F_i in kT by the indicator, `(isomer,)`, any common zero.
        b, a: indices of the two isomers.
        names: of the isomers, for the text; their indices where there are none.

    Returns:
        The bound, ready as the part `basin` of a budget, with its binomial standard error (the errors of loss and
        gain added, since both may come from the same quenches). A fraction is taken as (d + ½)/(n + 1) in losses, so
        that an audit without disagreement still leaves −ln(1 − ½/(n + 1)).

    Raises:
        ValueError: wrong shape, negative counts, an isomer without any quench; b, a not two isomers; F not finite.

    >>> few = basin_term(np.array([[100, 0, 0], [0, 100, 0]]), [0.0, 0.0], 1, 0)
    >>> round(few.value, 4)
    0.0099
    """
    counts, f = np.asarray(audit, np.int64), np.asarray(free_energies, np.float64)
    n = f.size
    if counts.shape != (n, n + 1) or (counts < 0).any() or not (counts.sum(axis=1) > 0).all():
        raise ValueError(
            f"an audit of {n} isomers needs ({n}, {n + 1}) counts with at least one quench of each, "
            f"found {counts.tolist()}"
        )
    if a == b or not {a, b} <= set(range(n)) or not np.isfinite(f).all():
        raise ValueError(f"expected two of {n} isomers with finite free energies, found {a}, {b} and {f.tolist()}")
    rows = counts.sum(axis=1)
    away = rows - np.diag(counts)
    (loss_a, gain_a), (loss_b, gain_b) = _loss_and_gain(counts, f, a), _loss_and_gain(counts, f, b)
    value, stderr = max((loss_b[0] + gain_a[0], loss_b[1] + gain_a[1]), (loss_a[0] + gain_b[0], loss_a[1] + gain_b[1]))
    first, second = (str(k) if names is None else names[k] for k in (a, b))
    method = (
        f"bound from quenches: {away[a]} of {rows[a]} configurations of isomer {first} and {away[b]} of {rows[b]} of "
        f"isomer {second} end elsewhere"
    )
    return Estimate(value, stderr, "kT", method)
