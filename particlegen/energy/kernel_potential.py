"""Kernel potentials: a Gaussian process around one structure as an energy provider that knows its own error."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import version
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from particlegen import __version__
from particlegen.energy.kernel import Folding, Points, covariance, inverse_distances, matern, own_covariance, points
from particlegen.energy.learned_answer import Disagreement, answer
from particlegen.energy.provider import EnergyResult
from particlegen.geometry import Positions
from particlegen.settings import InputError, Section
from particlegen.system import ParticleSystem
from particlegen.units import Units

__all__ = ["KernelModel", "KernelPotential", "KernelWeights", "factorised"]

_ELEMENTS_AT_ONCE = 1 << 20
"""Numbers per array of a chunk."""


class KernelModel(Section):
    """What the numbers of a kernel potential mean.

    Attributes:
        particles: name of the species of each particle.
        units: of lengths and energies.
        tolerance: distances of the reference that are closer than this are alike, in the unit of length.
        length: of the process, over which energies change, in inverse units of length.
        deviation: standard deviation of the process, in the unit of energy.
        energy_noise: standard deviation of an energy of a label from the process.
        force_noise: of a component of a force.
        offset: mean of the labels' energies less the quadratic part.
        stiffness: k of the quadratic part ½ k |Δφ|² that the process is added to, Δφ the inverse distances less the
            reference's, in energy times length squared: it keeps chains from falling apart or together where there
            are no labels.
    """

    particles: tuple[str, ...] = Field(min_length=2)
    units: Units
    tolerance: Annotated[float, Field(gt=0)]
    length: Annotated[float, Field(gt=0)]
    deviation: Annotated[float, Field(gt=0)]
    energy_noise: Annotated[float, Field(gt=0)]
    force_noise: Annotated[float, Field(gt=0)]
    offset: float
    stiffness: Annotated[float, Field(ge=0)] = 0.0


@dataclass(frozen=True)
class KernelWeights:
    """The numbers of a kernel potential, float64.

    Args:
        reference: `(N, dim)` the structure whose symmetry is the potential's.
        features, slopes, directions: of the labels, see `Points`.
        weights: `(label, 1 + direction)` by which the covariances with the labels' energies and slopes add up.
    """

    reference: Float[Tensor, "particle dim"]
    features: Float[Tensor, "label pair"]
    slopes: Float[Tensor, "label pair direction"]
    directions: Float[Tensor, "label coordinate direction"]
    weights: Float[Tensor, "label column"]

    @property
    def points(self) -> Points:
        return Points(self.features, self.slopes, self.directions)

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def factorised(
    own: Points, images: Tensor, length: Tensor, energy_noise: Tensor, force_noise: Tensor
) -> tuple[Float[Tensor, "row row"], bool]:
    """Lower Cholesky factor of the covariance of labels, in units of the process' variance, and whether there is one.

    Args:
        own: the labels.
        images: see `Folding`.
        length: of the process.
        energy_noise, force_noise: in units of the process' deviation.
    """
    slopes = own.slopes.shape[2]
    matrix = covariance(own, own, images, length).flatten(2, 3).flatten(0, 1)
    noise = torch.cat([energy_noise.reshape(1), force_noise.expand(slopes)]).square().repeat(len(own))
    factor, failed = torch.linalg.cholesky_ex(matrix + torch.diag(noise))
    return factor, not failed


class KernelPotential:
    """Energies about one structure by a Gaussian process on its inverse distances, in float64, with exact forces.

    Invariant under rotations, reflections and exchange of like particles: a configuration is reordered to come nearest
    to the reference (see `Folding`), and the process has the reference's symmetry. The energy is smooth but where two
    copies of the reference are equally near. Far from its labels it is quadratic in the inverse
    distances, which is no more than a guess: keep configurations where `deviation` is small.

    `fit_kernel` makes one, `open_engine` reads it from its card.

    Args:
        system: the particles, in free space.
        model: what the numbers mean.
        weights: the numbers.
        device: where the arithmetic runs.

    Raises:
        InputError: other particles or units than the model's, or a box.
    """

    differentiable = True
    name = "learned_kernel"

    def __init__(
        self,
        system: ParticleSystem,
        model: KernelModel,
        weights: KernelWeights,
        device: torch.device | str = "cpu",
    ):
        names = tuple(system.species_names[s] for s in system.species)
        if (names, system.units) != (model.particles, model.units):
            raise InputError(
                f"system {system.name!r} ({', '.join(names)}; {system.units} units) does not fit a kernel potential of "
                f"{', '.join(model.particles)}, in this order, in {model.units} units; fit one to it"
            )
        if system.geometry.periodic or system.diameters is not None:
            raise InputError(f"system {system.name!r}: kernel potentials know neither boxes nor diameters")
        self.system, self.model, self.weights = system, model, weights
        self.device = torch.device(device)
        self._folding = Folding(weights.reference, system.species, model.tolerance)
        self._images = self._folding.images.to(self.device)
        self._points = Points(*(part.to(self.device) for part in vars(weights.points).values()))
        # Every label and its images under the symmetry of the reference, in one table.
        pull = torch.einsum("lpd,ld->lp", weights.slopes, weights.weights[:, 1:])
        images = self._folding.images
        self._centres = weights.features[:, images].flatten(0, 1).to(self.device)
        self._pulls = (pull[:, images].flatten(0, 1) / len(images)).to(self.device)
        self._heights = (weights.weights[:, :1].expand(-1, len(images)).flatten() / len(images)).to(self.device)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The model, a digest of the numbers, and the versions behind the arithmetic."""
        total = hashlib.sha256()
        for name, value in sorted(self.weights.tensors().items()):
            total.update(f"{name} {tuple(value.shape)}\n".encode() + value.contiguous().cpu().numpy().tobytes())
        return {
            "engine": "kernel",
            "model": self.model.model_dump(mode="json"),
            "weights": total.hexdigest(),
            "versions": {"particlegen": __version__, "torch": version("torch")},
        }

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        """Energies `(batch,)`, forces `(batch, particle, dim)`, virial `(batch,)`, all float64.

        Where `positions` requires a gradient, so do energy, forces and virial.

        Raises:
            ValueError: positions of another N or dimension, or a quantity in `want` that does not exist.
        """
        return answer(self, positions, want, max(1, _ELEMENTS_AT_ONCE // len(self._centres)), self._terms)

    def judge(self, positions: Positions, want: Sequence[str] = ("energy",)) -> tuple[EnergyResult, Disagreement]:
        """What `evaluate` gives, and the standard deviations of energies and forces, without the labels' noise.

        Raises:
            ValueError: as `evaluate`.
        """
        mean = self.evaluate(positions, want)
        return mean, Disagreement(*self._deviations(positions, mean, forces=True))

    def deviation(self, positions: Positions) -> Float[Tensor, " batch"]:
        """Standard deviation of the energy, without the labels' noise; NaN where there is no finite energy."""
        return self._deviations(positions, self.evaluate(positions), forces=False)[0]

    def _terms(self, x: Tensor, slopes: bool, _: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Energies, forces and virial of a chunk, from sums over all labels and their images."""
        phi = inverse_distances(x)
        order = self._folding.order(phi.detach())
        folded = phi.gather(1, order) - self._folding.reference.to(phi)
        centres, double = self._centres, 2.0 / self.model.length**2
        q = folded.square().sum(1, keepdim=True) - 2.0 * folded @ centres.T + centres.square().sum(1)
        value, first, second = matern(q.clamp_min(0.0) * (0.5 * double))
        along = folded @ self._pulls.T - (centres * self._pulls).sum(1)
        stiffness = self.model.stiffness
        quadratic = 0.5 * stiffness * folded.square().sum(1)
        energy = self.model.offset + quadratic + value @ self._heights - double * (first * along).sum(1)
        if not slopes:
            return energy, None, None
        steep = first * self._heights - double * second * along
        slope = double * (folded * steep.sum(1, keepdim=True) - steep @ centres - first @ self._pulls)
        slope = slope + stiffness * folded
        slope = torch.zeros_like(slope).scatter(1, order, slope)
        i, j = torch.tril_indices(x.shape[1], x.shape[1], -1, device=x.device)
        push = (slope * phi**3)[..., None] * (x[:, i] - x[:, j])
        forces = torch.zeros_like(x).index_add(1, i, push).index_add(1, j, -push)
        return energy, forces, (x * forces).sum((1, 2))

    @cached_property
    def _factor(self) -> Tensor:
        model = self.model
        noise = (model.energy_noise / model.deviation, model.force_noise / model.deviation)
        numbers = self._centres.new_tensor((model.length, *noise))
        return factorised(self._points, self._images, *numbers)[0]

    def _deviations(self, positions: Positions, mean: EnergyResult, forces: bool) -> tuple[Tensor, Tensor]:
        energy = torch.full_like(mean.energy, math.nan).detach()
        force, known = energy.clone(), mean.energy.detach().isfinite()
        x = positions.detach().to(device=self.device, dtype=torch.float64)[known]
        rows = self._points.slopes.shape[2] + 1 if forces else 1
        size = max(1, _ELEMENTS_AT_ONCE // (rows * self._factor.shape[0]))
        if len(x):
            found = zip(*(self._spread(chunk, forces) for chunk in x.split(size)), strict=True)
            energy[known], force[known] = (torch.cat(parts) for parts in found)
        return energy, force

    def _spread(self, x: Tensor, forces: bool) -> tuple[Tensor, Tensor]:
        """Deviations of energy and force of a chunk (Rasmussen and Williams 2006, Eq. 2.26)."""
        new = points(self._folding, x, forces)
        cross = covariance(new, self._points, self._images, self.model.length)
        own = own_covariance(new, self._images, self.model.length)
        rows = own.shape[1]
        known = torch.linalg.solve_triangular(self._factor, cross.reshape(len(x) * rows, -1).T, upper=False)
        known = known.T.reshape(len(x), rows, -1)
        left = self.model.deviation**2 * (own - known @ known.mT)
        spread = new.directions @ left[:, 1:, 1:] @ new.directions.mT
        particles = spread.diagonal(dim1=1, dim2=2).reshape(len(x), *x.shape[1:]).sum(2)
        return left[:, 0, 0].clamp_min(0.0).sqrt(), particles.amax(1).clamp_min(0.0).sqrt()
