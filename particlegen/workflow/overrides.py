"""`--set key=value`: values that replace those of the workflow file."""

from collections.abc import Mapping
from typing import Any

from particlegen import catalogue
from particlegen.settings import InputError

__all__ = ["apply_overrides", "parse_override"]


def parse_override(text: str) -> tuple[str, Any]:
    """`a.b=value` split into the dotted key and the value read as YAML.

    >>> parse_override("training.learning_rate=1.0e-3")
    ('training.learning_rate', 0.001)

    Raises:
        InputError: no `=`, an empty key, or a value that is no YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {text!r}: expected key=value, for example --set training.minutes=10")
    return key.strip(), catalogue.parse_value(value, f"--set {key.strip()}")


def apply_overrides(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a parsed workflow with dotted keys replaced; whole sections may be given as mappings.

    >>> apply_overrides({"seed": 7, "training": {"minutes": 3}}, {"training.minutes": 1})
    {'seed': 7, 'training': {'minutes': 1}}

    Raises:
        InputError: a key leads through something that is not a section.
    """
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()}
    for dotted, value in overrides.items():
        *sections, last = dotted.split(".")
        here: dict[str, Any] = result
        for section in sections:
            inner = here.get(section)
            if inner is None:
                inner = {}
            if not isinstance(inner, Mapping):
                raise InputError(f"--set {dotted}: {section!r} is {inner!r}, not a section with keys of its own")
            here[section] = dict(inner)
            here = here[section]
        here[last] = value
    return result
