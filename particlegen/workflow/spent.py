"""Counts and seconds as quantities of `results.json`."""

from typing import Any

from particlegen.estimate import Estimate
from particlegen.workflow.job import Job

__all__ = ["as_dicts", "count", "spent", "with_calls"]


def as_dicts(quantities: dict[str, Estimate]) -> dict[str, Any]:
    return {name: quantity.as_dict() for name, quantity in quantities.items()}


def count(value: float, unit: str = "") -> Estimate:
    return Estimate(float(value), 0.0, unit, "count")


def with_calls(calls: dict[str, Any], more: dict[str, Estimate]) -> dict[str, Any]:
    """`energy_calls` with those of further stages; where an engine is in both, they are added."""
    added = {name: extra.value + calls.get(name, {"value": 0.0})["value"] for name, extra in more.items()}
    return calls | as_dicts({name: count(total, "calls") for name, total in added.items()})


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
