"""The base of every YAML section, and the two errors that end a run."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

__all__ = ["Cited", "InputError", "RunError", "Section"]


def _stays(text: str) -> str:
    path = Path(text)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("expected a path relative to the file that names it, inside the same folder, or a name")
    return text


Cited = Annotated[str, AfterValidator(_stays)]
"""A card or file as another card names it: never outside of that card's own folder."""


class Section(BaseModel):
    """A section of a workflow or card: unknown keys, NaN and infinity are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputError(ValueError):
    """The user's input is wrong: the message names the key or file, what was found, what to do (exit code 2)."""


class RunError(RuntimeError):
    """An engine or the run failed, a full disk too (exit code 3)."""
