"""Structure files, read by our own small reader so that nothing is guessed and nothing is executed.

The comment line of an xyz frame decides: `Lattice=`, `Properties=` or `pbc=` make it extended xyz, `columns:` or
`cell:` the dialect of atooms, and a comment without any key a plain xyz file in free space.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from particlegen.settings import InputError

__all__ = ["ASE_FORMATS", "SUFFIXES", "Structure", "iter_structures", "read_structures"]

SUFFIXES = (".xyz", ".extxyz", ".exyz")
"""Suffixes that this reader takes without being told a format."""

ASE_FORMATS = ("cif", "gromacs", "lammps-dump-text", "proteindatabank", "vasp")
"""Formats handed to ASE when named explicitly; all are text."""

_MAX_BYTES = 1 << 30
_MAX_PARTICLES = 1_000_000
_MAX_LINE = 100_000
_SPECIES = ("species", "id", "name", "type", "particle_species")
# Keys begin at the start of a word and are taken whole: otherwise a long line costs the square of its length.
_EXTXYZ_PAIR = re.compile(r"""(?<![\w.\-])([A-Za-z_][\w.\-]*+)\s*+=\s*+(?:"([^"]*)"|'([^']*)'|(\S+))""")
_ATOOMS_PAIR = re.compile(r"(?<!\w)(\w++)\s*+:\s*+(\S+)")
_EXTXYZ_SPECIES = ("species", "symbols", "symbol", "element", "type")


@dataclass(frozen=True)
class Structure:
    """One frame of a structure file.

    Args:
        positions: `(particle, dim)` float64; moved into [0, L) where there is a box.
        lengths: lengths of the rectangular periodic box, or None in free space.
        species: one entry per particle: a name, or an int where the file has numbers.
        diameters: `(particle,)` where the file has a `diameter` or `radius` column, else None.
    """

    positions: np.ndarray
    lengths: tuple[float, ...] | None
    species: tuple[str | int, ...]
    diameters: np.ndarray | None = None

    @property
    def dim(self) -> int:
        return self.positions.shape[1]

    @property
    def periodic(self) -> bool:
        return self.lengths is not None


@dataclass(frozen=True)
class _Layout:
    """What the comment line says: where the columns are, and the box."""

    species: int
    position: int
    dim: int
    lengths: tuple[float, ...] | None
    columns: int
    diameter: int | None = None
    diameter_scale: float = 1.0
    flat_column: int | None = None  # a z column that has to be constant: two dimensions written as three


def read_structures(path: Path | str, format: str | None = None) -> list[Structure]:
    """All frames of a structure file; see `iter_structures`."""
    return list(iter_structures(path, format))


def iter_structures(path: Path | str, format: str | None = None) -> Iterator[Structure]:
    """The frames of a structure file, one at a time.

    Args:
        path: a `.xyz`, `.extxyz` or `.exyz` file; lengths in the system's own unit.
        format: one of `ASE_FORMATS`, to have ASE read another format (lengths in Å then).

    Raises:
        InputError: names the file and the line: missing, empty or truncated file, a bad number, an unknown comment
            line, a box that is not rectangular, or a size beyond the limits (1 GiB, 10⁶ particles per frame).
    """
    path = Path(path)
    try:
        there = path.is_file()
    except OSError as error:
        raise InputError(f"{str(path)[:200]}: no structure file ({error.strerror}); check the path") from None
    if not there:
        raise InputError(f"{path}: no such structure file; check the path")
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise InputError(f"{path}: {size} bytes, more than the limit of {_MAX_BYTES}; split the file")
    if format is not None:
        yield from _ase_frames(path, format)
        return
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path}: suffix {path.suffix!r} is not read; expected {', '.join(SUFFIXES)}, or name a format "
            f"explicitly ({', '.join(ASE_FORMATS)})"
        )
    with path.open(encoding="utf-8", newline=None) as stream:
        reader = _Lines(path, stream)
        frame = 0
        while (header := reader.header()) is not None:
            frame += 1
            yield _frame(reader, header, frame, size)
    if frame == 0:
        raise InputError(f"{path}: line 1: the file is empty; expected a number of particles")


class _Lines:
    """Lines with their numbers; errors name both the file and the line."""

    def __init__(self, path: Path, stream: TextIO):
        self._path, self._stream, self.number = path, stream, 0

    def next(self) -> str | None:
        try:
            line = self._stream.readline(_MAX_LINE)
        except UnicodeDecodeError as error:
            raise InputError(f"{self._path}: line {self.number + 1} or later: not UTF-8 text") from error
        if not line:
            return None
        self.number += 1
        if len(line) == _MAX_LINE:
            raise self.error(f"longer than {_MAX_LINE} characters")
        return line.rstrip("\r\n")

    def header(self) -> str | None:
        """The next frame's first line; None at the end of the file, blank lines skipped."""
        while (line := self.next()) is not None:
            if line.strip():
                return line
        return None

    def error(self, problem: str) -> InputError:
        return InputError(f"{self._path}: line {self.number}: {problem}")


def _frame(reader: _Lines, header: str, frame: int, size: int) -> Structure:
    if not re.fullmatch(r"\s*[0-9]{1,12}\s*", header):
        raise reader.error(f"expected the number of particles of frame {frame}, found {header.strip()[:40]!r}")
    n = int(header)
    # A particle takes at least four characters, so a wild number is caught before anything is allocated.
    if n < 1 or n > _MAX_PARTICLES or 4 * n > size:
        raise reader.error(
            f"{n} particles announced: expected between 1 and {_MAX_PARTICLES} and no more than a file of {size} bytes "
            "can hold; it may be truncated"
        )
    comment = reader.next()
    if comment is None:
        raise reader.error(f"the file ends before the comment line of frame {frame}; it is truncated")
    layout = _layout(reader, comment)
    positions = np.empty((n, layout.dim))
    diameters = np.empty(n) if layout.diameter is not None else None
    species: list[str | int] = []
    flat: str | None = None
    for k in range(n):
        line = reader.next()
        if line is None:
            raise reader.error(f"the file ends after {k} of {n} particles of frame {frame}; it is truncated")
        tokens = line.split()
        if len(tokens) != layout.columns:
            raise reader.error(
                f"expected {layout.columns} columns for particle {k + 1} of frame {frame}, found {len(tokens)}"
            )
        label = tokens[layout.species]
        species.append(int(label) if label.isascii() and label.isdigit() and len(label) < 10 else label)
        for a in range(layout.dim):
            positions[k, a] = _number(reader, tokens[layout.position + a], "a coordinate")
        if diameters is not None and layout.diameter is not None:
            diameters[k] = layout.diameter_scale * _number(reader, tokens[layout.diameter], "a diameter or radius")
            if not diameters[k] > 0:
                raise reader.error(f"a diameter or radius has to be positive, found {tokens[layout.diameter]!r}")
        if layout.flat_column is not None:
            z = tokens[layout.flat_column]
            if flat is not None and _number(reader, z, "z") != float(flat):
                raise reader.error(f"the box has no third dimension, but z differs between particles ({flat}, {z})")
            flat = flat or str(_number(reader, z, "z"))
    if layout.lengths is not None:
        box = np.asarray(layout.lengths)
        positions = np.mod(positions, box)
        positions[positions >= box] = 0.0
    return Structure(positions, layout.lengths, tuple(species), diameters)


def _layout(reader: _Lines, comment: str) -> _Layout:
    if re.search(r"(^|\s)(Lattice|Properties|pbc)\s*=", comment):
        return _extxyz_layout(reader, comment)
    if re.search(r"(^|\s)(columns|cell)\s*:", comment):
        return _atooms_layout(reader, comment)
    if "=" in comment or re.search(r"\w:\S", comment):
        raise reader.error(
            'the comment line has keys, but none that tells columns or box; expected Lattice="..." and '
            "Properties=... (extended xyz) or columns:... cell:... (atooms)"
        )
    return _Layout(species=0, position=1, dim=3, lengths=None, columns=4)


def _extxyz_layout(reader: _Lines, comment: str) -> _Layout:
    pairs = {key: a or b or c for key, a, b, c in _EXTXYZ_PAIR.findall(comment)}
    fields = pairs.get("Properties", "species:S:1:pos:R:3").split(":")
    if len(fields) % 3 or not all(re.fullmatch("[0-9]{1,6}", count) for count in fields[2::3]):
        raise reader.error(f"Properties={':'.join(fields)[:80]!r} is not a list of name:type:count")
    start, column = {}, 0
    counts = dict(zip(fields[0::3], (int(count) for count in fields[2::3]), strict=True))
    for name, count in zip(fields[0::3], (int(c) for c in fields[2::3]), strict=True):
        start[name] = column
        column += count
    dim = counts.get("pos", counts.get("positions", 0))
    position = start.get("pos", start.get("positions"))
    if position is None or dim not in (2, 3):
        raise reader.error("Properties has no pos:R:2 or pos:R:3")
    label = next((name for name in _EXTXYZ_SPECIES if counts.get(name) == 1), None)
    if label is None:
        raise reader.error("Properties has no species column; add species:S:1 (names) or species:I:1 (numbers)")
    lengths, flat = _lattice(reader, pairs, dim)
    diameter = next((name for name in ("diameter", "radius") if counts.get(name) == 1), None)
    return _Layout(
        species=start[label],
        position=position,
        dim=2 if flat else dim,
        lengths=lengths,
        columns=column,
        diameter=start[diameter] if diameter else None,
        diameter_scale=2.0 if diameter == "radius" else 1.0,
        flat_column=position + 2 if flat and dim == 3 else None,
    )


def _lattice(reader: _Lines, pairs: dict[str, str], dim: int) -> tuple[tuple[float, ...] | None, bool]:
    """Box lengths, or None in free space, and whether the file is two-dimensional."""
    text = pairs.get("Lattice")
    if text is None:
        if "T" in pairs.get("pbc", "").upper():
            raise reader.error('pbc is true, but there is no Lattice; add Lattice="Lx 0 0 0 Ly 0 0 0 Lz"')
        return None, dim == 2
    numbers = [_number(reader, token, "a Lattice entry") for token in text.split()]
    if len(numbers) not in (4, 9):
        raise reader.error(f"Lattice needs 9 numbers (or 4 in two dimensions), found {len(numbers)}")
    cell = np.asarray(numbers).reshape(3, 3) if len(numbers) == 9 else np.asarray(numbers).reshape(2, 2)
    flags = [flag.upper() in ("T", "TRUE", "1") for flag in pairs.get("pbc", "T T T").replace(",", " ").split()]
    # A plane in a box that is not periodic across it is how two dimensions are written for viewers.
    flat = dim == 2 or len(cell) == 2 or not cell[2].any() or flags == [True, True, False]
    cell = cell[:2, :2] if flat else cell
    if np.abs(cell - np.diag(np.diag(cell))).max() > 1e-9 * np.abs(cell).max():
        raise reader.error("the Lattice is not rectangular along x, y, z; only rectangular boxes are supported")
    flags = flags[: len(cell)]
    if not any(flags):
        return None, flat
    if not all(flags) or len(flags) < len(cell):
        raise reader.error(f"pbc={pairs['pbc']!r}: a box periodic in some directions only is not supported")
    return _box(reader, tuple(float(length) for length in np.diag(cell))), flat


def _atooms_layout(reader: _Lines, comment: str) -> _Layout:
    pairs = dict(_ATOOMS_PAIR.findall(comment))
    lengths = None
    if "cell" in pairs:
        values = pairs["cell"].strip("[](),").split(",")
        lengths = _box(reader, tuple(_number(reader, value, "a cell length") for value in values))
    names = pairs.get("columns", "id,pos").split(",")
    vector = len(lengths) if lengths else int(_number(reader, pairs.get("ndim", "3"), "ndim"))
    width = {name: vector for name in ("pos", "position", "vel", "velocity", "force", "position_unfolded")}
    start, column = {}, 0
    for name in names:
        start[name] = column
        column += width.get(name, 1)
    axes = [axis for axis in "xyz" if axis in start]
    position = next((start[name] for name in ("pos", "position", "x") if name in start), None)
    label = next((start[name] for name in _SPECIES if name in start), None)
    if position is None or label is None:
        raise reader.error(f"columns:{','.join(names)[:80]} needs one of {', '.join(_SPECIES)} and pos (or x,y,z)")
    dim = len(axes) if "pos" not in start and "position" not in start else vector
    if dim not in (2, 3) or (lengths is not None and dim != len(lengths)):
        raise reader.error(f"{dim} coordinates per particle do not fit a cell of {len(lengths or ())} lengths")
    if axes and [start[axis] for axis in axes] != list(range(start[axes[0]], start[axes[0]] + len(axes))):
        raise reader.error("the columns x, y, z have to follow each other")
    diameter = next((name for name in ("diameter", "radius") if name in start), None)
    return _Layout(
        species=label,
        position=position,
        dim=dim,
        lengths=lengths,
        columns=column,
        diameter=start[diameter] if diameter else None,
        diameter_scale=2.0 if diameter == "radius" else 1.0,
    )


def _box(reader: _Lines, lengths: tuple[float, ...]) -> tuple[float, ...]:
    if len(lengths) not in (2, 3) or not all(length > 0 for length in lengths):
        raise reader.error(f"the box needs 2 or 3 positive lengths, found {list(lengths)}")
    return lengths


def _number(reader: _Lines, token: str, what: str) -> float:
    try:
        value = float(token)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise reader.error(f"{what} has to be a finite number, found {token[:40]!r}")
    return value


def _check_announced(path: Path) -> None:
    """Refuse a LAMMPS dump that announces more atoms than the file can hold: ASE would read as many empty lines."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        while line := stream.readline(_MAX_LINE):
            if line.startswith(b"ITEM: NUMBER OF ATOMS"):
                count = stream.readline(_MAX_LINE).strip()
                if not count.isdigit() or len(count) > 9 or 2 * int(count) > size:
                    raise InputError(
                        f"{path}: {count[:40].decode(errors='replace')!r} atoms announced, more than fit in it"
                    )


def _ase_frames(path: Path, format: str) -> Iterator[Structure]:
    if format not in ASE_FORMATS:
        raise InputError(f"{path}: format {format!r} is not read; expected one of {', '.join(ASE_FORMATS)}")
    import ase.io
    from ase.io.formats import ioformats

    read: Callable = ase.io.read
    binary = ioformats[format].isbinary
    if format == "lammps-dump-text":
        _check_announced(path)
    try:
        # The open file and not its name, in which ASE would look for an index, for compression, for a database.
        with path.open("rb" if binary else "r", encoding=None if binary else "utf-8") as stream:
            frames = read(stream, index=":", format=format)
    except Exception as error:  # ASE's readers raise whatever they stumble over
        raise InputError(f"{path}: ASE cannot read it as {format!r} ({error}); check the file") from error
    for atoms in frames:
        cell, flags = np.asarray(atoms.cell), list(atoms.pbc)
        if not np.isfinite(cell).all() or not np.isfinite(atoms.positions).all():
            raise InputError(f"{path}: has a coordinate or a box that is no finite number; check the file")
        if not 1 <= len(atoms) <= _MAX_PARTICLES:
            raise InputError(f"{path}: {len(atoms)} particles, expected between 1 and {_MAX_PARTICLES}")
        lengths = None
        if any(flags):
            if not all(flags) or np.abs(cell - np.diag(np.diag(cell))).max() > 1e-9 * np.abs(cell).max():
                raise InputError(f"{path}: only boxes that are rectangular and periodic in x, y, z are supported")
            lengths = tuple(float(length) for length in np.diag(cell))
            if not min(lengths) > 0:
                raise InputError(f"{path}: the box needs positive lengths, found {list(lengths)}")
        positions = np.asarray(atoms.positions, dtype=float)
        if lengths is not None:
            positions = np.mod(positions, lengths)
            positions[positions >= np.asarray(lengths)] = 0.0
        yield Structure(positions, lengths, tuple(atoms.get_chemical_symbols()))
