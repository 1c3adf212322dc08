"""Isomers with known laws for the tests of kernels: a table of discrete states, and two wells."""

import math

import torch

from particlegen.energy import EnergyResult
from particlegen.flow import FlowSamples
from particlegen.geometry import FreeSpace
from particlegen.sampling import kernel
from particlegen.sampling.target import centred
from particlegen.system import ParticleSystem


def result(energy, ok, forces=None):
    """What an engine returns; NaN where not ok."""
    if forces is not None:
        forces = torch.where(ok[:, None, None], forces, torch.nan)
    reasons = tuple(None if good else "no energy here" for good in ok.tolist())
    return EnergyResult(torch.where(ok, energy, torch.nan), forces, None, ok, reasons)


def placed(state: torch.Tensor) -> torch.Tensor:
    """Discrete states as positions of two particles in one dimension, centred."""
    s = state.double()[:, None]
    return torch.stack([-s - 1, s + 1], 1) / 2


def read(x: torch.Tensor) -> torch.Tensor:
    """The discrete states of positions; 0 for what is none."""
    return ((x[:, 1, 0] - x[:, 0, 0]).nan_to_num(1.0).round() - 1).long()


class Table:
    """An engine with one energy per discrete state; NaN for none."""

    name, differentiable, device = "table", False, torch.device("cpu")
    system = ParticleSystem("states", FreeSpace(1), (0, 0), ("A",))

    def __init__(self, energies):
        self.energies = torch.tensor(energies, dtype=torch.float64)

    def evaluate(self, positions, want=("energy",)):
        energy = self.energies[read(positions)]
        return result(energy, energy.isfinite() & positions.isfinite().all(2).all(1))


class DiscreteFlow:
    """Draws discrete states with given probabilities; those in `outside` have no log q when they are drawn."""

    system = Table.system

    def __init__(self, probabilities, outside=()):
        self.p, self.outside = torch.tensor(probabilities, dtype=torch.float64), outside

    def sample(self, n, generator):
        state = kernel.choose(self.p.expand(n, -1), generator)
        log_q = self.p[state].log()
        log_q[torch.isin(state, torch.tensor(self.outside, dtype=torch.int64))] = torch.nan
        return FlowSamples(placed(state), log_q, torch.zeros(n, dtype=torch.float64))

    def log_prob(self, x):
        return self.p[read(x)].log(), torch.zeros(len(x), dtype=torch.float64)


CENTRES = torch.tensor([[-1.2, 0.3], [1.0, -0.4]], dtype=torch.float64)


def plane(x: torch.Tensor) -> torch.Tensor:
    """Orthonormal coordinates `(batch, 2)` of two particles in the plane, less their centroid."""
    return (x[:, 1] - x[:, 0]) / math.sqrt(2)


def from_plane(s: torch.Tensor) -> torch.Tensor:
    return torch.stack([-s, s], 1) / math.sqrt(2)


class Wells:
    """Two harmonic wells that share the border s₀ = 0; the basins are its sides.

    No energy where `fails` says so.
    """

    name, differentiable, device = "wells", False, torch.device("cpu")
    system = ParticleSystem("pair", FreeSpace(2), (0, 0), ("A",))

    def __init__(self, stiffness=(3.0, 1.5), floors=(0.0, 0.5), twist=0.0, fails=lambda s: s[:, 0] > 1e9):
        self.stiffness = torch.tensor(stiffness, dtype=torch.float64)
        self.floors = torch.tensor(floors, dtype=torch.float64)
        self.twist, self.fails = twist, fails

    def evaluate(self, positions, want=("energy",)):
        s = plane(positions.double())
        side = basins(positions).clamp_min(0)
        off, k = s - CENTRES[side], self.stiffness[side]
        energy = self.floors[side] + 0.5 * k * off.square().sum(1) + self.twist * torch.sin(s[:, 0])
        pull = -k[:, None] * off
        pull[:, 0] -= self.twist * torch.cos(s[:, 0])
        ok = positions.isfinite().all(2).all(1) & ~self.fails(s)
        return result(energy, ok, from_plane(pull) if "forces" in want else None)


def basins(x: torch.Tensor) -> torch.Tensor:
    return (plane(x)[:, 0] > 0).long()


class WellFlow:
    """A normal law in the plane about a centre."""

    system = Wells.system

    def __init__(self, well: int, width: float):
        self.centre, self.width = CENTRES[well] + 0.2, width

    def sample(self, n, generator):
        s = self.centre + self.width * torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return FlowSamples(from_plane(s) + 7.0, *self.log_prob(from_plane(s)))

    def log_prob(self, x):
        off = (plane(centred(x)) - self.centre) / self.width
        log_q = -0.5 * off.square().sum(1) - 2 * math.log(self.width * math.sqrt(2 * math.pi))
        return log_q, torch.zeros_like(log_q)


def draw_exactly(wells: Wells, n: int, isomers, generator) -> torch.Tensor:
    """`n` positions of the law exp(−U) on the sides of `isomers`, by rejection from the wells' normal laws."""
    # shares of whole wells, so that what the border cuts off is rejected; the twist by its largest value
    whole = (-wells.floors).exp() / wells.stiffness
    whole = whole * torch.tensor([float(k in isomers) for k in range(2)])
    kept = []
    while sum(map(len, kept)) < n:
        well = torch.multinomial(whole, n, replacement=True, generator=generator)
        width = wells.stiffness[well].rsqrt()[:, None]
        s = CENTRES[well] + width * torch.randn(n, 2, generator=generator, dtype=torch.float64)
        x = from_plane(s)
        chance = torch.exp(-wells.twist * torch.sin(s[:, 0]) - abs(wells.twist))
        kept.append(x[(basins(x) == well) & (torch.rand(n, generator=generator) < chance)])
    return torch.cat(kept)[:n]
