"""Counts and seconds as quantities of `results.json`."""

from typing import Any

from particlegen.estimate import Estimate
from particlegen.workflow.job import Job

__all__ = ["as_dicts", "count", "spent"]


def as_dicts(quantities: dict[str, Estimate]) -> dict[str, Any]:
    return {name: quantity.as_dict() for name, quantity in quantities.items()}


def count(value: float, unit: str = "") -> Estimate:
    return Estimate(float(value), 0.0, unit, "count")


def _seconds(value: float) -> Estimate:
    return Estimate(value, 0.0, "s", "wall clock")


def spent(job: Job) -> dict[str, Any]:
    """What this machine really did: seconds per stage, calls per provider, and the ledger behind them."""
    seconds, ledger = job.journal.spent()
    rows: dict[str, dict[str, Any]] = {}
    for (provider, stage), entry in ledger.entries.items():
        row = {
            "calls": count(entry.calls, "calls"),
            "cached": count(entry.cached, "calls"),
            "failures": count(entry.failures, "calls"),
            "seconds": _seconds(entry.seconds),
        }
        rows.setdefault(provider, {})[stage] = as_dicts(row)
    return {
        "seconds": as_dicts({stage: _seconds(value) for stage, value in seconds.items()}),
        "calls": as_dicts({name: count(ledger.total_calls(name), "calls") for name in rows}),
        "ledger": rows,
    }
