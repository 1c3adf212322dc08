"""Density-functional theory by PySCF as an energy provider whose answers depend on the geometry alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers
from jaxtyping import Bool, Float
from torch import Tensor

from particlegen.energy.canonical import CanonicalFrame, canonical_frame
from particlegen.energy.electrons import electrons_and_unpaired, nuclear_charges
from particlegen.energy.frames import Frame, evaluate_frames
from particlegen.energy.provider import EnergyResult, check_request
from particlegen.energy.pyscf_restart import ReferenceDensity, align, carried_over, nearest
from particlegen.energy.pyscf_scf import (
    Deadline,
    SCFError,
    SCFSolution,
    gradient,
    make_molecule,
    on_gpu,
    solve,
    spectrum,
)
from particlegen.energy.pyscf_settings import PySCFSettings, check_level, load_pyscf_settings
from particlegen.geometry import Positions
from particlegen.settings import InputError, RunError
from particlegen.streams import numpy_stream
from particlegen.system import ParticleSystem
from particlegen.units import BOHR, HARTREE

__all__ = ["Excitations", "PySCFEnergy"]

_BESIDE_THE_ENERGY = {"version", "kind", "title", "citations", "memory_mb", "threads", "seconds_limit"}
"""Keys of a card that change no energy beyond rounding."""
_AGREEMENT = 1e-6
"""By how much, in Hartree, a restarted energy may differ from that of a fresh guess."""


@dataclass(frozen=True)
class Excitations:
    """Vertical excitations of a batch; failure is data.

    Args:
        energies: `(batch, state)` in eV, ascending; NaN where `ok` is False.
        strengths: `(batch, state)` oscillator strengths, length gauge.
        ok: `(batch,)`.
        reasons: one per item, None where ok.
    """

    energies: Float[Tensor, "batch state"]
    strengths: Float[Tensor, "batch state"]
    ok: Bool[Tensor, " batch"]
    reasons: tuple[str | None, ...]


class PySCFEnergy:
    """Kohn-Sham energies and analytic forces (Sun et al. 2020), restricted for closed shells, else unrestricted.

    Every configuration is computed in its canonical frame, from a superposition of atoms: the energy is a function of
    the geometry, bit for bit with one thread and memory to spare, and the same for its rotated, reflected and
    renumbered copies. Energies in eV, forces in eV/Å, virial Σ x·F; forces are rotated back and freed of rigid motion.
    What does not converge, is unstable, or exceeds its wall time is a failed item.

    `restarted_from` gives an engine that starts from frozen densities instead; its energies are a function of the
    geometry and of those densities.

    Args:
        system: `metal` units, free space, species named by chemical symbols.
        settings: level of theory; `of_card` takes it from a card.

    Raises:
        InputError: PySCF is missing, or the level does not fit the system (see `check_level`).
    """

    differentiable = False
    device = torch.device("cpu")
    quantities = ("forces", "virial")

    def __init__(self, system: ParticleSystem, settings: PySCFSettings):
        check_level(system, settings)
        on_gpu(settings)
        self._system, self.level = system, settings
        self._charges = np.array(nuclear_charges(system), dtype=float)
        self._symbols = {atomic_numbers[name]: name for name in system.species_names}
        _, self._spin = electrons_and_unpaired(system, settings.charge, settings.multiplicity)
        self._references: tuple[ReferenceDensity, ...] = ()

    @classmethod
    def of_card(cls, system: ParticleSystem, name: str, relative_to: Path | None = None) -> "PySCFEnergy":
        """With the level of theory of a card, by name or path."""
        return cls(system, load_pyscf_settings(name, relative_to))

    @property
    def name(self) -> str:
        basis = self.level.basis
        return f"pyscf_{self.level.functional}_{basis if isinstance(basis, str) else 'mixed'}".lower()

    @property
    def system(self) -> ParticleSystem:
        return self._system

    @property
    def settings(self) -> Mapping[str, Any]:
        """The level of theory, the version, and a digest of the densities that were carried over."""
        level = self.level.model_dump(mode="json", exclude=_BESIDE_THE_ENERGY)
        references = [sha256(r.positions.tobytes() + r.density.tobytes()).hexdigest() for r in self._references]
        versions = {"pyscf": version("pyscf")}
        return {"engine": "pyscf", "level": level, "restarted_from": references, "versions": versions}

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        """Energies `(batch,)`, forces `(batch, particle, 3)`, virial `(batch,)`; float64.

        Raises:
            ValueError: positions of another N or dimension, or a quantity in `want` that is not offered.
        """
        return evaluate_frames(self._system, positions, want, self.quantities, self._one)

    def references(self, positions: Positions) -> tuple[ReferenceDensity, ...]:
        """Fresh densities of configurations to start others from; those that fail are left out.

        Raises:
            RunError: all fail.
        """
        found, reasons = [], []
        for x in positions.detach().to("cpu", torch.float64).numpy():
            frame = canonical_frame(x, self._charges)
            try:
                solution = self._fresh(frame.positions, frame.charges, Deadline.of(self.level))
            except SCFError as error:
                reasons.append(str(error))
            else:
                found.append(ReferenceDensity(frame.positions, frame.charges, solution.density, solution.energy))
        if not found:
            raise RunError(f"{self.name}: no reference converged: {'; '.join(reasons[:3]) or 'none was given'}")
        return tuple(found)

    def restarted_from(self, references: Sequence[ReferenceDensity]) -> "PySCFEnergy":
        """An engine that starts from the density of the nearest reference, carried over to the geometry at hand.

        A share `recheck_share` of the configurations, picked by a hash of the geometry, is computed from a fresh guess
        too; if the two energies differ by more than 1e-6 Ha, the item fails, and its reason tells both.

        Raises:
            InputError: references of other elements.
        """
        for reference in references:
            if not np.array_equal(reference.charges, np.sort(self._charges)):
                raise InputError(f"a reference has other elements than system {self._system.name!r}")
        engine = PySCFEnergy(self._system, self.level)
        engine._references = tuple(references)
        return engine

    def excitations(self, positions: Positions, states: int) -> Excitations:
        """The lowest excitations by linear-response TDDFT (Casida 1995), of the same spin for closed shells.

        The wall-time limit is checked before and after, not within, the response equations.

        Raises:
            ValueError: positions of another N or dimension.
            InputError: `states` is not positive.
        """
        check_request(self._system, positions, ("energy",), self.quantities)
        if states < 1:
            raise InputError(f"states: found {states}; give a positive number")
        found = np.full((2, len(positions), states), np.nan)
        reasons: list[str | None] = []
        for item, x in enumerate(positions.detach().to("cpu", torch.float64).numpy()):
            try:
                found[:, item] = self._spectrum(x, states)
                reasons.append(None)
            except Exception as error:  # as in `evaluate_frames`: whatever the engine raises becomes data
                reasons.append(f"{type(error).__name__}: {error}")
        ok = torch.tensor([reason is None for reason in reasons], dtype=torch.bool)
        return Excitations(torch.from_numpy(found[0]), torch.from_numpy(found[1]), ok, tuple(reasons))

    def orientation_scatter(
        self, positions: Positions, orientations: int = 8, seed: int = 0
    ) -> Float[Tensor, "batch orientation"]:
        """Energies in eV of random orientations, computed as they lie, less their mean.

        What the integration grid makes of a rotation, which the canonical frame hides: an error of every energy
        difference on this grid. All NaN where an orientation fails.
        """
        check_request(self._system, positions, ("energy",), self.quantities)
        found = np.full((len(positions), orientations), np.nan)
        for item, x in enumerate(positions.detach().to("cpu", torch.float64).numpy()):
            stream = numpy_stream(seed, "orientation", item)
            for k in range(orientations):
                turned = x @ np.linalg.qr(stream.normal(size=(3, 3)))[0]
                try:
                    found[item, k] = HARTREE * self._fresh(turned, self._charges, Deadline.of(self.level)).energy
                except SCFError:
                    continue  # stays NaN, and so does the row's mean
        return torch.from_numpy(found - found.mean(axis=1, keepdims=True))

    def solution(self, positions: Float[np.ndarray, "particle 3"]) -> tuple[CanonicalFrame, SCFSolution]:
        """One configuration's canonical frame and converged field, with the iterations that it took.

        Raises:
            SCFError: not converged, unstable, out of time, or two answers.
        """
        frame = canonical_frame(positions, self._charges)
        return frame, self._verified(frame, Deadline.of(self.level))

    def _one(self, positions: np.ndarray, want: Sequence[str]) -> Frame:
        deadline = Deadline.of(self.level)
        frame = canonical_frame(positions, self._charges)
        solution = self._verified(frame, deadline)
        if not {"forces", "virial"} & set(want):
            return Frame(HARTREE * solution.energy, iterations=solution.cycles)
        pull = -HARTREE / BOHR * gradient(solution, self.level, deadline)
        forces = frame.to_input(frame.without_rigid_motion(pull))
        return Frame(HARTREE * solution.energy, forces, float((positions * forces).sum()), solution.cycles)

    def _verified(self, frame: CanonicalFrame, deadline: Deadline) -> SCFSolution:
        if not self._references:
            return self._fresh(frame.positions, frame.charges, deadline)
        reference = nearest(self._references, frame)
        order, rotation = align(reference.positions, reference.charges, frame.positions, frame.charges)
        now = self._molecule(frame.positions, frame.charges)
        before = self._molecule(reference.positions[order] @ rotation, frame.charges)
        guess = carried_over(reference, order, rotation, before, now)
        solution = solve(now, self.level, deadline, guess)
        if _share_of(frame) < self.level.recheck_share:
            fresh = self._fresh(frame.positions, frame.charges, deadline)
            if abs(fresh.energy - solution.energy) > _AGREEMENT:
                raise SCFError(
                    f"the energy depends on the guess: {solution.energy:.9f} Ha restarted, {fresh.energy:.9f} Ha from "
                    "a fresh one"
                )
        return solution

    def _fresh(self, positions: np.ndarray, charges: np.ndarray, deadline: Deadline) -> SCFSolution:
        return solve(self._molecule(positions, charges), self.level, deadline)

    def _molecule(self, positions: np.ndarray, charges: np.ndarray):
        elements = [self._symbols[int(charge)] for charge in charges]
        return make_molecule(elements, positions, self.level, self._spin)

    def _spectrum(self, positions: np.ndarray, states: int) -> np.ndarray:
        """Energies in eV and strengths of one configuration, `(2, state)`."""
        if not np.isfinite(positions).all():
            raise SCFError("positions are not finite")
        deadline = Deadline.of(self.level)
        solution = self._verified(canonical_frame(positions, self._charges), deadline)
        energies, strengths = spectrum(solution, self.level, states, deadline)
        return np.stack([HARTREE * energies, strengths])


def _share_of(frame: CanonicalFrame) -> float:
    """A number in [0, 1) that the canonical geometry decides."""
    digest = sha256(np.ascontiguousarray(frame.positions).tobytes()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
