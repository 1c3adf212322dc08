"""OpenMM as an energy provider: the catalogue's pair potentials, or any serialised OpenMM system."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from particlegen.energy.formulas import PairPotential
from particlegen.energy.frames import Frame, evaluate_frames
from particlegen.energy.openmm_xml import checked_xml
from particlegen.energy.provider import EnergyResult
from particlegen.geometry import FlatTorus, Positions
from particlegen.settings import InputError
from particlegen.system import ParticleSystem
from particlegen.units import OPENMM
from particlegen.validation import near_matches

__all__ = ["OpenMMEnergy"]

# r is stretched by a parameter that stays at 1, so that its derivative is Σ r U'(r), which OpenMM does not report.
_PAIR_EXPRESSION = (
    "step(cutoff2 - 1/s2)*epsilon*(s2^3*(c12*s2^3 + c6) + c0 + (c2 + c4/s2)/s2); s2 = (sigma/(stretch*r))^2; "
)
_BY_SPECIES = "sigma = sigmas(kind1, kind2); epsilon = epsilons(kind1, kind2)"
_BY_DIAMETER = (
    "sigma = 0.5*(diameter1 + diameter2)*(1 - nonadditivity*abs(diameter1 - diameter2)); "
    "epsilon = epsilons(kind1, kind2)"
)
_ROUNDING = 1e-9
"""By how much, relatively, a cutoff may exceed half the box through rounding."""


def _openmm() -> Any:
    try:
        import openmm
        import openmm.unit
    except ImportError as error:
        raise InputError("OpenMM is not installed; pip install 'particlegen[openmm]'") from error
    return openmm


class OpenMMEnergy:
    """Energies by OpenMM, one configuration at a time in a context that is kept.

    Reduced units are read as OpenMM's own, one σ as 1 nm and one ε as 1 kJ/mol; eV and Å are converted. On the
    platform `Reference` all is float64; `CPU` and, by default, `CUDA` sum forces in single precision.

    Make one with `of_pairs` or `of_xml`.
    """

    differentiable = False
    device = torch.device("cpu")

    def __init__(self, system: ParticleSystem, openmm_system: Any, platform: str, threads: int | None, virial: bool):
        openmm = _openmm()
        available = [openmm.Platform.getPlatform(k).getName() for k in range(openmm.Platform.getNumPlatforms())]
        if platform not in available:
            raise InputError(f"OpenMM has no platform {platform!r} here: {near_matches(platform, available)}")
        properties = {"Threads": str(threads)} if platform == "CPU" and threads else {}
        self._system, self._platform, self._virial = system, platform, virial
        self._length, self._energy = OPENMM[system.units]
        self._energy_unit = openmm.unit.kilojoule_per_mole
        self._force_unit = self._energy_unit / openmm.unit.nanometer
        try:
            self._context = openmm.Context(
                openmm_system,
                openmm.VerletIntegrator(1.0),
                openmm.Platform.getPlatformByName(platform),
                properties,
            )
        except openmm.OpenMMException as error:
            raise InputError(f"system {system.name!r} does not run on OpenMM's {platform}: {error}") from error

    @classmethod
    def of_pairs(
        cls, system: ParticleSystem, potential: PairPotential, platform: str = "Reference", threads: int | None = 1
    ) -> "OpenMMEnergy":
        """The pair potential of a card, for mixtures (parameters per pair of species) and polydisperse systems.

        Raises:
            InputError: OpenMM or the platform is missing, or the cutoff exceeds half the box.
        """
        openmm = _openmm()
        reach = potential.largest_cutoff(system)
        if isinstance(system.geometry, FlatTorus):
            half = 0.5 * min(system.geometry.lengths)
            if reach > half * (1 + _ROUNDING):
                raise InputError(
                    f"system {system.name!r}: OpenMM takes no cutoff beyond half the box, and {reach:.6g} is beyond "
                    f"{half:.6g}; use the torch engine"
                )
            reach = min(reach, half)
        length, energy = OPENMM[system.units]
        polydisperse = potential.nonadditivity is not None
        force = openmm.CustomNonbondedForce(_PAIR_EXPRESSION + (_BY_DIAMETER if polydisperse else _BY_SPECIES))
        for name, value in zip(("c12", "c6", "c0", "c2", "c4"), potential.coefficients, strict=True):
            force.addGlobalParameter(name, value)
        force.addGlobalParameter("cutoff2", potential.cutoff**2 if np.isfinite(potential.cutoff) else 1e300)
        force.addGlobalParameter("stretch", 1.0)
        force.addEnergyParameterDerivative("stretch")
        kinds = len(system.species_names)
        force.addPerParticleParameter("kind")
        tables = {"epsilons": np.asarray(potential.epsilon) * energy}
        if polydisperse:
            force.addPerParticleParameter("diameter")
            force.addGlobalParameter("nonadditivity", (potential.nonadditivity or 0.0) / length)
        else:
            tables["sigmas"] = np.asarray(potential.sigma) * length
        for name, table in tables.items():
            force.addTabulatedFunction(name, openmm.Discrete2DFunction(kinds, kinds, table.ravel().tolist()))
        made = openmm.System()
        diameters = system.diameters or (0.0,) * system.n_particles
        for kind, diameter in zip(system.species, diameters, strict=True):
            made.addParticle(1.0)
            force.addParticle([float(kind), diameter * length] if polydisperse else [float(kind)])
        _set_box(made, system, 2.0 * reach * length)
        if np.isfinite(reach):
            periodic = system.geometry.periodic
            force.setNonbondedMethod(force.CutoffPeriodic if periodic else force.CutoffNonPeriodic)
            force.setCutoffDistance(reach * length)
        made.addForce(force)
        return cls(system, made, platform, threads, virial=True)

    @classmethod
    def of_xml(
        cls, system: ParticleSystem, xml: str | Path, platform: str = "Reference", threads: int | None = 1
    ) -> "OpenMMEnergy":
        """Any OpenMM `System`, as `openmm.XmlSerializer` wrote it; its particles are those of `system`, in order.

        The box is that of `system`. Constraints and virtual sites are OpenMM's matter and not enforced here.

        Raises:
            InputError: the file is missing or no OpenMM system, it holds Python code, or it has another number of
                particles.
        """
        openmm = _openmm()
        try:
            made = openmm.XmlSerializer.deserialize(checked_xml(Path(xml)))
        except (openmm.OpenMMException, ValueError) as error:
            raise InputError(f"{xml}: no serialised OpenMM system: {error}") from error
        if not isinstance(made, openmm.System):
            raise InputError(f"{xml}: holds a {type(made).__name__}, expected an OpenMM System")
        if made.getNumParticles() != system.n_particles:
            raise InputError(
                f"{xml}: has {made.getNumParticles()} particles, system {system.name!r} has {system.n_particles}"
            )
        _set_box(made, system, 0.0)
        return cls(system, made, platform, threads, virial=False)

    @property
    def name(self) -> str:
        return f"openmm_{self._platform.lower()}"

    @property
    def system(self) -> ParticleSystem:
        return self._system

    @property
    def settings(self) -> Mapping[str, Any]:
        """Platform, version, and the SHA-256 of the system that OpenMM runs, as its XML."""
        openmm = _openmm()
        xml = openmm.XmlSerializer.serialize(self._context.getSystem())
        return {
            "engine": "openmm",
            "platform": self._platform,
            "system_sha256": hashlib.sha256(xml.encode()).hexdigest(),
            "versions": {"openmm": openmm.Platform.getOpenMMVersion()},
        }

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is offered beside the energy."""
        return ("forces", "virial") if self._virial or not self._system.geometry.periodic else ("forces",)

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        """Energies `(batch,)`, forces `(batch, particle, dim)`, virial W = −Σ r U'(r) `(batch,)`; float64.

        The virial of a system that came as XML is offered in free space alone (Σ x·F).

        Raises:
            ValueError: positions of another N or dimension, or a quantity in `want` that is not offered.
        """
        return evaluate_frames(self._system, positions, want, self.quantities, self._one)

    def _one(self, positions: np.ndarray, want: Sequence[str]) -> Frame:
        dim = self._system.dim
        x = np.zeros((len(positions), 3))
        x[:, :dim] = positions * self._length
        self._context.setPositions(x)
        by_forces = "virial" in want and not self._virial
        state = self._context.getState(
            energy=True, forces="forces" in want or by_forces, parameterDerivatives="virial" in want and self._virial
        )
        forces, virial = None, None
        energy = state.getPotentialEnergy().value_in_unit(self._energy_unit) / self._energy
        if "forces" in want or by_forces:
            pull = state.getForces(asNumpy=True).value_in_unit(self._force_unit)
            forces = pull[:, :dim] * (self._length / self._energy)
        if "virial" in want:
            by_stretch = -state.getEnergyParameterDerivatives()["stretch"] / self._energy if self._virial else None
            virial = float((positions * forces).sum()) if by_stretch is None else by_stretch
        return Frame(energy, forces if "forces" in want else None, virial)


def _set_box(made: Any, system: ParticleSystem, least: float) -> None:
    """The system's box; in two dimensions with a third edge of at least `least`, in which nothing happens."""
    if not isinstance(system.geometry, FlatTorus):
        return
    length = OPENMM[system.units][0]
    edges = [edge * length for edge in system.geometry.lengths]
    edges += [max(least, *edges)] * (3 - len(edges))
    made.setDefaultPeriodicBoxVectors(*np.diag(edges).tolist())
