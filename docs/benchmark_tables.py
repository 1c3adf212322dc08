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


def render_results(folder: Path) -> str:
    """A section per JSON file, by name: the numbers it holds, with errors and units where it states them."""
    sections = [_section(path) for path in sorted(folder.glob("*.json"))]
    return "\n\n".join(sections) if sections else NOTHING


def _section(path: Path) -> str:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"## {path.stem}\n\n`{path.name}` is no JSON ({error})."
    if not isinstance(content, Mapping):
        content = {"results": content}
    title = content.get("title") or path.stem.replace("_", " ")
    notes = [str(content[key]) for key in ("description", "note") if key in content]
    rest = {key: value for key, value in content.items() if key not in ("title", "description", "note")}
    tables = {key: value for key, value in rest.items() if _is_table(value)}
    rows = [row for key, value in rest.items() if key not in tables for row in _rows(value, key)]
    parts = [f"## {_cell(title)}", f"From `benchmarks/results/{path.name}`.", *map(_cell, notes)]
    if rows:
        shown = [f"| `{_cell(key)}` | {text} |" for key, text in rows[:MOST_ROWS]]
        parts.append("\n".join(["| quantity | value |", "|---|---|", *shown]))
    if len(rows) > MOST_ROWS:
        parts.append(f"… and {len(rows) - MOST_ROWS} more numbers in the file.")
    parts += [_table(key, value) for key, value in tables.items()]
    return "\n\n".join(parts)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _is_quantity(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" in value and not isinstance(value["value"], Mapping | list)


def _rows(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every number and sentence below a key."""
    if isinstance(value, Mapping) and not _is_quantity(value):
        for name, inner in value.items():
            yield from _rows(inner, f"{key}.{name}")
    else:
        yield key, _text(value)


def _table(key: str, rows: list[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = f"| {' | '.join(map(_cell, columns))} |"
    lines = [f"| {' | '.join(_text(row.get(name)) for name in columns)} |" for row in rows[:MOST_ROWS]]
    return "\n".join([f"**{_cell(key)}**", "", head, "|" + "---|" * len(columns), *lines])


def _text(value: Any) -> str:
    """One cell; a quantity as value ± standard error and unit."""
    if value is None:
        return "–"
    if _is_quantity(value):
        error = value.get("stderr")
        shown = _text(value["value"]) + (f" ± {error:.2g}" if isinstance(error, float) and error > 0 else "")
        return f"{shown} {_cell(value.get('unit') or '')}".strip()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}" if math.isfinite(value) else "–"
    if isinstance(value, list):
        return ", ".join(map(_text, value[:12])) + (", …" if len(value) > 12 else "")
    if isinstance(value, Mapping):
        return "; ".join(f"{_cell(name)} {_text(inner)}" for name, inner in value.items())
    return _cell(value)


def _cell(text: Any) -> str:
    """Text that stays within its cell and is no markup."""
    plain = " ".join(str(text).split())
    for character in "\\|<>*_$[]`":
        plain = plain.replace(character, f"\\{character}")
    return plain
