"""The base of every YAML section, and the two errors that end a run."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

__all__ = ["Cited", "InputError", "RunError", "Section"]


def _stays(text: str) -> str:
    path = Path(text)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("expected a path relative to the file that names it, inside the same folder, or a name")
    return text


Cited = Annotated[str, AfterValidator(_stays)]
"""A card or file as another card names it: never outside of that card's own folder."""


class Section(BaseModel):
    """A section of a workflow or card: unknown keys, NaN and infinity are errors, values are frozen.

    Numbers in quotes, truth values for numbers, numbers for truth values and integers of more than 64 bits are slips,
    and errors too.

    >>> class Width(Section):
    ...     width: int
    >>> Width(width=3.0).width
    3
    >>> Width(width="3")
    Traceback (most recent call last):
    ...
    pydantic_core._pydantic_core.ValidationError: 1 validation error for Width
    width
      Input should be a valid integer [type=int_type, input_value='3', input_type=_Slip]
        ...
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _as_it_looks(cls, data: Any) -> Any:
        """What pydantic would turn into a number or a truth value is hidden from it: it says what it expected."""
        if not isinstance(data, Mapping):
            return data
        fields = cls.model_fields
        return {
            key: _slips_hidden(value, _scalars(fields[key].annotation)) if key in fields else value
            for key, value in data.items()
        }


class _Slip:
    """A value that is none of the types that its place takes."""

    def __init__(self, value: Any):
        self._value = value

    def __repr__(self) -> str:
        return repr(self._value)


@cache
def _scalars(annotation: Any) -> frozenset[Any]:
    """The scalar types that a field takes, or the values within it; those of other sections are their own."""
    if get_origin(annotation) is Literal:
        return frozenset(type(value) for value in get_args(annotation))
    inner = get_args(annotation)[get_origin(annotation) is dict :]
    if not inner:
        return frozenset({each for each in (bool, int, float, str, Path, Any) if each is annotation})
    return frozenset[Any]().union(*(_scalars(each) for each in inner if isinstance(each, type) or get_args(each)))


def _slips_hidden(value: Any, kinds: frozenset[Any]) -> Any:
    if not kinds or Any in kinds:
        return value
    if isinstance(value, list | tuple):
        return [_slips_hidden(each, kinds) for each in value]
    if isinstance(value, dict):
        return {key: _slips_hidden(each, kinds) for key, each in value.items()}
    truth = isinstance(value, bool)
    wrong = truth if bool not in kinds else not truth and kinds == {bool} and value is not None
    wrong |= isinstance(value, str) and not kinds & {str, Path}
    wrong |= isinstance(value, int) and abs(value) >= 1 << 63
    return _Slip(value) if wrong else value


class InputError(ValueError):
    """The user's input is wrong: the message names the key or file, what was found, what to do (exit code 2)."""


class RunError(RuntimeError):
    """An engine or the run failed, a full disk too (exit code 3)."""
