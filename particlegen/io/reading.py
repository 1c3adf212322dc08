"""Files that somebody else may have written: how much of them is read, and what a path in them may name."""

import json
import stat
from pathlib import Path
from typing import Any

from particlegen.settings import InputError

__all__ = ["LARGEST_JSON", "Damaged", "inside", "json_object", "read_bytes", "stays_inside"]

LARGEST_JSON = 64 * 2**20
"""Bytes of a JSON file; the largest that this package writes have a few MB."""

DEEPEST_JSON = 100
"""Levels of a JSON value."""


class Damaged(Exception):
    """What is wrong with a file, in a few words; whoever knows what the file is for says the rest."""


def read_bytes(path: Path, largest: int) -> bytes:
    """The content of a regular file.

    Raises:
        Damaged: missing or not readable, no regular file (a device or a pipe may never end), or more than `largest`
            bytes; nothing is allocated then.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise Damaged("no regular file")
        if found.st_size > largest:
            raise Damaged(f"{found.st_size} bytes, more than the {largest} that are allowed")
        with path.open("rb") as file:
            # Not more than there is: a read of n bytes allocates n, however short the file.
            content = file.read(min(found.st_size, largest) + 1)
    except OSError as error:
        raise Damaged(error.strerror or str(error)) from None
    except ValueError as error:  # a name with a null character
        raise Damaged(str(error)) from None
    if len(content) > largest:
        raise Damaged(f"more than the {largest} bytes that are allowed")
    return content


def json_object(content: bytes | str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Damaged: no UTF-8, no JSON, nested deeper than 100 levels, or no object.
    """
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        raise Damaged("not JSON") from None
    if not isinstance(parsed, dict):
        raise Damaged("not a JSON object")
    if _deeper(parsed, DEEPEST_JSON):
        raise Damaged(f"nested deeper than {DEEPEST_JSON} levels")
    return parsed


def _deeper(value: Any, levels: int) -> bool:
    """Whether a value is nested deeper; level by level, so that depth costs no stack."""
    here = [value]
    for _ in range(levels):
        inner = [v for v in here if isinstance(v, dict | list)]
        here = [w for v in inner for w in (v.values() if isinstance(v, dict) else v)]
        if not here:
            return False
    return True


def stays_inside(folder: Path, path: str | Path) -> bool:
    """Whether a relative path, symbolic links followed, ends inside a folder."""
    try:
        return not Path(path).is_absolute() and (folder / path).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a loop of links, a null character, a name that is too long
        return False


def inside(folder: Path, path: str | Path, where: str) -> Path:
    """The file that another file names: `folder / path`.

    Args:
        folder: of the file that names it.
        path: as it stands there; relative, and inside that folder also when symbolic links are followed.
        where: file and key, which the error begins with.

    Raises:
        InputError: an absolute path, or one that leads outside.
    """
    if not stays_inside(folder, path):
        raise InputError(
            f"{where}: {str(path)!r} leads outside: a file names others by a path relative to it, inside the "
            "same folder"
        )
    return folder / path
