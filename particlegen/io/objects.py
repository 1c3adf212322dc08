"""Configurations as ASE and MDTraj objects, for other programs.

What they cannot say is mapped: 2D systems lie at z = 0 in a box of height `FLAT_HEIGHT`; reduced units map 1 σ to 1 Å
(ASE) or 0.1 nm (MDTraj); species become chemical elements.
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ase
import ase.data
import numpy as np

from particlegen.settings import InputError
from particlegen.system import ParticleSystem
from particlegen.units import EXPORT_LENGTH

if TYPE_CHECKING:
    import mdtraj

__all__ = ["FLAT_HEIGHT", "INSTALL", "box_edges", "elements_of", "import_mdtraj", "per_frame", "to_ase", "to_mdtraj"]

FLAT_HEIGHT = 1.0
"""Box length along z of a 2D system, in its own unit of length; z is not periodic in ASE."""

STAND_INS = ("Ar", "Kr", "Xe", "Ne", "Rn", "He")
"""Elements for the first, second, … species that is no element itself and has none stated."""

INSTALL = "install it: pip install 'particlegen[mdtraj]'"


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


def box_edges(system: ParticleSystem, factor: float) -> np.ndarray | None:
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
    placed, edges, symbols = _in_space(system, positions, factor), box_edges(system, factor), _symbols(system, elements)
    columns = per_frame(columns, len(placed))
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


def per_frame(columns: Mapping[str, np.ndarray] | None, frames: int) -> dict[str, np.ndarray]:
    checked = {name: np.asarray(column) for name, column in (columns or {}).items()}
    for name, column in checked.items():
        if column.shape != (frames,):
            raise ValueError(f"column {name!r}: expected one number for each of {frames} frames, found {column.shape}")
    return checked


def import_mdtraj() -> Any:
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
    mdtraj = import_mdtraj()
    factor = EXPORT_LENGTH[system.units, "nanometre"]
    placed, edges = _in_space(system, positions, factor), box_edges(system, factor)
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
