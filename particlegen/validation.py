"""Parsed YAML to sections: what is wrong with it in sentences that name the key, what was found, and what to do."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from particlegen.settings import InputError

__all__ = ["near_matches", "parse_section"]

SectionType = TypeVar("SectionType", bound=BaseModel)


def near_matches(name: str, available: list[str]) -> str:
    """A phrase for error messages: the close names, or all of them.

    >>> near_matches("ipl_binry_2d", ["ipl_binary_2d", "lj_bulk"])
    "did you mean 'ipl_binary_2d'?"
    """
    close = difflib.get_close_matches(name, available, n=3)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    return "expected one of " + ", ".join(sorted(available))


def parse_section(model: type[SectionType], data: Mapping[str, Any], source: str) -> SectionType:
    """`data` validated against a pydantic section.

    Raises:
        InputError: names `source` and, for every mistake, the key, what was found and what to do.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _explained(error, model, data, source) from None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every pydantic model that an annotation can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not None:
        for argument in get_args(annotation):
            yield from _models(argument)


def _keys_at(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The keys that are allowed beside the last element of a location."""
    models = [model]
    for step in location[:-1]:
        if not isinstance(step, str):
            continue
        deeper = [inner for m in models if step in m.model_fields for inner in _models(m.model_fields[step].annotation)]
        models = deeper or models
    return sorted({field.alias or name for m in models for name, field in m.model_fields.items()})


def _dotted(location: tuple[str | int, ...], data: Any) -> str:
    """`reference.frames` or `system.lengths[1]`; tags of unions, which are no keys of the file, are dropped."""
    text, here = "", data
    for position, step in enumerate(location):
        last = position == len(location) - 1
        if isinstance(step, int):
            text += f"[{step}]"
            here = here[step] if isinstance(here, list | tuple) and step < len(here) else None
        elif isinstance(here, Mapping) and (step in here or last):
            text += f".{step}" if text else step
            here = here.get(step)
    return text or ".".join(str(step) for step in location)


def _shown(value: Any) -> str:
    text = re.sub(r"\s+", " ", repr(value))
    return text if len(text) <= 80 else text[:77] + "..."


def _explained(error: ValidationError, model: type[BaseModel], data: Mapping[str, Any], source: str) -> InputError:
    """One line per mistake."""
    lines = []
    for item in error.errors(include_url=False):
        location, kind = item["loc"], item["type"]
        key = _dotted(location, data)
        if kind == "extra_forbidden":
            hint = near_matches(str(location[-1]), _keys_at(model, location))
            lines.append(f"unknown key {key!r}: {hint}")
        elif kind == "missing":
            lines.append(f"key {key!r} is missing: add it")
        else:
            wanted = item["msg"].removeprefix("Value error, ")
            wanted = wanted[0].lower() + wanted[1:]
            # What concerns several keys of the top says itself which.
            lines.append(f"key {key!r}: found {_shown(item['input'])}; {wanted}" if location else wanted)
    unique = list(dict.fromkeys(lines))
    if len(unique) == 1:
        return InputError(f"{source}: {unique[0]}")
    return InputError(f"{source}: {len(unique)} mistakes\n" + "\n".join(f"  - {line}" for line in unique))
