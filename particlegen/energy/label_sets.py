"""Labels as arrays to train on: from a label store, from a file, or as they come."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import ase
import ase.io
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from particlegen.energy.ase_engine import in_box_of
from particlegen.energy.fingerprint import canonical_system, geometry_hash
from particlegen.energy.label import Label
from particlegen.geometry import Positions
from particlegen.io.objects import elements_of
from particlegen.settings import InputError
from particlegen.system import ParticleSystem

__all__ = ["LabelSet"]


@dataclass(frozen=True, eq=False)
class LabelSet:
    """Configurations of one system with their energies, and forces where they are known.

    Args:
        system: the particles.
        positions: `(label, particle, dim)` float64.
        energies: `(label,)` in the system's unit of energy.
        forces: `(label, particle, dim)`; NaN for labels that have none.

    Raises:
        InputError: no labels, shapes that do not fit, energies or positions that are not finite.
    """

    system: ParticleSystem
    positions: Positions
    energies: Float[Tensor, " label"]
    forces: Positions

    def __post_init__(self):
        shape = (len(self.energies), self.system.n_particles, self.system.dim)
        for name in ("positions", "energies", "forces"):
            object.__setattr__(self, name, getattr(self, name).detach().to("cpu", torch.float64))
        for name in ("positions", "forces"):
            if tuple(getattr(self, name).shape) != shape:
                found = tuple(getattr(self, name).shape)
                raise InputError(f"labels of {self.system.name!r}: {name} have shape {found}, expected {shape}")
        if not len(self):
            raise InputError(f"labels of {self.system.name!r}: there are none; label some configurations first")
        if not (self.positions.isfinite().all() and self.energies.isfinite().all()):
            raise InputError(f"labels of {self.system.name!r}: energies and positions have to be finite numbers")

    def __len__(self) -> int:
        return len(self.energies)

    @property
    def known_forces(self) -> Bool[Tensor, " label"]:
        """Which labels have forces."""
        return self.forces.isfinite().all(2).all(1)

    def select(self, which: Tensor) -> "LabelSet":
        """The labels of a mask or of indices, a label as often as it is named."""
        return LabelSet(self.system, self.positions[which], self.energies[which], self.forces[which])

    def held_out(self, share: float) -> Bool[Tensor, " label"]:
        """Which labels to set aside: about that share, picked by the hash of each geometry.

        So a label stays on its side when others join.
        """
        hashes = (geometry_hash(self.system, x) for x in self.positions.numpy())
        return torch.tensor([int(text[:13], 16) < share * 16**13 for text in hashes])

    @classmethod
    def of_labels(cls, system: ParticleSystem, labels: Iterable[Label]) -> "LabelSet":
        """The converged labels of a system, such as `LabelStore.labels()` gives; those of other systems are left out.

        Raises:
            InputError: none is left, or they are of different engines.
        """
        ours = canonical_system(system)
        found = [label for label in labels if label.energy is not None and label.system == ours]
        engines = {label.settings_hash[:12] for label in found}
        if len(engines) > 1:
            raise InputError(
                f"labels of {system.name!r} come from engines with different settings ({', '.join(sorted(engines))}); "
                "take those of one: store.labels(settings_hash)"
            )
        shape = (len(found), system.n_particles, system.dim)
        nothing = np.full(shape[1:], np.nan)
        return cls(
            system,
            torch.from_numpy(np.array([label.positions for label in found]).reshape(shape)),
            torch.tensor([label.energy for label in found], dtype=torch.float64),
            torch.from_numpy(
                np.array([nothing if label.forces is None else label.forces for label in found]).reshape(shape)
            ),
        )

    @classmethod
    def of_file(cls, system: ParticleSystem, path: str | Path) -> "LabelSet":
        """The labels of an extended xyz file: energies, and forces where it has them, as ASE reads them.

        What `particlegen labels export` writes is one. Frames without an energy are failed labels and are left out.

        Raises:
            InputError: no such file, no extended xyz, or a frame of other particles or another box.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such file; check the path")
        try:
            frames = list(ase.io.iread(path, index=":", format="extxyz"))
        except Exception as error:  # ASE's readers raise whatever they stumble over
            raise InputError(f"{path}: ASE cannot read it as extended xyz ({error}); check the file") from error
        labels = []
        for number, atoms in enumerate(frames, start=1):
            _check_frame(system, atoms, f"{path}: frame {number}")
            found = {} if atoms.calc is None else atoms.calc.results
            if "energy" in found:
                nothing = np.full(atoms.positions.shape, np.nan)
                labels.append((atoms.positions, float(found["energy"]), found.get("forces", nothing)))
        if not labels:
            raise InputError(f"{path}: no frame has an energy; ASE reads it from `energy=` in the comment line")
        positions, energies, forces = (torch.from_numpy(np.array(column)) for column in zip(*labels, strict=True))
        return cls(system, positions[..., : system.dim], energies, forces[..., : system.dim])


def _check_frame(system: ParticleSystem, atoms: ase.Atoms, where: str) -> None:
    elements = elements_of(system)
    expected = [elements[system.species_names[s]] for s in system.species]
    if atoms.get_chemical_symbols() != expected:
        raise InputError(f"{where}: the atoms are {atoms.symbols}, expected {ase.Atoms(expected).symbols}, in order")
    if not in_box_of(system, atoms):
        lengths = list(getattr(system.geometry, "lengths", ()))
        raise InputError(
            f"{where}: cell {atoms.cell.array.tolist()} with pbc {atoms.pbc.tolist()}, expected the box "
            f"{lengths or 'of free space'} of system {system.name!r}"
        )
