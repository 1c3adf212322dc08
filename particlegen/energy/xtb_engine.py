"""Semi-empirical tight binding (GFN1-xTB, GFN2-xTB) by tblite, as an energy provider."""

from typing import Literal

from particlegen.energy.ase_engine import ASEEnergy
from particlegen.energy.electrons import electrons_and_unpaired
from particlegen.settings import InputError
from particlegen.system import ParticleSystem

__all__ = ["xtb_energy"]


def xtb_energy(
    system: ParticleSystem,
    method: Literal["GFN1-xTB", "GFN2-xTB"] = "GFN2-xTB",
    charge: int = 0,
    multiplicity: int | None = None,
    accuracy: float = 0.01,
    electronic_temperature: float = 300.0,
    max_iterations: int = 250,
) -> ASEEnergy:
    """Tight binding of a molecule, cluster or crystal (Grimme et al. 2017; Bannwarth, Ehlert, Grimme 2019).

    Every configuration starts from a fresh guess, so its energy does not depend on what was computed before. One that
    does not converge fails. The energy is the free energy of the electrons at their Fermi temperature, in eV.

    Args:
        system: particles in `metal` units, species named by chemical symbols.
        method: parametrisation.
        charge: total, in elementary charges.
        multiplicity: 2S + 1; default 1 for an even number of electrons, 2 for an odd one.
        accuracy: tblite's factor on its thresholds of convergence (1e-6 Ha of energy at 1).
        electronic_temperature: of the electrons' occupation, in K.
        max_iterations: of the self-consistent charges.

    Raises:
        InputError: tblite is missing, reduced units, unknown species, or a multiplicity that the electrons cannot have.
    """
    try:
        from tblite.ase import TBLite
        from tblite.library import get_version
    except ImportError as error:
        raise InputError("tblite is not installed; pip install 'particlegen[xtb]'") from error
    if system.units != "metal":
        raise InputError(f"system {system.name!r}: {method} needs metal units (eV, Å), its units are {system.units}")
    if method not in ("GFN1-xTB", "GFN2-xTB"):
        raise InputError(f"unknown method {method!r}: expected GFN1-xTB or GFN2-xTB")
    _, unpaired = electrons_and_unpaired(system, charge, multiplicity)
    parameters = {
        "method": method,
        "charge": charge,
        "multiplicity": unpaired + 1,
        "accuracy": accuracy,
        "electronic_temperature": electronic_temperature,
        "max_iterations": max_iterations,
    }
    calculator = TBLite(**parameters, cache_api=False, verbosity=0)
    stated = {"calculator": "tblite", "parameters": parameters, "versions": {"tblite": _dotted(get_version())}}
    return ASEEnergy(system, calculator, name=method.lower().replace("-", "_"), stated=stated)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in version)
