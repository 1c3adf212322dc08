"""The `reference:` section of a workflow."""

import math
from typing import Literal

from pydantic import Field, model_validator

from particlegen.settings import InputError, Section
from particlegen.system import ParticleSystem, ThermodynamicState

__all__ = ["DESCENT", "ReferenceSettings"]

DESCENT = 200
"""Energy calls of a chain of `hmc` on the way down from random positions, before which no trajectory would pass."""


class ReferenceSettings(Section):
    """How the reference ensemble is sampled.

    Args:
        sampler: `displacement`, `swap` (displacements and swaps of two positions), `tempering` (a ladder of
            temperatures per chain): compiled, for pair potentials; `hmc` (trajectories): any engine with forces.
        chains: independent chains; the diagnosis compares them.
        frames: frames recorded in total, over all chains; rounded up to a multiple of `chains`.
        sweeps_between_frames: a sweep is N trial moves (per temperature), or one trajectory.
        equilibration_sweeps: sweeps before the first frame: annealing from random positions, tuning of step sizes,
            and a last third with the steps frozen.
        leapfrog_steps: of a trajectory of `hmc`, default 10; 1 is the Metropolis-adjusted Langevin algorithm.
        swap_fraction: share of the trial moves that are swaps; default 0.2 for `swap`, else 0.
        temperatures: the ladder of `tempering`; holds the system's temperature. Default: geometric, up to 4 times it.
        sweeps_between_exchanges: sweeps between attempts to exchange temperatures.
        block_frames: frames per block, over all chains: what is held in memory and written at a time.
        workers: processes that share the chains; the result does not depend on it.
    """

    sampler: Literal["displacement", "swap", "tempering", "hmc"] = "displacement"
    chains: int = Field(default=16, ge=1, le=100_000)
    frames: int = Field(default=20_000, ge=1)
    sweeps_between_frames: int = Field(default=100, ge=1)
    equilibration_sweeps: int = Field(default=10_000, ge=0)
    leapfrog_steps: int | None = Field(default=None, ge=1, le=10_000)
    swap_fraction: float | None = Field(default=None, ge=0.0, lt=1.0)
    temperatures: tuple[float, ...] | None = None
    sweeps_between_exchanges: int = Field(default=10, ge=1)
    block_frames: int = Field(default=2048, ge=1, le=1_000_000)
    workers: int = Field(default=1, ge=1, le=1024)

    @model_validator(mode="after")
    def _consistent(self) -> "ReferenceSettings":
        if self.temperatures is not None:
            if self.sampler != "tempering":
                raise ValueError(f"temperatures: a ladder belongs to sampler 'tempering', found {self.sampler!r}")
            if len(set(self.temperatures)) < 2 or len(set(self.temperatures)) < len(self.temperatures):
                raise ValueError(f"temperatures: expected at least two different ones, found {self.temperatures}")
            if not min(self.temperatures) > 0:
                raise ValueError(f"temperatures: all must be positive, found {self.temperatures}")
        if self.sampler in ("displacement", "hmc") and self.swap_fraction:
            raise ValueError(f"swap_fraction: sampler {self.sampler!r} makes no swaps; use 'swap' or drop the key")
        if self.sampler != "hmc" and self.leapfrog_steps is not None:
            raise ValueError(f"leapfrog_steps: sampler {self.sampler!r} has no trajectories; use 'hmc' or drop the key")
        return self

    @property
    def frames_per_chain(self) -> int:
        return -(-self.frames // self.chains)

    @property
    def chunk_frames(self) -> int:
        """Frames of each chain in one block."""
        return min(self.frames_per_chain, max(1, self.block_frames // self.chains))

    @property
    def chunks(self) -> int:
        """Number of blocks that `sample_reference` yields."""
        return -(-self.frames_per_chain // self.chunk_frames)

    def frames_of(self, chunk: int) -> int:
        """Frames of each chain in that block; the last one may be shorter."""
        return min(self.chunk_frames, self.frames_per_chain - chunk * self.chunk_frames)

    @property
    def method(self) -> str:
        """The sampler in words."""
        if self.sampler == "hmc":
            return "Langevin Monte Carlo" if self.leaps == 1 else "Hamiltonian Monte Carlo"
        return f"{self.sampler} Monte Carlo"

    @property
    def leaps(self) -> int:
        """Leapfrog steps of a trajectory: its energy calls."""
        return 10 if self.leapfrog_steps is None else self.leapfrog_steps

    @property
    def swap_share(self) -> float:
        if self.swap_fraction is None:
            return 0.2 if self.sampler == "swap" else 0.0
        return self.swap_fraction

    def ladder(self, system: ParticleSystem, state: ThermodynamicState) -> tuple[float, ...]:
        """The temperatures that a chain runs, coldest first; one unless the sampler is `tempering`.

        The default ladder is geometric with a ratio of 1 + 1.5/√(N d): energies of neighbours overlap when ΔT/T is
        about the reciprocal root of the heat capacity, taken as N d/2 (Kofke 2002).

        Raises:
            InputError: the given ladder does not hold the system's temperature.
        """
        target = state.temperature
        if self.sampler != "tempering":
            return (target,)
        if self.temperatures is None:
            ratio = 1.0 + 1.5 / math.sqrt(system.n_particles * system.dim)
            steps = max(1, math.ceil(math.log(4.0) / math.log(ratio)))
            return tuple(target * 4.0 ** (k / steps) for k in range(steps + 1))
        if not any(math.isclose(t, target, rel_tol=1e-9) for t in self.temperatures):
            raise InputError(
                f"reference.temperatures: {self.temperatures} does not hold the system's temperature {target}; add it"
            )
        return tuple(sorted(self.temperatures))

    def energy_calls(self, system: ParticleSystem, state: ThermodynamicState) -> float:
        """Planned cost in full-energy equivalents: N single-particle trial moves are 1; a swap moves two particles."""
        sweeps = self.equilibration_sweeps + self.frames_per_chain * self.sweeps_between_frames
        if self.sampler == "hmc":
            return self.chains * (DESCENT + 1 + sweeps * self.leaps)
        return self.chains * len(self.ladder(system, state)) * sweeps * (1.0 + self.swap_share)
