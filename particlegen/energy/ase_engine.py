"""ASE both ways: any ASE calculator as an energy provider, and any provider as an ASE calculator."""

import inspect
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import ase
import numpy as np
import torch
from ase.calculators.calculator import (
    BadConfiguration,
    CalculationFailed,
    Calculator,
    FileIOCalculator,
    all_changes,
    get_calculator_class,
)
from ase.calculators.genericfileio import GenericFileIOCalculator
from ase.calculators.names import names as registered_names
from ase.data import atomic_numbers

from particlegen.energy.frames import Frame, evaluate_frames
from particlegen.energy.provider import EnergyProvider, EnergyResult
from particlegen.geometry import FlatTorus, Positions
from particlegen.settings import InputError
from particlegen.system import ParticleSystem
from particlegen.validation import near_matches

__all__ = ["ASEEnergy", "ProviderCalculator", "ase_calculator", "in_box_of"]

_CELL_TOLERANCE = 1e-9

_SILENT = ("emt", "ff", "lj", "morse", "tersoff")
"""Calculators that drop unknown keywords without a word; signature and `default_parameters` name all that they read."""
_DROPPED = "WARNING: Ignoring the following unknown keywords"
"""How a calculator's warning begins that keywords were dropped."""


def ase_calculator(name: str, parameters: Mapping[str, Any] | None = None) -> Calculator:
    """The ASE calculator registered under `name`, made with `parameters`.

    Keywords that it does not know are refused where ASE lets one know which it does; the docs on engines say where.

    Raises:
        InputError: no such name, the program or package behind it is missing, or parameters that it refuses or drops.

    >>> type(ase_calculator("emt")).__name__
    'EMT'
    """
    if name not in registered_names:
        raise InputError(f"ASE calculator {name!r} is not registered with ASE: {near_matches(name, registered_names)}")
    keywords = dict(parameters or {})
    try:
        kind = get_calculator_class(name)
        if name in _SILENT:
            _check_keywords(name, kind, keywords)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=_DROPPED)
            return kind(**keywords)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f"ASE calculator {name!r} cannot be imported: {error}; install what it needs") from error
    except (BadConfiguration, TypeError, ValueError, KeyError, NotImplementedError, RuntimeError, UserWarning) as error:
        raise InputError(f"ASE calculator {name!r} with {keywords}: {error}") from error


def _check_keywords(name: str, kind: type[Calculator], keywords: Mapping[str, Any]) -> None:
    """Raises InputError for keywords that are neither in the signature nor among the default parameters."""
    signature = inspect.signature(kind).parameters.values()
    named = {parameter.name for parameter in signature if parameter.kind is not parameter.VAR_KEYWORD}
    known = sorted(named | set(kind.default_parameters))
    unknown = [f"unknown keyword {key!r}: {near_matches(key, known)}" for key in keywords if key not in known]
    if unknown:
        raise InputError(f"ASE calculator {name!r}: {'; '.join(unknown)}")


def _atoms(system: ParticleSystem, elements: Mapping[str, str], positions: np.ndarray) -> ase.Atoms:
    """ASE's picture of a configuration; one σ is 1 Å, one ε 1 eV, and two dimensions lie at z = 0."""
    x = np.zeros((len(positions), 3))
    x[:, : system.dim] = positions
    symbols = [elements[system.species_names[s]] for s in system.species]
    if not isinstance(system.geometry, FlatTorus):
        return ase.Atoms(symbols, positions=x)
    cell, pbc = np.zeros(3), np.zeros(3, dtype=bool)
    cell[: system.dim], pbc[: system.dim] = system.geometry.lengths, True
    return ase.Atoms(symbols, positions=x, cell=cell, pbc=pbc)


class ASEEnergy:
    """Energies of an ASE calculator, one configuration at a time on the CPU, in its units (eV, Å; or read as ε, σ).

    Forces are offered where the calculator has them; the virial in free space (Σ x·F) and, where the calculator has
    stresses, in a three-dimensional box. What the calculator raises becomes a failed item with that reason.

    Args:
        system: the particles.
        calculator: an ASE calculator, or the name of a registered one.
        elements: chemical symbol of every species name; without it the names themselves have to be symbols.
        name: what the ledger calls this engine; default `ase_` and the calculator's name.
        parameters: what a calculator that is named is made with.
        stated: what the calculator's answers depend on, for label stores: method, parameters, versions. Known without
            it where `calculator` is the name of one that runs inside Python.

    Raises:
        InputError: an unknown calculator, or species that are no chemical elements.
    """

    differentiable = False
    device = torch.device("cpu")

    def __init__(
        self,
        system: ParticleSystem,
        calculator: Calculator | str,
        elements: Mapping[str, str] | None = None,
        name: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        stated: Mapping[str, Any] | None = None,
    ):
        self._by_name, self._stated = isinstance(calculator, str), stated
        self._calculator = ase_calculator(calculator, parameters) if isinstance(calculator, str) else calculator
        self._system = system
        self.elements = dict(elements or {species: species for species in system.species_names})
        missing = [name for name in system.species_names if self.elements.get(name) not in atomic_numbers]
        if missing:
            raise InputError(
                f"system {system.name!r}: ASE needs a chemical symbol for the species {', '.join(missing)}; state them "
                "under 'elements'"
            )
        self._name = name or f"ase_{type(self._calculator).__name__.lower()}"

    @property
    def name(self) -> str:
        return self._name

    @property
    def system(self) -> ParticleSystem:
        return self._system

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was stated; else class, parameters and version of a calculator that was given by name.

        Raises:
            InputError: a calculator that was handed in, or one that runs an external program: what its answers depend
                on cannot be read off it.
        """
        known: dict[str, Any] = {"engine": "ase", "elements": self.elements}
        if self._stated is not None:
            return known | dict(self._stated)
        kind = type(self._calculator)
        if not self._by_name or issubclass(kind, FileIOCalculator | GenericFileIOCalculator):
            raise InputError(
                f"{self.name}: what {kind.__name__}'s answers depend on cannot be read off it; state method, "
                "parameters and versions: ASEEnergy(..., stated={...})"
            )
        package = kind.__module__.partition(".")[0]
        versions = {"ase": ase.__version__} | {package: str(getattr(sys.modules[package], "__version__", None))}
        calculator = f"{kind.__module__}.{kind.__qualname__}"
        return known | {
            "calculator": calculator,
            "parameters": dict(self._calculator.parameters or {}),
            "versions": versions,
        }

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is offered beside the energy."""
        offered = self._calculator.implemented_properties
        by_stress = self._system.geometry.periodic and self._system.dim == 3 and "stress" in offered
        virial = by_stress or ("forces" in offered and not self._system.geometry.periodic)
        return tuple(name for name, has in (("forces", "forces" in offered), ("virial", virial)) if has)

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        """Energies `(batch,)`, and forces `(batch, particle, dim)` and virial `(batch,)` where offered; float64.

        Raises:
            ValueError: positions of another N or dimension, or a quantity in `want` that is not offered.
        """
        return evaluate_frames(self._system, positions, want, self.quantities, self._one)

    def _one(self, positions: np.ndarray, want: Sequence[str]) -> Frame:
        atoms = _atoms(self._system, self.elements, positions)
        # Neighbour lists and wave functions of what was computed before would show in the last digits.
        self._calculator.reset()
        atoms.calc = self._calculator
        energy, forces, virial = float(atoms.get_potential_energy()), None, None
        periodic = self._system.geometry.periodic
        if "forces" in want or ("virial" in want and not periodic):
            forces = np.asarray(atoms.get_forces())[:, : self._system.dim]
        if "virial" in want:
            stress = None if periodic is False else atoms.get_stress()
            virial = (
                float((positions * forces).sum()) if stress is None else -atoms.get_volume() * float(stress[:3].sum())
            )
        return Frame(energy, forces if "forces" in want else None, virial)


def in_box_of(system: ParticleSystem, atoms: ase.Atoms) -> bool:
    """Whether atoms have the box and the periodicity of a system."""
    lengths = np.array(getattr(system.geometry, "lengths", ()))
    box = atoms.cell.array[: len(lengths), : len(lengths)]
    same = np.allclose(box, np.diag(lengths), rtol=_CELL_TOLERANCE, atol=0.0)
    return atoms.pbc.tolist() == [axis < len(lengths) for axis in range(3)] and same


class ProviderCalculator(Calculator):
    """An energy provider as an ASE calculator, so that `ase.optimize` and `ase.md` run on it.

    In `metal` units these are ASE's own eV and Å; in reduced units one ε is read as 1 eV and one σ as 1 Å.

    Args:
        provider: of a system with as many particles as the atoms have, in the same order of species.

    Raises (when it calculates):
        InputError: atoms of another number, box or periodicity.
        ase.calculators.calculator.CalculationFailed: the provider could not answer; carries its reason.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, provider: EnergyProvider):
        super().__init__()
        self.provider = provider

    def calculate(self, atoms=None, properties=("energy", "forces"), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        system, found = self.provider.system, cast(ase.Atoms, self.atoms)
        if len(found) != system.n_particles:
            raise InputError(f"system {system.name!r} has {system.n_particles} particles, the atoms are {len(found)}")
        if not in_box_of(system, found):
            lengths = getattr(system.geometry, "lengths", ())
            raise InputError(
                f"system {system.name!r} has the box {lengths or 'of free space'}, the atoms have "
                f"{found.cell.array.tolist()} with pbc {found.pbc.tolist()}; give them the system's"
            )
        x = torch.from_numpy(found.positions[None, :, : system.dim].copy())
        result = self.provider.evaluate(x, ("energy", "forces"))
        if not result.ok[0] or result.forces is None:
            raise CalculationFailed(f"{self.provider.name}: {result.reasons[0] or 'no forces'}")
        forces = np.zeros((len(found), 3))
        forces[:, : system.dim] = result.forces[0].detach().cpu().numpy()
        self.results = {"energy": float(result.energy[0]), "forces": forces}
