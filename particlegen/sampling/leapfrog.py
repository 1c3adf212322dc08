"""The dynamics that Hamiltonian Monte Carlo proposes by, and the engine that it asks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from particlegen.energy.failures import check_failures
from particlegen.energy.provider import EnergyProvider
from particlegen.geometry import Geometry
from particlegen.settings import RunError

__all__ = ["JITTER", "Engine", "Phase", "energy_log_ratio", "leapfrog", "step_factor"]

JITTER = 0.2
"""Steps vary by up to this share from one trajectory to the next, so that none closes on itself."""
_TARGET_ACCEPTANCE = {"mala": 0.574, "hmc": 0.651}
"""Optimal in high dimension: Roberts and Rosenthal (1998) for one leap, Beskos et al. (2013) for many."""


class Engine:
    """An energy provider as samplers ask it: answers on the CPU; calls, and those that failed, counted; the first
    reason to fail kept."""

    def __init__(self, provider: EnergyProvider):
        self.provider, self.calls, self.failures = provider, 0, 0
        self.first_failure: str | None = None

    def evaluate(self, x: Tensor, forces: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Energies, forces (NaN where not asked for), and whether they can be used.

        Raises:
            RunError: the provider gives no forces.
        """
        self.calls += len(x)
        want = ("energy", "forces") if forces else ("energy",)
        found = self.provider.evaluate(x.to(self.provider.device), want)
        energy = found.energy.detach().cpu()
        self.failures += int((~found.ok).sum())
        ok = found.ok.cpu() & energy.isfinite()
        if not forces:
            pulls = torch.full_like(x, torch.nan)
        elif found.forces is None:
            raise RunError(f"{self.provider.name} gives no forces; Hamiltonian Monte Carlo needs them")
        else:
            pulls = found.forces.detach().cpu()
            ok &= pulls.isfinite().all(2).all(1)
        if self.first_failure is None and not ok.all():
            self.first_failure = found.reasons[int((~ok).nonzero()[0])] or "the energy is not finite"
        return energy, pulls, ok

    def check(self) -> None:
        """Raise RunError where more than half of the calls failed, see `check_failures`."""
        check_failures(self.provider.name, self.calls, self.failures, self.first_failure)


@dataclass(frozen=True)
class Phase:
    """Chains in phase space.

    Args:
        positions, momenta, forces: `(chain, N, dim)`.
        energies: `(chain,)`.
        ok: `(chain,)`; False where there is no energy or no force.
    """

    positions: Tensor
    momenta: Tensor
    energies: Tensor
    forces: Tensor
    ok: Tensor


def leapfrog(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    geometry: Geometry,
    start: Phase,
    beta: float,
    steps: Tensor,
    leaps: int,
) -> Phase:
    """`leaps` steps of the dynamics of βU + p²/2 (Duane et al. 1987); a chain that fails stands still.

    Only its end decides whether a trajectory is accepted: on the way it may leave the target's support.

    Args:
        evaluate: positions to energies, forces, and whether they can be used.
        geometry: whose `shift` moves the particles.
        start: where it begins.
        beta: 1/kT.
        steps: length of a step, `(chain,)` or, where particles have masses, `(chain, N)`.
        leaps: number of steps.
    """
    scale = steps[:, :, None] if steps.ndim == 2 else steps[:, None, None]
    pull = beta * scale
    x, u, f, alive = (part.clone() for part in (start.positions, start.energies, start.forces, start.ok))
    p = start.momenta + 0.5 * pull * f
    for leap in range(leaps):
        going = alive.nonzero()[:, 0]
        if len(going) == 0:
            break
        x[going] = geometry.shift(x[going], scale[going] * p[going])
        u[going], f[going], alive[going] = evaluate(x[going])
        p = p + (0.5 if leap == leaps - 1 else 1.0) * pull * f
    return Phase(x, p, u, f, alive)


def energy_log_ratio(start: Phase, end: Phase, beta: float) -> Tensor:
    """log of the Metropolis ratio of a trajectory `(chain,)`: minus the change of βU + p²/2."""
    kinetic = 0.5 * (start.momenta.square() - end.momenta.square()).sum((1, 2))
    return kinetic + beta * (start.energies - end.energies)


def step_factor(acceptance: float, leaps: int) -> float:
    """What a step is multiplied by in tuning, 1/2 to 2: acceptance over the best one for so many leaps."""
    goal = _TARGET_ACCEPTANCE["mala" if leaps == 1 else "hmc"]
    return min(max(acceptance / goal, 0.5), 2.0)
