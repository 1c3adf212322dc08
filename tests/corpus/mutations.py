"""Mutations of YAML and structure files, each said in a few words, and whether what comes out can only be wrong."""

import copy
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

__all__ = ["Mutant", "structure_mutants", "text_mutants", "value_mutants"]

Path = tuple[str | int, ...]

HUGE = 10**30
NAN, INFINITY = float("nan"), float("inf")


@dataclass(frozen=True)
class Mutant:
    """A changed file.

    Args:
        what: was done, and where.
        made: gives the content of the file; a corpus of thousands is not written out before it is asked for.
        wrong: nothing that comes out of this mutation is valid; else the mutant may be.
        keys: of which the message has to name one; empty where it has to name file and line.
    """

    what: str
    made: Callable[[], bytes]
    wrong: bool
    keys: tuple[str, ...] = ()

    @classmethod
    def of(cls, what: str, content: str | bytes, wrong: bool, keys: tuple[str, ...] = ()) -> "Mutant":
        raw = content.encode() if isinstance(content, str) else content
        return cls(what, lambda: raw, wrong, keys)


def value_mutants(text: str, required: frozenset[str], free: tuple[str, ...]) -> Iterator[Mutant]:
    """A YAML file with one value changed, added or removed, for every value that there is.

    Args:
        text: of the file.
        required: dotted keys that cannot be left out.
        free: beginnings of dotted keys below which any key or value may be right.
    """
    data = yaml.safe_load(text)
    for path, value in _places(data):
        dotted = _dotted(path)
        loose = dotted.startswith(free) if free else False
        yield _changed(data, path, ..., f"without {dotted}", dotted in required)
        if isinstance(path[-1], str):
            near = path[-1][:-1] + "q"
            what = f"{near} beside {dotted}"
            yield _changed(data, (*path[:-1], near), value, what, not (loose or _dotted(path[:-1]).startswith(free)))
        for other, wrong in _others(value):
            yield _changed(data, path, other, f"{dotted} = {_short(other)}", wrong and not loose)


def _others(value: Any) -> Iterator[tuple[Any, bool]]:
    """What a value may be mistaken for, and whether that is wrong for every key that holds such a value."""
    yield {"a": 1}, not isinstance(value, dict)
    yield [[[]]], True
    yield None, False
    if isinstance(value, bool):
        yield from ((2, True), ("maybe", True), (NAN, True))
    elif isinstance(value, int | float):
        yield from ((NAN, True), (INFINITY, True), ("many", True), (str(value), "e" not in str(value)), (True, True))
        yield from ((-value - 1, False), (0, False), (-0.5, False), (1e308, False), (HUGE, False), (5e-324, False))
        yield from ((10**6, False), (10**9, False), (2**63, False))
    elif isinstance(value, str):
        yield from ((3, True), (False, True), (1.5, True), ([value], True))
        yield from (("", False), (value + "x", False), ("x" * 100_000, False), ("\x1b[31m\u202e", False))
    elif isinstance(value, list):
        yield from ((3, True), ("x", True), ([None], True), ([value], True), ([], False))
        yield from ((value * 2, False), (value[:-1], False), ([*value, NAN], True))
    elif isinstance(value, dict):
        yield from ((3, True), ("x", True), ([], True), ({}, False))


def text_mutants(text: str, seed: int, each: int = 2) -> Iterator[Mutant]:
    """A YAML file damaged as text: what an editor, a copy or an enemy does to it.

    Args:
        text: of the file.
        seed: of the places that are damaged.
        each: places, of every kind of damage.
    """
    rng, raw = random.Random(seed), text.encode()
    lines = text.splitlines(keepends=True)
    scalars = [k for k, line in enumerate(lines) if re.match(r"[a-z_]+: +[^\s#&*{\[\"']", line)]
    tops = [k for k, line in enumerate(lines) if re.match(r"[a-z_]+:", line)]
    bad_values = (
        "&a 1", "*a", "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!binary aGVsbG8=",
        "!mine 3", "'", "[1, 2", "{a: 1", "@a", "%a", "a: b: c",
        "!!set {a, b}", "!!omap [a: 1]", "!!timestamp never", "!!int x", "!!float x", "!!bool x", "9" * 5000,
        '"\\ud800"', '"\\x00"',
    )  # fmt: skip
    for value in bad_values:
        for k in rng.sample(scalars, min(each, len(scalars))):
            key = lines[k].partition(":")[0]
            changed = [*lines[:k], f"{key}: {value}\n", *lines[k + 1 :]]
            yield Mutant.of(f"{key}: {value[:40]}", "".join(changed), True, (key,))
    for value in (
        "2026-01-01",
        "2026-13-45",
        "12:00:00",
        "1_000",
        "0x10",
        "0o7",
        "1e3",
        "~",
        "=",
        "<<",
        "+.inf",
        "yes",
    ):
        for k in rng.sample(scalars, min(each, len(scalars))):
            key = lines[k].partition(":")[0]
            changed = [*lines[:k], f"{key}: {value}\n", *lines[k + 1 :]]
            yield Mutant.of(f"{key}: {value}", "".join(changed), False, (key,))
    for k in rng.sample(tops, min(each, len(tops))):
        end = next((other for other in tops if other > k), len(lines))
        yield Mutant.of(f"line {k + 1} twice", "".join([*lines[:end], *lines[k:end], *lines[end:]]), True)
    yield Mutant.of("merge key", (text + "\n<<: {seed: 3}\n"), True)
    yield Mutant.of("bomb", b"a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n" + raw, True)
    yield Mutant.of("deep flow", raw + b"\ndeep: " + b"[" * 200 + b"]" * 200, True)
    yield Mutant.of("deep block", raw + b"\n" + b"".join(b" " * k + b"a:\n" for k in range(200)), True)
    yield Mutant.of("key of a number", raw + b"\n7: 3\n", True)
    yield Mutant.of("key of a list", raw + b"\n? [a]\n: 3\n", True)
    yield Mutant.of("two documents", raw + b"\n---\n" + raw, True)
    yield Mutant.of("nothing", b"", True)
    yield Mutant.of("comments alone", b"# nothing\n", True)
    yield Mutant.of("a list", b"- a\n", True)
    yield Mutant.of("a text", b"text\n", True)
    yield Mutant.of("UTF-16", text.encode("utf-16"), True)
    yield Mutant.of("byte order mark", b"\xef\xbb\xbf" + raw, False)
    yield Mutant.of("a megabyte", raw + b"#" * 1_000_001, True)
    yield Mutant.of("carriage returns", text.replace("\n", "\r\n"), False)
    yield Mutant.of("directive", b"%YAML 9.9\n---\n" + raw, False)
    for _ in range(each):
        place = rng.randrange(1, len(raw))
        yield Mutant.of(f"cut at byte {place}", raw[:place], False)
        yield Mutant.of(f"not UTF-8 at byte {place}", raw[:place] + b"\xff\xfe" + raw[place:], True)
        yield Mutant.of(f"zero at byte {place}", raw[:place] + b"\x00" + raw[place:], True)
        yield Mutant.of(f"bell at byte {place}", raw[:place] + b"\x07" + raw[place:], True)
        flipped = raw[:place] + bytes([raw[place] ^ (1 << rng.randrange(7))]) + raw[place + 1 :]
        yield Mutant.of(f"bit of byte {place}", flipped, False)
        k = rng.randrange(len(lines))
        yield Mutant.of(f"without line {k + 1}", "".join([*lines[:k], *lines[k + 1 :]]), False)
        yield Mutant.of(f"tab before line {k + 1}", "".join([*lines[:k], "\t", *lines[k:]]), False)
        yield Mutant.of(f"blank before line {k + 1}", "".join([*lines[:k], " ", *lines[k:]]), False)


def structure_mutants(text: str, seed: int, each: int = 2) -> Iterator[Mutant]:
    """A structure file with one number, column, line or byte that is wrong."""
    rng, raw = random.Random(seed), text.encode()
    lines = text.splitlines(keepends=True)
    n = int(lines[0])
    for count in ("-1", "0", str(n + 1), str(n - 1), "1e3", "six", "", "999999999999", "9" * 400, "\uff16"):
        yield Mutant.of(f"N = {count[:20]!r}", "".join([count + "\n", *lines[1:]]), True)
    for value in ("nan", "inf", "-inf", "1e999", "x", "1,5", "0x10", "1" * 200_000, "1d3"):
        for k in rng.sample(range(2, 2 + n), min(each, n)):
            tokens = lines[k].split()
            tokens[rng.randrange(len(tokens) - 2, len(tokens))] = value
            changed = [*lines[:k], " ".join(tokens) + "\n", *lines[k + 1 :]]
            yield Mutant.of(f"{value[:20]} in line {k + 1}", "".join(changed), True)
    for k in rng.sample(range(2, 2 + n), min(each, n)):
        tokens = lines[k].split()
        for row in (tokens[:-1], [*tokens, "0.5"], [], ["Qq", *tokens[1:]], ["0", *tokens[1:]], ["99", *tokens[1:]]):
            changed = [*lines[:k], " ".join(row) + "\n", *lines[k + 1 :]]
            yield Mutant.of(f"line {k + 1}: {' '.join(row)[:30]}", "".join(changed), True)
        yield Mutant.of(f"without line {k + 1}", "".join([*lines[:k], *lines[k + 1 :]]), True)
    boxes = (
        'Lattice="0 0 0 0 0 0 0 0 0"', 'Lattice="1 2 3"', 'Lattice="9 1 0 0 9 0 0 0 9"', 'Lattice="-9 0 0 0 9 0 0 0 9"',
        'Lattice="nan 0 0 0 9 0 0 0 9"', "Properties=pos:R", "Properties=pos:R:x", "Properties=species:S:1",
        "Properties=species:S:1:pos:R:99999999999999999999", 'pbc="T T T"', "cell:0,0,0", "cell:1,x,2", "columns:x",
        "columns:id,pos ndim:1e9", "colour=red",
    )  # fmt: skip
    for box in boxes:
        yield Mutant.of(f"comment {box}", "".join([lines[0], box + "\n", *lines[2:]]), True)
    yield Mutant.of("nothing", b"", True)
    for _ in range(each):
        place = rng.randrange(1, len(raw) - 2)
        yield Mutant.of(f"cut at byte {place}", raw[:place], False)
        yield Mutant.of(f"not UTF-8 at byte {place}", raw[:place] + b"\xff\xfe" + raw[place:], True)
        yield Mutant.of(f"zero at byte {place}", raw[:place] + b"\x00" + raw[place:], False)
        flipped = raw[:place] + bytes([raw[place] ^ (1 << rng.randrange(7))]) + raw[place + 1 :]
        yield Mutant.of(f"bit of byte {place}", flipped, False)


def _places(data: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value of nested mappings and lists with its place."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key), value
        yield from _places(value, (*path, key))


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 30 else text[:30] + "..."


def _changed(data: Any, path: Path, value: Any, what: str, wrong: bool) -> Mutant:
    def made() -> bytes:
        new = copy.deepcopy(data)
        *outer, last = path
        here = new
        for step in outer:
            here = here[step]
        if value is ...:
            del here[last]
        else:
            here[last] = value
        return yaml.dump(new, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=1000).encode()

    # The key itself, or the section that it is in: `frames`, `reference`.
    return Mutant(what, made, wrong, tuple(step for step in path if isinstance(step, str))[-2:])


class _Plain(yaml.SafeDumper):
    """Without anchors where an object occurs twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
