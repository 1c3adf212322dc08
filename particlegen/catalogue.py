"""Names to parsed cards. `root` alone knows whether the catalogues lie in a checkout or in the installed package.

Cards are YAML mappings. They are read by a strict safe loader: duplicate keys, anchors, tags and oversized files are
refused with the file and the line, so that a card never means something else than what it shows.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from particlegen.io.reading import Damaged, inside, read_bytes
from particlegen.settings import InputError
from particlegen.validation import near_matches

__all__ = ["KINDS", "Card", "load", "names", "parse_value", "parse_yaml", "root"]

KINDS = ("systems", "potentials", "workflows")
"""The three catalogues."""

_MAX_BYTES = 1_000_000
_MAX_DEPTH = 40


@dataclass(frozen=True)
class Card:
    """One parsed card: its name, the file it came from and the mapping found there (not yet validated)."""

    name: str
    path: Path
    data: dict[str, Any]


_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}

# What no terminal shows as itself: C0 and C1 controls but for tab and line feed, halves of surrogate pairs.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader for what JSON has too: numbers, truth values, null, text, lists and mappings.

    Without tags, anchors, duplicate keys, merge keys, keys that are not text, control characters and unbounded nesting;
    dates are text.
    """

    depth = 0

    def compose_node(self, parent, index):
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.YAMLError(_at(event.start_mark, "anchors and aliases (& and *) are not accepted; write it out"))
        if getattr(event, "tag", None) is not None:
            text = f"the tag {event.tag[:40]!r} is not accepted; write the plain value"
            raise yaml.YAMLError(_at(event.start_mark, text))
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise yaml.YAMLError(_at(event.start_mark, f"nested deeper than {_MAX_DEPTH} levels"))
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node, deep=False):
        if node.tag not in _PLAIN:
            raise yaml.YAMLError(_at(node.start_mark, f"{node.value!r} has a meaning of its own in YAML; quote it"))
        try:
            found = super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.YAMLError(_at(node.start_mark, str(error))) from error
        if isinstance(found, str) and _UNSEEN.search(found):
            raise yaml.YAMLError(_at(node.start_mark, f"a text with control characters: {found[:40]!r}; remove them"))
        return found

    def construct_mapping(self, node, deep=False):
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.YAMLError(_at(key_node.start_mark, f"the key {key!r} is not text; put it in quotes"))
            if key in seen:
                raise yaml.YAMLError(_at(key_node.start_mark, f"the key {key!r} is given twice"))
            seen.add(key)
        return super().construct_mapping(node, deep=True)


# YAML 1.1 reads 1e-3 as text because it has no dot; everyone who types it means a number.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
    for first, known in _StrictLoader.yaml_implicit_resolvers.items()
}


def _at(mark: Any, problem: str) -> str:
    return f"line {mark.line + 1}: {problem}"


def root() -> Path:
    """The folder that holds `systems/`, `potentials/` and `workflows/`: installed package data, or the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "_data"
    return installed if (installed / "systems").is_dir() else package.parent


def names(kind: str) -> list[str]:
    """Sorted names of the cards of one catalogue.

    >>> "ipl_binary_2d" in names("systems")
    True
    """
    return sorted(path.stem for path in _folder(kind).glob("*.yaml"))


def load(kind: str, name_or_path: str, relative_to: Path | None = None) -> Card:
    """The card of that name; or, when the text ends in `.yaml`, the user's own card at that path.

    Args:
        kind: `systems`, `potentials` or `workflows`.
        name_or_path: a name from `names(kind)`, or a path.
        relative_to: folder of the file that cites the card, inside which a relative path has to stay; without it (a
            command line), the path is taken from the current directory. An absolute path is one that a person gave:
            schemas of files refuse it (`settings.Cited`, `workflow.paths`).

    Raises:
        InputError: unknown name (near matches are listed), missing file, or a path that leads outside.
    """
    folder = _folder(kind)
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        if relative_to is not None and not path.is_absolute():
            path = inside(Path(relative_to), path, "card")
        return Card(path.stem, path, parse_yaml(path))
    available = names(kind)
    if name_or_path not in available:
        raise InputError(
            f"unknown card {name_or_path!r} in {kind}: {near_matches(name_or_path, available)}. "
            "Your own card is cited by its relative path ending in .yaml"
        )
    path = folder / f"{name_or_path}.yaml"
    return Card(name_or_path, path, parse_yaml(path))


def parse_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, read by the strict safe loader.

    Raises:
        InputError: missing, larger than 1 MB, not UTF-8, not YAML, no mapping at the top, duplicate or non-text
            keys, anchors, tags; the message names the file and the line.
    """
    path = Path(path)
    try:
        raw = read_bytes(path, _MAX_BYTES)
    except Damaged as problem:
        raise InputError(f"{path}: cannot be read ({problem}); check the path") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(f"{path}: line {line}: not UTF-8 text; save the file as UTF-8") from error
    data = parse_value(text, str(path))
    if not isinstance(data, dict):
        raise InputError(f"{path}: line 1: expected a mapping of keys to values, found {type(data).__name__}")
    return data


def parse_value(text: str, source: str) -> Any:
    """What a YAML text means, read by the strict safe loader; errors begin with `source`.

    Raises:
        InputError: as `parse_yaml`.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a subclass of SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise InputError(
            f"{source}: line {line}: special characters are not allowed, found {chr(error.character)!r}; remove it"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise InputError(f"{source}: {where}not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{source}: {error}") from error


def _folder(kind: str) -> Path:
    if kind not in KINDS:
        raise ValueError(f"unknown catalogue {kind!r}: expected one of {', '.join(KINDS)}")
    return root() / kind
