"""Configurations in the files of other programs, a block at a time.

What was mapped on the way (see `objects`) stands in a JSON file beside every export; weights are a column where the
format has room, else a CSV file beside it.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from ase.io.extxyz import write_extxyz
from ase.io.trajectory import TrajectoryWriter

from particlegen.io import atomic
from particlegen.io.objects import FLAT_HEIGHT, INSTALL, box_edges, elements_of, import_mdtraj, to_ase, to_mdtraj
from particlegen.settings import InputError, RunError
from particlegen.system import ParticleSystem
from particlegen.units import EXPORT_LENGTH, energy_unit, length_unit

__all__ = ["FORMATS", "Format", "export"]

Columns = Mapping[str, np.ndarray]
Write = Callable[[np.ndarray, int, Columns], None]
"""Writes a block `(frame, N, d)`, the number of its first frame, and its columns."""


@dataclass(frozen=True)
class Format:
    """A file format of `export`.

    Args:
        suffixes: how its files end; readers go by that.
        precision: of positions, in words.
        weights: whether the weights stand in the file itself.
        topology: whether a PDB file has to lie beside it.
    """

    suffixes: tuple[str, ...]
    precision: str
    weights: bool = False
    topology: bool = False


FORMATS: dict[str, Format] = {
    "extxyz": Format((".extxyz", ".xyz", ".exyz"), "positions to 1e-8 angstrom", weights=True),
    "traj": Format((".traj",), "positions in float64, exact", weights=True),
    "mdtraj-h5": Format((".h5", ".hdf5"), "positions in float32 nanometre, relative 6e-8"),
    "dcd": Format((".dcd",), "positions in float32 angstrom, relative 6e-8", topology=True),
    "xtc": Format((".xtc",), "positions to 0.001 nm, rounded (error up to 0.0005 nm)", topology=True),
}


def export(
    output: str | Path,
    to: str,
    system: ParticleSystem,
    positions: Iterable[np.ndarray],
    columns: Columns | None = None,
    elements: Mapping[str, str] | None = None,
) -> list[str]:
    """Write configurations to a file, and beside it what the format has no room for.

    Args:
        output: the file; `OUTPUT.json` says what was mapped, `OUTPUT.weights.csv` holds the columns where the format
            cannot, and DCD and XTC get a PDB file of the same name as topology.
        to: one of `FORMATS`.
        system: the particles.
        positions: blocks `(frame, N, d)` in the system's unit of length; one is held at a time.
        columns: per-frame numbers of all blocks together, each `(frame,)`, e.g. `energy`, `weight`.
        elements: species name → symbol where stated; see `elements_of`.

    Returns:
        Sentences: which files, in which units and precision.

    Raises:
        InputError: unknown format, a suffix that readers would not know, a file that exists, MDTraj missing.
        RunError: the disk is full; no file stays.
        ValueError: no frames, or columns of another length.
    """
    output, columns = Path(output), dict(columns or {})
    if to not in FORMATS:
        raise InputError(f"--to {to}: unknown format; expected one of {', '.join(FORMATS)}")
    kind = FORMATS[to]
    if output.suffix not in kind.suffixes:
        raise InputError(f"{output}: a file for {to} ends in {' or '.join(kind.suffixes)}")
    if not output.parent.is_dir():
        raise InputError(f"{output}: folder {output.parent} is not there; make it first")
    blocks = (block for block in positions if len(block))
    first = next(blocks, None)
    if first is None:
        raise ValueError("there are no configurations to export")
    mapping = _mapping(system, to, columns, elements)
    extra = _beside(output, kind, system, first, columns, elements, mapping)
    for path in (*extra, output):
        if path.exists() or path.is_symlink():
            raise InputError(f"{path} exists already; choose another name with -o, or remove it")
    with ExitStack() as undo:
        for path, action in extra.items():
            with atomic.writing(path) as aside:
                action(aside)
            undo.callback(_removed, path)
        with atomic.writing(output) as aside:
            frames = _written(aside, to, system, chain([first], blocks), columns, elements)
        undo.pop_all()
    named = ", ".join(f"{species} as {symbol}" for species, symbol in mapping["elements"].items())
    said = [f"wrote {output}: {frames} frames, {mapping['length']}, {kind.precision}; species {named}"]
    said += [mapping["z"]] if mapping["z"] else []
    return said + [f"wrote {path}" for path in extra]


def _removed(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _beside(
    output: Path,
    kind: Format,
    system: ParticleSystem,
    first: np.ndarray,
    columns: Columns,
    elements: Mapping[str, str] | None,
    mapping: Mapping[str, Any],
) -> dict[Path, Callable[[Path], Any]]:
    """The files beside the export, and how to write them."""
    text = json.dumps(mapping, indent=2) + "\n"
    extra: dict[Path, Callable[[Path], Any]] = {
        output.with_name(f"{output.name}.json"): lambda path: path.write_text(text, encoding="utf-8")
    }
    if columns and not kind.weights:
        extra[output.with_name(f"{output.name}.weights.csv")] = lambda path: _write_csv(path, columns)
    if kind.topology:
        if system.n_particles > 99_999:
            raise InputError(
                f"{output}: its topology file holds 99,999 particles, found {system.n_particles}; use --to traj"
            )
        frame = to_mdtraj(system, first[:1], elements)
        extra[output.with_suffix(".pdb")] = lambda path: frame.save_pdb(str(path))
    return extra


def _write_csv(path: Path, columns: Columns) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["frame", *columns])
        for frame, row in enumerate(zip(*(column.tolist() for column in columns.values()), strict=True)):
            writer.writerow([frame, *map(repr, row)])


def _written(
    path: Path,
    to: str,
    system: ParticleSystem,
    blocks: Iterable[np.ndarray],
    columns: Columns,
    elements: Mapping[str, str] | None,
) -> int:
    """Write all blocks; how many frames they were."""
    frames = 0
    with _WRITERS[to](path, system, elements) as write:
        for block in blocks:
            rows = slice(frames, frames + len(block))
            write(block, frames, {name: column[rows] for name, column in columns.items()})
            frames += len(block)
    for name, column in columns.items():
        if column.shape != (frames,):
            raise ValueError(f"column {name!r}: expected one number for each of {frames} frames, found {column.shape}")
    if to not in ("extxyz", "traj"):
        _check_length(path, frames)
    return frames


def _check_length(path: Path, frames: int) -> None:
    """MDTraj's writers do not always notice a full disk."""
    with import_mdtraj().open(str(path)) as file:
        if len(file) != frames:
            raise RunError(f"{path.name}: {len(file)} of {frames} frames were written; is the disk full?")


@contextmanager
def _extxyz(path: Path, system: ParticleSystem, elements: Mapping[str, str] | None) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda block, _, columns: write_extxyz(
            file, to_ase(system, block, columns, elements), write_results=False
        )


@contextmanager
def _traj(path: Path, system: ParticleSystem, elements: Mapping[str, str] | None) -> Iterator[Write]:
    with TrajectoryWriter(str(path), "w") as file:

        def write(block: np.ndarray, first: int, columns: Columns) -> None:
            for atoms in to_ase(system, block, columns, elements):
                file.write(atoms)

        yield write


@contextmanager
def _mdtraj_h5(path: Path, system: ParticleSystem, elements: Mapping[str, str] | None) -> Iterator[Write]:
    with _mdtraj_file(path) as file:

        def write(block: np.ndarray, first: int, columns: Columns) -> None:
            part = to_mdtraj(system, block, elements)
            time = np.arange(first, first + len(block), dtype=np.float32)
            file.write(part.xyz, time=time, cell_lengths=part.unitcell_lengths, cell_angles=part.unitcell_angles)
            if first == 0:
                file.topology = part.topology

        yield write


@contextmanager
def _dcd(path: Path, system: ParticleSystem, elements: Mapping[str, str] | None) -> Iterator[Write]:
    with _mdtraj_file(path) as file:

        def write(block: np.ndarray, first: int, columns: Columns) -> None:
            part = to_mdtraj(system, block, elements)
            # from nanometre to angstrom
            lengths = None if part.unitcell_lengths is None else 10 * part.unitcell_lengths
            file.write(10 * np.asarray(part.xyz), cell_lengths=lengths, cell_angles=part.unitcell_angles)

        yield write


@contextmanager
def _xtc(path: Path, system: ParticleSystem, elements: Mapping[str, str] | None) -> Iterator[Write]:
    with _mdtraj_file(path) as file:

        def write(block: np.ndarray, first: int, columns: Columns) -> None:
            part, numbers = to_mdtraj(system, block, elements), np.arange(first, first + len(block))
            box = part.unitcell_vectors
            file.write(part.xyz, time=numbers.astype(np.float32), step=numbers.astype(np.int32), box=box)

        yield write


@contextmanager
def _mdtraj_file(path: Path) -> Iterator[Any]:
    try:
        file = import_mdtraj().open(str(path), "w")
    except ImportError:
        raise InputError(f"MDTraj needs PyTables for its HDF5 files; {INSTALL}") from None
    with file:
        yield file


_WRITERS = {"extxyz": _extxyz, "traj": _traj, "mdtraj-h5": _mdtraj_h5, "dcd": _dcd, "xtc": _xtc}


def _mapping(system: ParticleSystem, to: str, columns: Mapping[str, Any], elements: Mapping[str, str] | None) -> dict:
    """What was mapped on the way, for the JSON file beside the export."""
    unit = "angstrom" if to in ("extxyz", "traj") else "nanometre"
    edges = box_edges(system, EXPORT_LENGTH[system.units, unit])
    flat = system.geometry.periodic and system.dim == 2
    return {
        "system": system.name,
        "format": to,
        "precision": FORMATS[to].precision,
        "length": f"1 {length_unit(system.units)} = {EXPORT_LENGTH[system.units, unit]:g} {unit}",
        "energy": energy_unit(system.units),
        "elements": elements_of(system, elements),
        "box": None if edges is None else edges.tolist(),
        "z": f"2D: z = 0, box height {FLAT_HEIGHT * EXPORT_LENGTH[system.units, unit]:g} {unit}" if flat else None,
        "diameters": None if system.diameters is None else list(system.diameters),
        "columns": sorted(columns),
    }
