"""Local moves within a basin: Hamiltonian Monte Carlo, with one leap the Metropolis-adjusted Langevin algorithm."""

from dataclasses import dataclass, replace

import torch

from particlegen.geometry import Positions
from particlegen.sampling.kernel import Info, State, accepts, start_chains, where
from particlegen.sampling.leapfrog import JITTER, Phase, energy_log_ratio, leapfrog, step_factor
from particlegen.sampling.target import IsomerTarget, centred

__all__ = ["HamiltonianMonteCarlo", "tuned"]


@dataclass(frozen=True)
class HamiltonianMonteCarlo:
    """Trajectories with fresh momenta, accepted by their end (Duane et al. 1987; Neal 2011).

    Momenta and forces have no part on the centroid, so positions stay centred. A trajectory that ends outside the basin
    or fails on its way is rejected.

    Args:
        target: what is sampled.
        step_size: length that a particle moves per leap at the speed that it has on average along one axis.
        leaps: leapfrog steps of a trajectory; 1 is the Metropolis-adjusted Langevin algorithm.
    """

    target: IsomerTarget
    step_size: float
    leaps: int = 10
    reversible = True

    def __post_init__(self):
        if not self.step_size > 0 or self.leaps < 1:
            raise ValueError(f"expected step_size > 0 and leaps >= 1, found {self.step_size} and {self.leaps}")

    @property
    def name(self) -> str:
        return "mala" if self.leaps == 1 else "hmc"

    def init(self, position: Positions) -> State:
        return start_chains(self.target, position, forces=True)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        target, before = self.target, self.target.engine.calls
        state = self._with_forces(state)
        momenta = centred(torch.randn(state.positions.shape, generator=generator, dtype=torch.float64))
        jitter = 2.0 * torch.rand(len(momenta), generator=generator, dtype=torch.float64) - 1.0
        ready = state.forces.isfinite().all(2).all(1)
        start = Phase(state.positions, momenta, state.energies, state.forces, ready)
        steps = self.step_size * (1.0 + JITTER * jitter)
        end = leapfrog(target.evaluate, target.geometry, start, target.beta, steps, self.leaps)
        inside = end.ok.clone()
        inside[end.ok] = target.inside(end.positions[end.ok], state.labels[end.ok])
        log_ratio = torch.where(inside, energy_log_ratio(start, end, target.beta), -torch.inf)
        accepted = accepts(log_ratio, generator)
        reached = State(centred(end.positions), state.labels, end.energies, end.forces)
        left, ones = end.ok & ~inside, torch.ones_like(state.labels)
        info = Info(ones, accepted.long(), left.long(), (~end.ok).long(), target.engine.calls - before)
        return where(accepted, reached, state), info

    def _with_forces(self, state: State) -> State:
        """Forces found where a kernel that needs none has left NaN; still NaN where the engine fails now."""
        rows = state.forces.isnan().any(2).any(1).nonzero()[:, 0]
        if len(rows) == 0:
            return state
        _, found, ok = self.target.evaluate(state.positions[rows])
        forces = state.forces.clone()
        forces[rows] = torch.where(ok[:, None, None], found, torch.nan)
        return replace(state, forces=forces)


def tuned(
    kernel: HamiltonianMonteCarlo, state: State, generator: torch.Generator, rounds: int = 24, steps: int = 10
) -> tuple[HamiltonianMonteCarlo, State]:
    """The kernel with its step tuned to the best acceptance, and where the chains are then.

    States on the way do not follow the target, as the step depends on the past; with the kernel returned, whose step is
    frozen, they do.

    Args:
        rounds: after each the step is multiplied by 1/2 to 2.
        steps: of all chains in a round.
    """
    for _ in range(rounds):
        state, total = kernel.step(state, generator)
        for _ in range(steps - 1):
            state, info = kernel.step(state, generator)
            total += info
        kernel = replace(kernel, step_size=kernel.step_size * step_factor(total.acceptance, kernel.leaps))
    return kernel, state
