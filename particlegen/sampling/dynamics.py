"""Trajectories of clusters at constant energy, without drift and rotation.

Momenta are mass-weighted and in thermal units: p = √(βm) v, so that each component has a variance of 1 in equilibrium
and the dynamics is that of `leapfrog` with a step of √(1/βm) Δt for each particle: velocity Verlet (Swope, Andersen,
Berens, Wilson, J. Chem. Phys. 76, 637 (1982)).

**Without rotation.** Momenta are Maxwell's under the condition that total and angular momentum are 0, which leaves
3N − 6 components. Angular momentum is conserved, so that the ensemble with J = 0 is stationary; its positions have the
weight

    ∫ e^{−βH} δ(P) δ(J) dp ∝ e^{−βU} (det I)^{−1/2} ,

I the inertia tensor: `log_rest_weight` takes states of e^{−βU} to it. The vibrations themselves still turn a cluster
without angular momentum, in second order of the displacements; `turned_back` takes that out of the velocities.

**Within a basin.** A trajectory about to leave is sent back with its velocities reversed (`confined`). That is a
bijection of phase space within the basin that keeps volumes and energies, so that the ensemble cut to the basin stays
stationary too, and no trajectory has to be left out, which would leave the cold ones. A reversal breaks the phase of
the vibrations: it widens lines, as the lifetime of the isomer would.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from particlegen.geometry import Positions
from particlegen.sampling.leapfrog import Phase

__all__ = ["confined", "log_rest_weight", "rest_momenta", "thermal_steps", "total_energy", "turned_back"]

Masses = Float[Tensor, " particle"]


def _about_centre(x: Positions, masses: Masses) -> Positions:
    return x - (masses[:, None] * x).sum(1, keepdim=True) / masses.sum()


def confined(before: Phase, after: Phase, inside: Bool[Tensor, " chain"]) -> Phase:
    """Where trajectories go on: from `after` where that is inside, else from `before` with velocities reversed."""

    def chosen(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(inside.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return Phase(
        chosen(after.positions, before.positions),
        chosen(after.momenta, -before.momenta),
        chosen(after.energies, before.energies),
        chosen(after.forces, before.forces),
        chosen(after.ok, before.ok),
    )


def log_rest_weight(x: Positions, masses: Masses) -> Float[Tensor, " batch"]:
    """−½ ln det I: from states of e^{−βU} to those of the ensemble at zero angular momentum, up to a constant."""
    y = _about_centre(x, masses)
    spread = torch.einsum("n,bni,bnj->bij", masses, y, y)
    trace = torch.diagonal(spread, dim1=1, dim2=2).sum(1)
    inertia = trace[:, None, None] * torch.eye(3, dtype=x.dtype) - spread
    return -0.5 * torch.linalg.slogdet(inertia).logabsdet


def rest_momenta(x: Positions, masses: Masses, generator: torch.Generator) -> Positions:
    """Mass-weighted Maxwell momenta `(batch, N, 3)` in thermal units, at zero total and angular momentum.

    The square of each has a mean of 3N − 6.

    Args:
        x: positions, not on a line.
        masses: of the particles.
    """
    y, root = _about_centre(x, masses), masses.sqrt()[:, None]
    axes = torch.eye(3, dtype=x.dtype)
    motions = [(root * axis).expand_as(y) for axis in axes]
    motions += [root * torch.linalg.cross(axis.expand_as(y), y) for axis in axes]
    rigid = torch.linalg.qr(torch.stack(motions, 3).flatten(1, 2)).Q
    p = torch.randn(x.shape, generator=generator, dtype=x.dtype).flatten(1)
    return (p - torch.einsum("bij,bkj,bk->bi", rigid, rigid, p)).unflatten(1, x.shape[1:])


def thermal_steps(chains: int, time_step: float, beta: float, masses: Masses) -> Float[Tensor, "chain particle"]:
    """√(1/βm) Δt: how far a particle moves in a step of `leapfrog` at the speed that it has on average along one axis.

    Args:
        chains: trajectories, all with the same step.
        time_step: Δt in √(mass/energy) × length.
        beta: 1/kT.
    """
    return (time_step / (beta * masses).sqrt()).expand(chains, -1)


def total_energy(phase: Phase, beta: float) -> Float[Tensor, " batch"]:
    """Potential and kinetic energy in kT."""
    return beta * phase.energies + 0.5 * phase.momenta.square().sum((1, 2))


def turned_back(vectors: Positions, x: Positions, reference: Positions, masses: Masses) -> Positions:
    """Vectors `(batch, N, 3)` as seen from axes that turn with the particles from `reference` to `x`.

    The rotation is the one that brings `x` closest to `reference`, each particle counted by its mass; that is where
    Eckart's conditions hold. Lengths stay, so that kinetic energies do.

    Source: Kabsch, Acta Cryst. A 32, 922 (1976).
    """
    y, a = _about_centre(x, masses), _about_centre(reference, masses)
    u, _, v = torch.linalg.svd(torch.einsum("n,bni,bnj->bij", masses, y, a))
    u = torch.cat([u[:, :, :2], u[:, :, 2:] * torch.linalg.det(u @ v)[:, None, None]], 2)
    return torch.einsum("bni,bij->bnj", vectors, u @ v)
