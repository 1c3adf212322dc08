"""Minima, Hessians and the harmonic superposition approximation."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from particlegen.energy.ase_engine import ProviderCalculator
from particlegen.energy.provider import EnergyProvider
from particlegen.isomers.frame import EckartFrame
from particlegen.settings import InputError, RunError
from particlegen.system import ThermodynamicState
from particlegen.units import HBAR_SQUARED_PER_MASS

__all__ = ["HarmonicIsomer", "hessian", "optimise"]

_MOST_STEPS = 500


@dataclass(frozen=True, eq=False)
class HarmonicIsomer:
    """A minimum and the quadratic energy about it, in the coordinates of its frame.

    Args:
        frame: the minimum's labelled copy.
        energy: of the minimum.
        curvatures: `(3N − 6,)` eigenvalues of the Hessian, in energy over length squared, ascending.
        modes: `(3N − 6, 3N − 6)` its eigenvectors as columns, in the coordinates of the frame.
    """

    frame: EckartFrame
    energy: float
    curvatures: Float[Tensor, " d"]
    modes: Float[Tensor, "d d"]

    def sample(self, n: int, beta: float, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Displacements `(n, d)` of the harmonic ensemble at 1/kT = beta."""
        z = torch.randn(n, len(self.curvatures), generator=generator, dtype=torch.float64)
        return (z / (beta * self.curvatures).sqrt()) @ self.modes.T

    def free_energy(self, state: ThermodynamicState) -> float:
        """F = U₀ − kT ln[M 8π² √det I₀ ∏(2π kT/λ)^½], in the unit of energy, all labelled copies included.

        Source: Wales, Energy Landscapes (2003), harmonic superposition; exact as T → 0.
        """
        beta = state.beta
        volume = float(self.frame.log_volume(torch.zeros(1, self.frame.dimensions, dtype=torch.float64)))
        return self.energy - (volume + 0.5 * float((2.0 * math.pi / (beta * self.curvatures)).log().sum())) / beta

    def angular_frequencies(self, masses: Float[Tensor, " N"]) -> Float[Tensor, " d"]:
        """ω `(3N − 6,)` of the harmonic vibrations, ascending, in √(energy/mass)/length.

        Roots of the eigenvalues of the Hessian over √(mass × mass), less the six motions of the whole that have none.

        Args:
            masses: of the particles.

        Source: Wilson, Decius, Cross, Molecular Vibrations (1955), chapter 2.
        """
        basis = self.frame.basis.flatten(1) / masses.to(torch.float64).sqrt().repeat_interleave(3)
        matrix = (self.modes * self.curvatures) @ self.modes.T
        eigenvalues = torch.linalg.eigvalsh(basis.T @ matrix @ basis)[6:]
        return eigenvalues.sqrt()

    def zero_point_energy(self, masses: Float[Tensor, " N"]) -> float:
        """Σ ħω/2 of the harmonic vibrations, in eV; masses in atomic mass units."""
        return float((HBAR_SQUARED_PER_MASS**0.5 * self.angular_frequencies(masses)).sum()) / 2.0

    def quantum_correction(self, state: ThermodynamicState, masses: Float[Tensor, " N"]) -> float:
        """F_quantum − F_classical of the harmonic vibrations: kT Σ ln[2 sinh(βħω/2)/(βħω)], in eV.

        Args:
            state: temperature, in metal units.
            masses: of the particles, in atomic mass units.

        Raises:
            ValueError: reduced units.

        Source: Wales, Energy Landscapes (2003), harmonic superposition with quantum oscillators.
        """
        if state.units != "metal":
            raise ValueError("the quantum correction needs metal units; reduced ones do not know ħ")
        quanta = state.beta * HBAR_SQUARED_PER_MASS**0.5 * self.angular_frequencies(masses)
        return float((quanta / 2.0 + torch.log1p(-torch.exp(-quanta)) - quanta.log()).sum()) / state.beta


def optimise(
    provider: EnergyProvider, structure: Float[Tensor, "N 3"], largest_force: float
) -> tuple[Float[Tensor, "N 3"], float]:
    """The local minimum below a structure, and its energy; by ASE's BFGS.

    Args:
        provider: gives energy and forces.
        structure: where to start.
        largest_force: on any particle at the end.

    Raises:
        RunError: the engine failed, or the forces did not come down.
    """
    import ase
    from ase.calculators.calculator import CalculationFailed
    from ase.optimize import BFGS

    atoms = ase.Atoms("X" * len(structure), positions=structure.detach().cpu().numpy())
    atoms.calc = ProviderCalculator(provider)
    try:
        converged = BFGS(atoms, logfile=None, maxstep=0.1).run(fmax=largest_force, steps=_MOST_STEPS)
    except CalculationFailed as failure:
        raise RunError(f"optimisation: {failure}") from failure
    if not converged:
        raise RunError(f"optimisation with {provider.name}: forces above {largest_force:g} after {_MOST_STEPS} steps")
    x = torch.from_numpy(atoms.positions.copy())
    return x - x.mean(0), float(atoms.get_potential_energy())


def hessian(
    provider: EnergyProvider, frame: EckartFrame, energy: float, step: float, name: str = "the structure"
) -> HarmonicIsomer:
    """The quadratic energy about a minimum, from central differences of forces along the coordinates of its frame.

    Args:
        provider: 2 (3N − 6) energies with forces, asked in one batch.
        frame: of the minimum.
        energy: of the minimum.
        step: of the differences, in the unit of length; about a thermal displacement's tenth.
        name: of the isomer, for the error.

    Raises:
        RunError: the engine failed.
        InputError: a curvature is not positive: a saddle, not a minimum.
    """
    moved = step * torch.eye(frame.dimensions, dtype=torch.float64)
    x = frame.to_cartesian(torch.cat([moved, -moved]))
    found = provider.evaluate(x.to(provider.device), ("energy", "forces"))
    if not found.ok.all() or found.forces is None:
        raise RunError(f"Hessian of {name}: {next((text for text in found.reasons if text), 'no forces')}")
    slopes = -torch.einsum("bni,dni->bd", found.forces.detach().to("cpu", torch.float64), frame.basis)
    matrix = (slopes[: frame.dimensions] - slopes[frame.dimensions :]) / (2.0 * step)
    curvatures, modes = torch.linalg.eigh(0.5 * (matrix + matrix.T))
    if not bool((curvatures > 0).all()):
        low = int((curvatures <= 0).sum())
        raise InputError(
            f"isomer {name}: {low} of {len(curvatures)} curvatures are not positive with {provider.name}: this is a "
            "saddle, no minimum; displace the structure along its soft direction, optimise it, or choose another isomer"
        )
    return HarmonicIsomer(frame, energy, curvatures, modes)
