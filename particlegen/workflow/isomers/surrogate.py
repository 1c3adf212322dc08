"""Learned potentials of isomers in the place of the engine: where they may be used, fitted, kept and found again."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from particlegen.energy import EnergyProvider, EnergyResult
from particlegen.energy.kernel_potential import KernelModel, KernelPotential, KernelWeights
from particlegen.energy.provider import Wrapper, check_request
from particlegen.geometry import Positions
from particlegen.io.checkpoint import Checkpoint
from particlegen.isomers import Basins, BuiltCluster
from particlegen.system import ParticleSystem
from particlegen.workflow.isomers.labels import under

__all__ = ["Baseline", "PiecewiseEnergy", "frozen_potentials", "model_of", "potential_tensors", "restored"]


class Baseline(Wrapper):
    """The engine that learned potentials are corrections to; told apart from a target of the same name.

    Args:
        provider: the cheap engine.
        target: the costly one.
    """

    differentiable = False

    def __init__(self, provider: EnergyProvider, target: EnergyProvider):
        super().__init__(provider)
        self._same = provider.name == target.name

    @property
    def name(self) -> str:
        return f"{super().name} (baseline)" if self._same else super().name

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        return self._provider.evaluate(positions, want)


class PiecewiseEnergy:
    """Each isomer's own potential, used for what is nearest to that isomer; itself a provider.

    Args:
        potentials: by index of the isomer, 0 to the number of isomers less one.
        basins: whose nearest isomer decides, whatever its reach.
    """

    differentiable = False
    name = "learned"

    def __init__(self, potentials: Sequence[EnergyProvider], basins: Basins):
        self._potentials, self._basins = tuple(potentials), basins

    @property
    def system(self) -> ParticleSystem:
        return self._potentials[0].system

    @property
    def device(self) -> torch.device:
        return self._potentials[0].device

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        """As the potentials' own; no virial."""
        check_request(self.system, positions, want, ("forces",))
        distances = self._basins.scaled(self._basins.distances(positions))
        nearest = distances[:, : len(self._potentials)].argmin(1)
        energy = torch.full((len(positions),), torch.nan, dtype=torch.float64)
        forces = torch.full(positions.shape, torch.nan, dtype=torch.float64) if "forces" in want else None
        ok = torch.zeros(len(positions), dtype=torch.bool)
        reasons: list[str | None] = [None] * len(positions)
        for index, potential in enumerate(self._potentials):
            rows = (nearest == index).nonzero()[:, 0]
            if not len(rows):
                continue
            found = potential.evaluate(positions[rows], want)
            energy[rows], ok[rows] = found.energy.detach().cpu(), found.ok.cpu()
            if forces is not None and found.forces is not None:
                forces[rows] = found.forces.detach().cpu()
            for row, reason in zip(rows.tolist(), found.reasons, strict=True):
                reasons[row] = reason
        return EnergyResult(energy, forces, None, ok, tuple(reasons))


def potential_tensors(name: str, potential: KernelPotential) -> dict[str, Tensor]:
    """A potential as tensors of a checkpoint; `model_of` is what goes with them."""
    return {f"{name}.potential.{key}": value for key, value in potential.weights.tensors().items()}


def model_of(potential: KernelPotential) -> dict[str, Any]:
    return potential.model.model_dump(mode="json")


def restored(
    system: ParticleSystem, name: str, tensors: Mapping[str, Tensor], model: Mapping[str, Any]
) -> KernelPotential:
    """A potential as a checkpoint holds it."""
    weights = KernelWeights(**under(f"{name}.potential.", tensors))
    return KernelPotential(system, KernelModel.model_validate(model), weights)


def frozen_potentials(built: BuiltCluster, adapted: Checkpoint) -> dict[int, KernelPotential]:
    """The potentials of all isomers that the adaptation ended with, by index; corrections to a baseline, if any."""
    return {
        number: restored(built.system, isomer.name, adapted.tensors, adapted.metadata[isomer.name]["model"])
        for number, isomer in enumerate(built.isomers)
    }
