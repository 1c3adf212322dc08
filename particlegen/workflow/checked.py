"""The form of a run's JSON files, checked where they are read: a run folder may come from somebody else."""

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from particlegen.energy import LedgerEntry
from particlegen.settings import InputError
from particlegen.validation import parse_section

__all__ = ["checked_manifest", "checked_results", "is_entry"]

COUNTED, MEASURED = ("done", "total"), ("loss", "validation_loss", "seconds_left")
"""Fields of an event that are numbers; the measured ones may be null."""
LEDGER_FIELDS = {field.name for field in fields(LedgerEntry)}
OF_NAMES = (
    "isomers",
    "delta_free_energy",
    "free_energy",
    "observables",
    "generated",
    "reference",
    "reweighted",
    "system",
)
"""Parts that map names to values."""


class _Origin(BaseModel):
    """`start_from`: the run that this one goes on from."""

    folder: str
    generation: int = Field(ge=0, le=10**6)


class _Manifest(BaseModel):
    """What is relied on when a run is opened; more may stand there."""

    name: str
    relative_to: str
    citations: tuple[str, ...]
    engines: dict[str, str] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    start_from: _Origin | None = None


def checked_manifest(manifest: dict[str, Any], file: Path) -> dict[str, Any]:
    """The content of `manifest.json`, if the keys that are relied on are there.

    Raises:
        InputError: names the key.
    """
    parse_section(_Manifest, manifest, str(file))
    return manifest


def checked_results(results: dict[str, Any], file: Path) -> dict[str, Any]:
    """The results, if they have the form that every reader of them relies on.

    That is: `status` with its verdict and reasons, the parts that map names, and every quantity a number or null.

    Raises:
        InputError: names the key.
    """
    status = results.get("status")
    reasons = status.get("reasons") if isinstance(status, dict) else None
    if not isinstance(status, dict) or not isinstance(status.get("converged"), bool) or not _are_texts(reasons):
        raise InputError(f"{file}: key 'status' is missing or not as it was written; restore the file")
    for key in OF_NAMES:
        if key in results and not isinstance(results[key], dict):
            raise InputError(f"{file}: key {key!r} maps no names to values; restore the file")
    for key in ("isomers", "delta_free_energy"):
        for name, part in results.get(key, {}).items():
            if not isinstance(part, dict) or not isinstance(part.get("budget", {}), dict):
                raise InputError(f"{file}: key '{key}.{name}' is not as it was written; restore the file")
    waiting: list[tuple[str, Any]] = [("", results)]
    while waiting:
        key, part = waiting.pop()
        if not isinstance(part, dict):
            continue
        if "value" in part and not isinstance(part["value"], list):
            wrong = [name for name in ("value", "stderr") if part.get(name) is not None and not _is_number(part[name])]
            wrong += [name for name in ("unit", "method") if not isinstance(part.get(name, ""), str)]
            if wrong:
                raise InputError(f"{file}: key '{key[1:]}.{wrong[0]}' is not as it was written; restore the file")
        waiting += [(f"{key}.{name}", inner) for name, inner in part.items()]
    return results


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def is_entry(entry: Mapping[str, Any]) -> bool:
    """Whether a line of the journal has the form that `Journal.write` gives it."""
    fields, spent = entry.get("fields"), entry.get("spent", {})
    return (
        all(isinstance(entry.get(key), str) for key in ("kind", "stage", "message"))
        and isinstance(fields, dict)
        and all(_is_number(fields[key]) for key in COUNTED if key in fields)
        and all(_is_number(fields[key]) for key in MEASURED if fields.get(key) is not None)
        and isinstance(spent, dict)
        and _is_number(spent.get("seconds", 0.0))
        and isinstance(spent.get("engines", {}), dict)
        and all(_is_ledger_entry(counts) for counts in spent.get("engines", {}).values())
    )


def _is_ledger_entry(counts: Any) -> bool:
    return isinstance(counts, dict) and set(counts) <= LEDGER_FIELDS and all(map(_is_number, counts.values()))


def _is_number(value: Any) -> bool:
    """Finite and no truth value; integers beyond the floats are none."""
    try:
        return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False
