"""Configurations for other programs: ASE and MDTraj objects, and their files.

What a format cannot say is mapped and stated: 2D systems lie at z = 0 in a box of height `FLAT_HEIGHT`; reduced units
map 1 σ to 1 Å (ASE) or 0.1 nm (MDTraj); species become chemical elements. Weights are a column where the format has
room, else a CSV file beside it; what was mapped stands in a JSON file beside every export.
"""

import csv
import importlib
import io
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase
import ase.data
import ase.io
import numpy as np
from ase.io.extxyz import write_extxyz

from particlegen.io import atomic
from particlegen.settings import InputError, RunError
from particlegen.system import ParticleSystem
from particlegen.units import EXPORT_LENGTH, energy_unit, length_unit

if TYPE_CHECKING:
    import mdtraj

__all__ = ["FLAT_HEIGHT", "FORMATS", "Format", "elements_of", "export", "to_ase", "to_mdtraj"]

FLAT_HEIGHT = 1.0
"""Box length along z of a 2D system, in its own unit of length; z is not periodic in ASE."""

STAND_INS = ("Ar", "Kr", "Xe", "Ne", "Rn", "He")
"""Elements for the first, second, … species that is no element itself and has none stated."""

INSTALL = "install it: pip install 'particlegen[mdtraj]'"


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


def elements_of(system: ParticleSystem, stated: Mapping[str, str] | None = None) -> dict[str, str]:
    """The chemical symbol that stands for each species, by species name.

    First what is `stated`; in metal units a name that is a symbol stands for itself; the others become Ar, Kr, Xe, Ne,
    Rn, He in their order. Different species never share an element.

    Raises:
        InputError: an unknown symbol, or more species than stand-ins: state them on the card.

    >>> from particlegen.geometry import FlatTorus
    >>> elements_of(ParticleSystem("pair", FlatTorus((3.0, 3.0)), (0, 1), ("A", "B")))
    {'A': 'Ar', 'B': 'Kr'}
    """
    stated = dict(stated or {})
    for name, symbol in stated.items():
        if symbol not in ase.data.chemical_symbols[1:]:
            raise InputError(f"key 'elements.{name}': {symbol!r} is no chemical element; use a symbol such as Ar")
    if system.units == "metal":
        own = {name: name for name in system.species_names if name in ase.data.chemical_symbols[1:]}
        stated = own | stated
    free = [symbol for symbol in STAND_INS if symbol not in stated.values()]
    chosen = {}
    for name in system.species_names:
        if name in stated:
            chosen[name] = stated[name]
        elif free:
            chosen[name] = free.pop(0)
        else:
            raise InputError(
                f"key 'elements': too many species to choose an element for {name!r}; state one on the card"
            )
    return chosen


def _symbols(system: ParticleSystem, elements: Mapping[str, str] | None) -> list[str]:
    names = elements_of(system, elements)
    return [names[system.species_names[s]] for s in system.species]


def _in_space(system: ParticleSystem, positions: np.ndarray, factor: float) -> np.ndarray:
    """Positions `(frame, N, 3)` in the export's unit, z = 0 for 2D."""
    positions = np.asarray(positions, dtype=np.float64)
    if positions.ndim != 3 or positions.shape[1:] != (system.n_particles, system.dim):
        raise ValueError(f"expected (frame, {system.n_particles}, {system.dim}), found {positions.shape}")
    placed = np.zeros((*positions.shape[:2], 3))
    placed[..., : system.dim] = positions * factor
    return placed


def _edges(system: ParticleSystem, factor: float) -> np.ndarray | None:
    """Box lengths `(3,)` in the export's unit; None in free space."""
    if not system.geometry.periodic:
        return None
    return np.array([*system.torus.lengths, FLAT_HEIGHT][:3]) * factor


def to_ase(
    system: ParticleSystem,
    positions: np.ndarray,
    columns: Mapping[str, np.ndarray] | None = None,
    elements: Mapping[str, str] | None = None,
) -> list[ase.Atoms]:
    """Configurations as ASE atoms.

    Args:
        system: the particles.
        positions: `(frame, N, d)` in the system's unit of length.
        columns: per-frame numbers, e.g. `energy`, `log_weight`, `weight`; they go into `atoms.info` (energies in the
            system's own unit).
        elements: species name → symbol where stated; see `elements_of`.

    Returns:
        One Atoms per frame: positions and cell in Å, 1 σ = 1 Å; diameters, where there are any, as array `diameters`
        (which `.traj` files do not keep).
    """
    factor = EXPORT_LENGTH[system.units, "angstrom"]
    placed, edges, symbols = _in_space(system, positions, factor), _edges(system, factor), _symbols(system, elements)
    columns = _per_frame(columns, len(placed))
    pbc = [axis < system.dim and edges is not None for axis in range(3)]
    template = ase.Atoms(symbols, positions=np.zeros((len(symbols), 3)), cell=edges, pbc=pbc)
    if system.diameters is not None:
        template.set_array("diameters", np.asarray(system.diameters) * factor)
    found = []
    for frame, xyz in enumerate(placed):
        atoms = template.copy()
        atoms.positions = xyz
        atoms.info = {name: column[frame].item() for name, column in columns.items()} | {"units": system.units}
        found.append(atoms)
    return found


def _per_frame(columns: Mapping[str, np.ndarray] | None, frames: int) -> dict[str, np.ndarray]:
    checked = {name: np.asarray(column) for name, column in (columns or {}).items()}
    for name, column in checked.items():
        if column.shape != (frames,):
            raise ValueError(f"column {name!r}: expected one number for each of {frames} frames, found {column.shape}")
    return checked


def _mdtraj() -> Any:
    try:
        return importlib.import_module("mdtraj")
    except ImportError:
        raise InputError(f"MDTraj is not installed; {INSTALL}") from None


def to_mdtraj(
    system: ParticleSystem, positions: np.ndarray, elements: Mapping[str, str] | None = None
) -> "mdtraj.Trajectory":
    """Configurations as an MDTraj trajectory: float32 nanometre, 1 σ = 0.1 nm, all particles in one residue.

    Arguments as `to_ase`; weights stay outside, since MDTraj has no place for them.

    Raises:
        InputError: MDTraj is not installed.
    """
    mdtraj = _mdtraj()
    factor = EXPORT_LENGTH[system.units, "nanometre"]
    placed, edges = _in_space(system, positions, factor), _edges(system, factor)
    topology = mdtraj.Topology()
    residue = topology.add_residue("SYS", topology.add_chain())
    for symbol in _symbols(system, elements):
        topology.add_atom(symbol, mdtraj.element.Element.getBySymbol(symbol), residue)
    box = (
        {}
        if edges is None
        else {
            "unitcell_lengths": np.tile(edges, (len(placed), 1)),
            "unitcell_angles": np.full((len(placed), 3), 90.0),
        }
    )
    return mdtraj.Trajectory(placed, topology, **box)


def _mapping(system: ParticleSystem, to: str, columns: Mapping[str, Any], elements: Mapping[str, str] | None) -> dict:
    """What was mapped on the way, for the JSON file beside the export."""
    unit = "angstrom" if to in ("extxyz", "traj") else "nanometre"
    edges = _edges(system, EXPORT_LENGTH[system.units, unit])
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


def _csv(columns: Mapping[str, np.ndarray]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["frame", *columns])
    for frame, row in enumerate(zip(*(column.tolist() for column in columns.values()), strict=True)):
        writer.writerow([frame, *map(repr, row)])
    return text.getvalue()


def _write_ase(to: str, frames: list[ase.Atoms]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        if to == "traj":
            ase.io.write(path, frames, format="traj")
            return
        with path.open("w", encoding="utf-8") as file:
            write_extxyz(file, frames, write_results=False)

    return write


def _write_mdtraj(to: str, trajectory: "mdtraj.Trajectory") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        save = {"mdtraj-h5": trajectory.save_hdf5, "dcd": trajectory.save_dcd, "xtc": trajectory.save_xtc}[to]
        try:
            save(str(path))
        except ImportError:
            raise InputError(f"MDTraj needs PyTables for its HDF5 files; {INSTALL}") from None
        # MDTraj's writers do not always notice a full disk.
        with _mdtraj().open(str(path)) as file:
            if len(file) != trajectory.n_frames:
                raise RunError(
                    f"{path.name}: {len(file)} of {trajectory.n_frames} frames were written; is the disk full?"
                )

    return write


def export(
    output: str | Path,
    to: str,
    system: ParticleSystem,
    positions: np.ndarray,
    columns: Mapping[str, np.ndarray] | None = None,
    elements: Mapping[str, str] | None = None,
) -> list[str]:
    """Write configurations to a file, and beside it what the format has no room for.

    Args:
        output: the file; `OUTPUT.json` says what was mapped, `OUTPUT.weights.csv` holds the columns where the format
            cannot, and DCD and XTC get a PDB file of the same name as topology.
        to: one of `FORMATS`.
        system, positions, columns, elements: as `to_ase`.

    Returns:
        Sentences: which files, in which units and precision.

    Raises:
        InputError: unknown format, a suffix that readers would not know, a file that exists, MDTraj missing.
        RunError: the disk is full; no file stays.
    """
    output = Path(output)
    if to not in FORMATS:
        raise InputError(f"--to {to}: unknown format; expected one of {', '.join(FORMATS)}")
    kind = FORMATS[to]
    if output.suffix not in kind.suffixes:
        raise InputError(f"{output}: a file for {to} ends in {' or '.join(kind.suffixes)}")
    if not output.parent.is_dir():
        raise InputError(f"{output}: folder {output.parent} is not there; make it first")
    columns = _per_frame(columns, len(positions))
    write, extra = _planned(output, to, system, positions, columns, elements)
    for path in (*extra, output):
        if path.exists() or path.is_symlink():
            raise InputError(f"{path} exists already; choose another name with -o, or remove it")
    with ExitStack() as undo:
        for path, action in {**extra, output: write}.items():
            with atomic.writing(path) as aside:
                action(aside)
            undo.callback(_removed, path)
        undo.pop_all()
    mapping = _mapping(system, to, columns, elements)
    named = ", ".join(f"{species} as {symbol}" for species, symbol in mapping["elements"].items())
    said = [f"wrote {output}: {len(positions)} frames, {mapping['length']}, {kind.precision}; species {named}"]
    said += [mapping["z"]] if mapping["z"] else []
    return said + [f"wrote {path}" for path in extra]


def _removed(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _planned(
    output: Path,
    to: str,
    system: ParticleSystem,
    positions: np.ndarray,
    columns: dict[str, np.ndarray],
    elements: Mapping[str, str] | None,
) -> tuple[Callable[[Path], Any], dict[Path, Callable[[Path], Any]]]:
    """How to write the file, and the files beside it."""
    kind = FORMATS[to]
    text = json.dumps(_mapping(system, to, columns, elements), indent=2) + "\n"
    extra: dict[Path, Callable[[Path], Any]] = {
        output.with_name(f"{output.name}.json"): lambda path: path.write_text(text, encoding="utf-8")
    }
    if kind.weights:
        return _write_ase(to, to_ase(system, positions, columns, elements)), extra
    if columns:
        table = _csv(columns)
        extra[output.with_name(f"{output.name}.weights.csv")] = lambda path: path.write_text(table, encoding="utf-8")
    trajectory = to_mdtraj(system, positions, elements)
    if kind.topology:
        if system.n_particles > 99_999:
            raise InputError(
                f"--to {to}: its topology file holds 99,999 particles, found {system.n_particles}; use traj"
            )
        extra[output.with_suffix(".pdb")] = lambda path: trajectory[:1].save_pdb(str(path))
    return _write_mdtraj(to, trajectory), extra
