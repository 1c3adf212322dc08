"""The schema of `pyscf` cards, and the checks that a level of theory fits a system."""

import importlib
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from ase.data import atomic_numbers
from pydantic import Field

from particlegen import catalogue
from particlegen.energy.electrons import electrons_and_unpaired
from particlegen.settings import InputError, Section
from particlegen.system import ParticleSystem
from particlegen.validation import parse_section

__all__ = ["PySCFSettings", "check_level", "load_pyscf_settings", "pyscf"]

# Names only: PySCF would also take the text of a basis, or read a file.
BasisName = Annotated[str, Field(pattern=r"^[A-Za-z0-9+*(),_ -]+$")]
ByElement = BasisName | dict[str, BasisName]


class PySCFSettings(Section):
    """A level of theory: the body of a card in `potentials/`, and all that the energy depends on beside the geometry.

    Args:
        functional: of libxc, as PySCF names it; `hf` for Hartree-Fock.
        basis: name of a basis set, or one per element.
        ecp: name of the effective core potentials, or one per element; elements without one keep all electrons.
        charge: total, in elementary charges.
        multiplicity: 2S + 1; default 1 for an even number of electrons, 2 for an odd one.
        density_fitting: Coulomb and exchange integrals by density fitting; shifts energies: one choice per data set.
        auxiliary_basis: for the fit; default is PySCF's choice for the basis.
        grid_level: of the integration grid, 0 to 9.
        grid_response: whether forces count that the grid moves along, so that they are derivatives of the energy
            on the grid; without it the remaining error is that of the grid.
        convergence: of the energy between iterations, in Hartree; of the gradient, its square root.
        max_cycles: of each attempt at convergence.
        stability_rounds: how often an instability of an open shell is followed before it counts as failed.
        recheck_share: share of restarted energies that are checked with a fresh guess.
        memory_mb: PySCF's limit.
        threads: OpenMP threads. With more than one, sums differ in their last bits between calls.
        seconds_limit: wall time of one configuration, checked at every iteration; null for none.
        device: `gpu` runs on gpu4pyscf, `auto` where it and a device are found.
        citations: at least one.
    """

    version: Literal[1] = 1
    kind: Literal["pyscf"] = "pyscf"
    title: str = ""
    functional: str = Field(min_length=1)
    basis: ByElement
    ecp: ByElement | None = None
    charge: int = 0
    multiplicity: Annotated[int, Field(ge=1)] | None = None
    density_fitting: bool = True
    auxiliary_basis: BasisName | None = None
    grid_level: Annotated[int, Field(ge=0, le=9)] = 3
    grid_response: bool = True
    convergence: Annotated[float, Field(gt=0, le=1e-6)] = 1e-9
    max_cycles: Annotated[int, Field(ge=1)] = 60
    stability_rounds: Annotated[int, Field(ge=1)] = 3
    recheck_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    memory_mb: Annotated[int, Field(ge=500)] = 4000
    threads: Annotated[int, Field(ge=1)] = 1
    seconds_limit: Annotated[float, Field(gt=0)] | None = None
    device: Literal["auto", "cpu", "gpu"] = "cpu"
    citations: tuple[str, ...] = Field(min_length=1)

    def basis_of(self, element: str) -> str | None:
        return self.basis.get(element) if isinstance(self.basis, dict) else self.basis

    def ecp_of(self, element: str) -> str | None:
        return self.ecp.get(element) if isinstance(self.ecp, dict) else self.ecp


def load_pyscf_settings(name: str, relative_to: Path | None = None) -> PySCFSettings:
    """The level of theory on a card of the catalogue, or on your own card by its path.

    Raises:
        InputError: unknown card, one of another kind, or a bad key.

    >>> load_pyscf_settings("pyscf_pbe_lanl2dz").functional
    'pbe'
    """
    raw = catalogue.load("potentials", name, relative_to)
    if raw.data.get("kind") != "pyscf":
        raise InputError(f"{raw.path}: key 'kind': found {raw.data.get('kind')!r}; a level of theory has kind 'pyscf'")
    return parse_section(PySCFSettings, raw.data, str(raw.path))


def pyscf(module: str) -> Any:
    """A module of PySCF by its name within the package.

    Raises:
        InputError: PySCF is not installed.
    """
    try:
        return importlib.import_module(f"pyscf.{module}")
    except ImportError as error:
        raise InputError("PySCF is not installed; pip install 'particlegen[dft]'") from error


def check_level(system: ParticleSystem, settings: PySCFSettings) -> None:
    """That the level of theory exists and fits the system.

    Raises:
        InputError: PySCF is missing; units, geometry or species that are no molecule's; an unknown functional; a basis
            without an element, or whose core potential is not asked for; charge and multiplicity that do not fit.
    """
    pyscf("gto")
    if system.units != "metal" or system.geometry.periodic or system.dim != 3:
        raise InputError(f"system {system.name!r}: PySCF needs metal units (eV, Å) and free space in three dimensions")
    electrons_and_unpaired(system, settings.charge, settings.multiplicity)
    try:
        pyscf("dft.libxc").parse_xc(settings.functional)
    except (KeyError, ValueError) as error:
        raise InputError(f"functional {settings.functional!r}: libxc does not know it ({error})") from error
    for element in sorted({system.species_names[s] for s in system.species}):
        _check_element(element, settings)


def _quiet(load: Callable[..., Any], *arguments: Any) -> Any:
    """What PySCF's tables hold, without its advertisement of other packages; None where they hold nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return load(*arguments) or None
        except (RuntimeError, KeyError, ValueError, OSError):
            return None


def _check_element(element: str, settings: PySCFSettings) -> None:
    tables = pyscf("gto.basis")
    name, core = settings.basis_of(element), settings.ecp_of(element)
    for given in filter(None, (name, core, settings.auxiliary_basis)):
        if Path(given).exists():  # PySCF would take it, and evaluates what stands in it
            raise InputError(
                f"a file {given!r} lies in the current folder, and PySCF would read it as the basis of that "
                "name; rename it, or work in another folder"
            )
    shells = _quiet(tables.load, name, element) if name else None
    if shells is None:
        raise InputError(f"basis {name!r} has nothing for the element {element}; name another one for it")
    removed = 0
    if core is not None:
        potential = _quiet(tables.load_ecp, core, element)
        if potential is not None:
            removed = potential[0]
        elif isinstance(settings.ecp, dict) or _quiet(tables.load, core, element) is None:
            raise InputError(f"ecp {core!r} has nothing for the element {element}; name another one for it")
    if removed == 0 and _quiet(tables.load_ecp, name, element) is not None:
        raise InputError(
            f"basis {name!r} of the element {element} describes valence electrons only, and no effective core "
            f"potential is given for it; add 'ecp: {name}'"
        )
    fit = settings.auxiliary_basis if settings.density_fitting else None
    if fit is not None and _quiet(tables.load, fit, element) is None:
        raise InputError(f"auxiliary_basis {fit!r} has nothing for the element {element}; name another one")
    _check_shells(element, name, shells, removed)


def _check_shells(element: str, name: str | None, shells: list[Any], removed: int) -> None:
    """Enough functions of every angular momentum for the electrons that the core potential leaves in the free atom."""
    filled = pyscf("data.elements").CONFIGURATION[atomic_numbers[element]]
    cores = pyscf("gto.ecp").core_configuration(removed)
    for momentum, (electrons, core) in enumerate(zip(filled, cores, strict=False)):
        needed = math.ceil(electrons / (4 * momentum + 2)) - core
        found = sum(len(shell[-1]) - 1 for shell in shells if shell[0] == momentum)
        if found < needed:
            raise InputError(
                f"basis {name!r} has {found} shells of angular momentum {momentum} for the element {element}, whose "
                f"atom fills {needed}; its effective core potential is missing ('ecp'), or another basis is needed"
            )
