"""Files that are either there in full or not at all: written aside, flushed to the disk, renamed."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from particlegen.settings import RunError

__all__ = ["NO_SPACE", "aside", "failures_named", "write_bytes", "write_text", "writing"]

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def failures_named(path: Path) -> Iterator[None]:
    """Turn the OSErrors of writing `path` into a RunError that names it and says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            text = f"no space left while writing {path}; free some space, what was finished is kept"
        else:
            text = f"{path}: cannot be written ({error.strerror or error}); check the folder and its permissions"
        raise RunError(text) from error


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def aside(path: Path) -> Path:
    """Where `writing` writes before the file gets its name: always the same, and with the same suffix."""
    return path.with_name(f".partial-{path.name}")


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """A file beside `path` to write to; it replaces `path` when the block ends, and is removed when the block fails.

    Its name is always the same and keeps the suffix, so a killed process leaves at most one, which the next
    attempt overwrites.

    Raises:
        RunError: the disk is full or the folder cannot be written to; `path` is as it was.
    """
    path = Path(path)
    beside = aside(path)
    with failures_named(path):
        try:
            # A link of that name, in a folder that came from elsewhere, would be followed to what it points at.
            beside.unlink(missing_ok=True)
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            beside.replace(path)
            _flush_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically. Raises RunError as `writing`."""
    with writing(path) as beside:
        beside.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write a UTF-8 text atomically. Raises RunError as `writing`.

    Names of files that the locale could not decode, of which Python makes surrogates, become the bytes that they were.
    """
    write_bytes(path, content.encode("utf-8", "surrogateescape"))
