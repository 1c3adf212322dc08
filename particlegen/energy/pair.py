"""The torch pair-energy engine: batched, differentiable, float64."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

from particlegen import __version__
from particlegen.energy.formulas import PairPotential, even_power_energy
from particlegen.energy.provider import EnergyResult, check_request
from particlegen.geometry import FlatTorus, Positions
from particlegen.system import ParticleSystem

__all__ = ["DENSE_LIMIT", "TorchPairEnergy"]

DENSE_LIMIT = 400
"""Largest N for which all pairs are visited; above it, a neighbour list is built for every frame."""

# Working set per chunk: a few float64 arrays of this many pairs stay in a core's cache and bound the memory.
_PAIRS_PER_CHUNK = 1 << 16
# Below this distance squared r^-12 would overflow: the two particles coincide and the energy is +inf.
_COINCIDENT_R2 = 1e-40


class TorchPairEnergy:
    """U(x) = Σ_{i<j} V(r_ij) with every pair counted once, at its nearest image.

    On a torus smaller than twice the cutoff this is the truncated minimum image; whether a card accepts that is
    decided by `build_system`. Particles at distances ≥ cutoff·σ_ij do not interact.

    Energies of unphysical configurations: two coincident particles, or a particle outside the confining sphere of
    `FreeSpace`, give +inf with `ok` True, because their Boltzmann weight is exactly 0; the undefined force of a
    coincident pair is left out. Non-finite positions give `ok` False.

    Args:
        system: the particles.
        potential: parameters of `even_power_energy`.
        device: where the arithmetic runs.
        dense_limit: N up to which all pairs are visited.
    """

    def __init__(
        self,
        system: ParticleSystem,
        potential: PairPotential,
        device: torch.device | str = "cpu",
        dense_limit: int = DENSE_LIMIT,
    ):
        self._system, self._potential, self._device = system, potential, torch.device(device)
        self._reach = potential.largest_cutoff(system)
        self._dense = system.n_particles <= dense_limit or not np.isfinite(self._reach)
        if self._dense:
            first, second = np.triu_indices(system.n_particles, k=1)
            self._all_pairs = self._pair_arrays(first, second)

    @property
    def name(self) -> str:
        return "torch_pair"

    @property
    def system(self) -> ParticleSystem:
        return self._system

    @property
    def potential(self) -> PairPotential:
        return self._potential

    @property
    def differentiable(self) -> bool:
        return True

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def settings(self) -> Mapping[str, Any]:
        """The potential by its parameters, the species that they are for, the versions behind the arithmetic."""
        potential = asdict(self._potential)
        del potential["name"]
        potential["cutoff"] = potential["cutoff"] if math.isfinite(potential["cutoff"]) else None
        versions = {"particlegen": __version__, "torch": torch.__version__}
        species = list(self._system.species_names)
        return {"engine": "torch_pair", "species": species, "potential": potential, "versions": versions}

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        """Energies `(batch,)`, forces `(batch, particle, dim)`, virial W = −Σ_{i<j} r U'(r), all float64.

        Positions may lie outside the box; float32 is raised to float64 first. Where `positions` requires a
        gradient, so do energy and forces. Without one, memory is bounded whatever the batch.

        Raises:
            ValueError: positions of another N or dimension, or a quantity in `want` that does not exist.
        """
        check_request(self._system, positions, want)
        x = positions.to(device=self._device, dtype=torch.float64)
        finite = torch.isfinite(x).all(dim=2).all(dim=1)
        x = torch.where(finite[:, None, None], x, torch.zeros_like(x))
        slopes = "forces" in want or "virial" in want
        parts = [self._terms(chunk, pairs, slopes) for chunk, pairs in self._chunks(x, finite)]
        if not parts:
            parts = [(x.new_zeros(0), torch.zeros_like(x), x.new_zeros(0))]
        energy, forces, virial = (torch.cat(column) for column in zip(*parts, strict=True))
        outside = ~self._system.geometry.contains(x)
        energy = energy.masked_fill(outside, float("inf"))
        virial = virial.masked_fill(torch.isposinf(energy), float("inf"))
        ok = finite & ~torch.isnan(energy)
        if slopes:
            ok = ok & torch.isfinite(forces).all(dim=2).all(dim=1)
        reasons = tuple(None if good else _reason(bool(f)) for good, f in zip(ok.tolist(), finite, strict=True))
        return EnergyResult(
            energy=energy.masked_fill(~ok, float("nan")),
            forces=forces.masked_fill(~ok[:, None, None], float("nan")) if "forces" in want else None,
            virial=virial.masked_fill(~ok, float("nan")) if "virial" in want else None,
            ok=ok,
            reasons=reasons,
        )

    def _chunks(self, x: Tensor, finite: Tensor) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        if self._dense:
            size = max(1, _PAIRS_PER_CHUNK // max(1, len(self._all_pairs[0])))
            for start in range(0, len(x), size):
                yield x[start : start + size], self._all_pairs
            return
        for frame, good in zip(x, finite.tolist(), strict=True):
            yield frame[None], self._neighbours(frame) if good else self._pair_arrays(*np.empty((2, 0), dtype=int))

    def _neighbours(self, frame: Float[Tensor, "particle dim"]) -> tuple[Tensor, ...]:
        geometry = self._system.geometry
        points = geometry.wrap(frame.detach()).cpu().numpy()
        tree = KDTree(points, boxsize=geometry.lengths if isinstance(geometry, FlatTorus) else None)
        # A hair beyond the cutoff: the tree rounds differently from the sum below, which decides.
        pairs = tree.query_pairs(self._reach * (1 + 1e-9), output_type="ndarray")
        return self._pair_arrays(pairs[:, 0], pairs[:, 1])

    def _pair_arrays(self, first: np.ndarray, second: np.ndarray) -> tuple[Tensor, ...]:
        """Indices i and j, σ² and ε of pairs; σ² and ε with a trailing axis for the batch."""
        sigma, epsilon = self._potential.parameters_of_pairs(self._system, first, second)
        return (
            torch.as_tensor(np.ascontiguousarray(first), dtype=torch.int64, device=self._device),
            torch.as_tensor(np.ascontiguousarray(second), dtype=torch.int64, device=self._device),
            torch.as_tensor(sigma**2, dtype=torch.float64, device=self._device)[:, None],
            torch.as_tensor(epsilon, dtype=torch.float64, device=self._device)[:, None],
        )

    def _terms(self, x: Tensor, pairs: tuple[Tensor, ...], slopes: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Energy, forces and virial of a chunk. The batch is the innermost axis, so that gathers copy whole rows."""
        first, second, sigma2, epsilon = pairs
        columns = x.permute(2, 1, 0).contiguous()
        ends = columns.index_select(1, first).movedim(0, -1), columns.index_select(1, second).movedim(0, -1)
        delta = self._system.geometry.displacement(*ends)
        r2 = delta.square().sum(-1)
        if not slopes:
            empty = x.new_zeros(len(x))
            return self._pair_energy(r2, sigma2, epsilon).sum(0), x.new_zeros(len(x), 0, 0), empty
        with torch.inference_mode(False), torch.enable_grad():
            leaf = r2 if r2.requires_grad else r2.clone().requires_grad_()
            energy = self._pair_energy(leaf, sigma2, epsilon)
            (slope,) = torch.autograd.grad(energy.sum(), leaf, create_graph=r2.requires_grad)
        if not r2.requires_grad:
            energy = energy.detach()
        pull = (2.0 * slope)[None] * delta.movedim(-1, 0)
        forces = torch.zeros_like(columns).index_add(1, first, pull).index_add(1, second, -pull)
        return energy.sum(0), forces.permute(2, 1, 0).contiguous(), -2.0 * (slope * r2).sum(0)

    def _pair_energy(self, r2: Tensor, sigma2: Tensor, epsilon: Tensor) -> Tensor:
        s2 = sigma2 / r2.clamp_min(_COINCIDENT_R2)
        value = even_power_energy(s2, epsilon, *self._potential.coefficients)
        value = torch.where(r2 < self._potential.cutoff**2 * sigma2, value, torch.zeros_like(value))
        return torch.where(r2 > _COINCIDENT_R2, value, torch.full_like(value, float("inf")))


def _reason(finite: bool) -> str:
    return "the energy or a force is not a number" if finite else "positions are not finite"
