"""Quantities of `results.json` and judgements of them, shared by the report and the command line."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Advice", "distance", "entry_of", "format_quantity", "quantity", "unit_of"]

Level = Literal["good", "fair", "poor"]


@dataclass(frozen=True)
class Advice:
    """A judgement of one number.

    Args:
        level: `good`, `fair` or `poor`.
        key: the quantity's dotted name in `results.json`.
        text: what it means and what to do.
    """

    level: Level
    key: str
    text: str


def entry_of(results: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """The quantity of a dotted key; None where it is absent, or its value is no number."""
    here: Any = results
    for part in key.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return None
        here = here[part]
    return here if isinstance(here, Mapping) and isinstance(here.get("value"), int | float) else None


def quantity(results: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    """(value, stderr) of a dotted key; NaN error where none is given, None where the quantity is absent.

    >>> quantity({"generated": {"pareto_k": {"value": 0.4, "stderr": None}}}, "generated.pareto_k")[0]
    0.4
    """
    entry = entry_of(results, key)
    if entry is None:
        return None
    stderr = entry.get("stderr")
    return float(entry["value"]), float("nan") if stderr is None else float(stderr)


def distance(results: Mapping[str, Any], one: str, other: str) -> float | None:
    """How far two quantities are apart, in their combined standard error; None where that cannot be told."""
    here, there = quantity(results, one), quantity(results, other)
    if here is None or there is None:
        return None
    sigma = math.hypot(here[1], there[1])
    return abs(here[0] - there[0]) / sigma if sigma > 0 else None


def unit_of(results: Mapping[str, Any], key: str) -> str:
    """Unit of a dotted key; empty for a pure number and where the quantity is absent."""
    return str((entry_of(results, key) or {}).get("unit", ""))


def format_quantity(value: float, stderr: float) -> str:
    """Value and error bar, rounded to two digits of the error.

    >>> format_quantity(0.333812, 0.00041)
    '0.33381 ± 0.00041'
    >>> format_quantity(2000.0, 0.0)
    '2,000'
    >>> format_quantity(math.nan, math.nan)
    'not known'
    """
    if not math.isfinite(value):
        return "not known"
    if not math.isfinite(stderr) or stderr <= 0:
        return f"{value:,.0f}" if value == round(value) and abs(value) >= 1 else f"{value:.4g}"
    digits = 1 - math.floor(math.log10(stderr))
    if digits > 0:
        return f"{value:.{digits}f} ± {stderr:.{digits}f}"
    if max(abs(value), stderr) > 1e15:  # beyond the digits of a float there is nothing to round
        return f"{value:.4g} ± {stderr:.2g}"
    return f"{round(value, digits):.0f} ± {round(stderr, digits):.0f}"
