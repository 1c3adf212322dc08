"""Tables of recorded benchmark results, as Markdown: whatever JSON lies in `benchmarks/results`."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["MARKER", "render_results"]

MARKER = "<!-- benchmark tables -->"
NOTHING = "No recorded results were found beside these pages: run the scripts in `benchmarks/`."
MOST_ROWS = 60
MOST_COLUMNS = 8
MOST_LEAVES = 40
"""Largest number of values per entry that entries are set beside each other for."""


def render_results(folder: Path) -> str:
    """A section per JSON file, by name: the numbers it holds, with errors and units where it states them."""
    sections = [_section(path) for path in sorted(folder.glob("*.json"))]
    return "\n\n".join(sections) if sections else NOTHING


def _section(path: Path) -> str:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"## {_cell(path.stem)}\n\n`{path.name}` is no JSON ({_cell(error)})."
    content = dict(content) if isinstance(content, Mapping) else {"results": content}
    parts = [f"## {_cell(content.pop('title', path.stem.replace('_', ' ')))}"]
    parts.append(f"From `benchmarks/results/{path.name}`. {_machine(content.pop('machine', None))}".strip())
    parts += [_cell(content.pop(key)) for key in ("description", "note") if key in content]
    return "\n\n".join([*parts, *_blocks(content, "")])


def _machine(about: Any) -> str:
    """The machine in one sentence."""
    if not isinstance(about, Mapping):
        return ""
    return f"Measured on: {'; '.join(f'{_cell(name)} {text}' for name, text in _leaves(about, ''))}."


def _blocks(content: Mapping[str, Any], name: str) -> Iterator[str]:
    """Tables of what a mapping holds: single values first, then its parts."""
    singles = {key: value for key, value in content.items() if _is_leaf(value)}
    if singles:
        yield _table(name, ["quantity", "value"], [[_code(key), _text(value)] for key, value in singles.items()])
    for key, value in content.items():
        inner = f"{name}.{key}" if name else key
        if key in singles:
            continue
        if isinstance(value, list):
            yield _beside({str(number): row for number, row in enumerate(value, 1)}, inner, numbered=True)
        elif _comparable(value):
            yield _beside(value, inner)
        else:
            yield from _blocks(value, inner)


def _is_quantity(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" in value and not isinstance(value["value"], Mapping | list)


def _is_leaf(value: Any) -> bool:
    if isinstance(value, list):
        return not value or not all(isinstance(row, Mapping) for row in value)
    return not isinstance(value, Mapping) or not value or _is_quantity(value)


def _comparable(parts: Mapping[str, Any]) -> bool:
    """Whether the parts of a mapping say the same things about several cases, so that they go into one table."""
    if len(parts) < 2 or any(_is_leaf(part) or isinstance(part, list) for part in parts.values()):
        return False
    keys = [set(part) for part in parts.values()]
    shared, every = set.intersection(*keys), set.union(*keys)
    return 2 * len(shared) >= len(every) and all(len(list(_leaves(p, ""))) <= MOST_LEAVES for p in parts.values())


def _beside(parts: Mapping[str, Any], name: str, numbered: bool = False) -> str:
    """One table of several cases: a row per case, or a column where there are few cases of many values."""
    cases = {case: dict(_leaves(part, "")) for case, part in parts.items()}
    keys = list(dict.fromkeys(key for values in cases.values() for key in values))
    if len(keys) > MOST_COLUMNS and len(cases) <= MOST_COLUMNS:
        rows = [[_code(key), *(values.get(key, "–") for values in cases.values())] for key in keys]
        return _table(name, ["quantity", *map(_cell, cases)], rows)
    rows = [[*([] if numbered else [_code(case)]), *(v.get(key, "–") for key in keys)] for case, v in cases.items()]
    return _table(name, [*([] if numbered else [""]), *map(_cell, keys)], rows)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every value below a key."""
    if isinstance(value, Mapping) and not _is_leaf(value):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else name)
    else:
        yield key, _text(value)


def _table(name: str, head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows[:MOST_ROWS]]]
    if len(rows) > MOST_ROWS:
        lines.append(f"\n… and {len(rows) - MOST_ROWS} more in the file.")
    return "\n".join([*([f"**{_cell(name)}**", ""] if name else []), *lines])


def _text(value: Any) -> str:
    """One cell; a quantity as value ± standard error and unit."""
    if _is_quantity(value):
        error = value.get("stderr")
        shown = _text(value["value"]) + (f" ± {error:.2g}" if isinstance(error, float) and error > 0 else "")
        return f"{shown} {_cell(value.get('unit') or '')}".strip()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}" if math.isfinite(value) else "–"
    if isinstance(value, list):
        return (", ".join(map(_text, value[:12])) + (", …" if len(value) > 12 else "")) or "–"
    if isinstance(value, Mapping):
        return "; ".join(f"{_cell(name)} {_text(inner)}" for name, inner in value.items()) or "–"
    return "–" if value is None else _cell(value)


def _code(text: Any) -> str:
    """Text as code within a cell."""
    return f"`{' '.join(str(text).split()).replace('`', '')}`".replace("|", "\\|")


def _cell(text: Any) -> str:
    """Text that stays within its cell and is no markup."""
    plain = " ".join(str(text).split())
    for character in "\\|<>*_$[]`":
        plain = plain.replace(character, f"\\{character}")
    return plain
