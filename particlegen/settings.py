"""The base of every YAML section, and the two errors that end a run."""

from pydantic import BaseModel, ConfigDict

__all__ = ["InputError", "RunError", "Section"]


class Section(BaseModel):
    """A section of a workflow or card: unknown keys, NaN and infinity are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputError(ValueError):
    """The user's input is wrong: the message names the key or file, what was found, what to do (exit code 2)."""


class RunError(RuntimeError):
    """An engine or the run failed, a full disk too (exit code 3)."""
