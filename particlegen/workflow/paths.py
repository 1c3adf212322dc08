"""What a workflow names outside of itself: cards and runs by path, and how far such a path may lead.

A path that stands in a file is relative to that file's folder and stays inside it, symbolic links followed. A path that
a person gives (`--set` on the command line, `set=` or a mapping in Python) may lead anywhere; it is kept as an absolute
one. A run folder pins the cards that were named by path: their SHA-256 stand in its manifest. So a run that is opened,
whoever made it, reads nothing outside of its folder but files whose content its maker already knew.
"""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from particlegen.io.reading import Damaged, read_bytes, stays_inside
from particlegen.settings import InputError

__all__ = ["CARDS", "RUNS", "check_inputs", "input_digests", "settled"]

CARDS = (
    "system.card",
    "system.potential",
    "energy.engine",
    "training.pretrained",
    "training.start_from",
    "learned.baseline",
    "check.engine",
)
"""Keys of workflows that name a card, by path where they end in `.yaml`."""

RUNS = ("start_from",)
"""Keys that name a run folder, always by path; what is taken from there is pinned by `start_from` of the manifest."""

LARGEST_CARD = 1_000_000


def settled(data: dict[str, Any], given: Collection[str] | None, folder: Path, source: str) -> dict[str, Any]:
    """A parsed workflow whose paths are known to be allowed.

    Args:
        data: the workflow, as parsed; not changed.
        given: dotted keys that a person gave, whole sections among them; None for all.
        folder: that relative paths start from.
        source: the file, for errors.

    Raises:
        InputError: a path of the file itself is absolute or leads out of its folder.
    """
    for key, path in _paths(data).items():
        if stays_inside(folder, path):
            continue
        if given is not None and not any(key == each or key.startswith(f"{each}.") for each in given):
            raise InputError(
                f"{source}: key {key!r}: {path!r} leads outside: a file names others by a path relative to it, inside "
                f"the same folder; what lies elsewhere is for the command line: --set {key}={path}"
            )
        data = _replaced(data, key.split("."), _absolute(folder, path, key))
    return data


def input_digests(workflow: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """SHA-256 of the cards that a checked workflow names by path, by key."""
    cards = {key: path for key, path in _paths(workflow).items() if key in CARDS}
    return {key: _digest(folder / path) or "" for key, path in cards.items()}


def check_inputs(workflow: Mapping[str, Any], folder: Path, pinned: Mapping[str, str], source: Path) -> None:
    """Whether the cards that a run names by path are those that it began with; one that is gone is left to its reader.

    Args:
        workflow: of the run.
        folder: that its paths are relative to, by its manifest.
        pinned: `inputs` of its manifest.
        source: the run folder, for errors.

    Raises:
        InputError: names key and file.
    """
    for key, path in _paths(workflow).items():
        found = _digest(folder / path) if key in CARDS else None
        if found is not None and found != pinned.get(key):
            raise InputError(
                f"key {key!r}: {folder / path}: changed, or is another file, since the run {source} began; restore it, "
                "or start anew"
            )


def _paths(workflow: Mapping[str, Any]) -> dict[str, str]:
    """By key, the paths that a workflow names."""
    found = {}
    for key in (*CARDS, *RUNS):
        here: Any = workflow
        for part in key.split("."):
            here = here.get(part) if isinstance(here, Mapping) else None
        if isinstance(here, str) and (key in RUNS or here.endswith((".yaml", ".yml"))):
            found[key] = here
    return found


def _replaced(data: Mapping[str, Any], key: list[str], value: str) -> dict[str, Any]:
    inner = value if len(key) == 1 else _replaced(data[key[0]], key[1:], value)
    return {**data, key[0]: inner}


def _absolute(folder: Path, path: str, key: str) -> str:
    try:
        return str((folder / path).resolve())
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"key {key!r}: {path!r} is no path ({error}); correct it") from None


def _digest(file: Path) -> str | None:
    try:
        return hashlib.sha256(read_bytes(file, LARGEST_CARD)).hexdigest()
    except Damaged:
        return None
