"""Fitting of kernel potentials: labels in, a potential with its leave-one-out errors out."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from scipy.optimize import minimize
from torch import Tensor

from particlegen.energy.fingerprint import geometry_hash
from particlegen.energy.kernel import Folding, Points, points
from particlegen.energy.kernel_potential import KernelModel, KernelPotential, KernelWeights, factorised
from particlegen.energy.label_sets import LabelSet
from particlegen.energy.learned_training import LearnedErrors
from particlegen.settings import InputError, Section

__all__ = ["KernelSettings", "fit_kernel"]

_START = (math.log(4.0), math.log(1e-4), math.log(1e-3))
"""Length in units of the features' spread, noise of energies and slopes in units of the process' deviation."""
_BOUNDS = ((math.log(0.3), math.log(8.0)), (math.log(1e-6), 0.0), (math.log(1e-6), 0.0))
"""Beyond them nothing is gained, and the covariance loses its digits."""


class KernelSettings(Section):
    """A kernel potential and its fit.

    Attributes:
        tolerance: two distances of the reference closer than this are alike, in the unit of length.
        fitted_on: labels, at most, on which length and noise are fitted, picked by the hash of the geometry; the
            potential itself knows all labels.
        iterations: of that fit, at most.
    """

    kind: Literal["kernel"] = "kernel"
    tolerance: Annotated[float, Field(gt=0)] = 0.1
    fitted_on: Annotated[int, Field(ge=2, le=1000)] = 40
    iterations: Annotated[int, Field(ge=1, le=1000)] = 25


@dataclass(frozen=True)
class _Data:
    """Labels as rows of energy and slopes, and what the features' spread is."""

    points: Points
    rows: Float[Tensor, "label row"]
    spread: float

    def likelihood(self, images: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Negative log marginal likelihood per row at the best deviation, up to a constant (Rasmussen and Williams
        2006, Eq. 5.8); the weights; and the variance of the process. None where the covariance is singular."""
        length, energy_noise, force_noise = numbers.exp()
        factor, found = factorised(self.points, images, length * self.spread, energy_noise, force_noise)
        if not found:
            return None
        weights = torch.cholesky_solve(self.rows.reshape(-1, 1), factor)[:, 0]
        variance = (weights * self.rows.flatten()).mean()
        return 0.5 * variance.log() + factor.diagonal().log().mean(), weights, variance


def fit_kernel(
    labels: LabelSet,
    reference: Float[Tensor, "particle dim"],
    settings: KernelSettings | None = None,
    start: KernelPotential | None = None,
    device: torch.device | str = "cpu",
) -> tuple[KernelPotential, LearnedErrors]:
    """A kernel potential of all labels, and the errors of each label as predicted from all others.

    Length and noise maximise the marginal likelihood; nothing is random. The errors (leave one out, Rasmussen and
    Williams 2006, Eq. 5.12) are taken at these numbers.

    Args:
        labels: about one structure, with energies and forces.
        reference: `(N, dim)` that structure, at its minimum, so that its symmetry shows.
        settings: see there.
        start: a potential of fewer labels of the same structure, from whose numbers the fit goes on.
        device: where the arithmetic runs.

    Raises:
        InputError: fewer than two labels, one without forces, particles in one place, or a box.
    """
    settings = settings or KernelSettings()
    system = labels.system
    if len(labels) < 2 or not labels.known_forces.all():
        raise InputError(
            f"kernel potential of {system.name!r}: {len(labels)} labels, {int(labels.known_forces.sum())} with forces; "
            "it takes two or more, all of them with forces"
        )
    folding = Folding(reference, system.species, settings.tolerance)
    seen = points(folding, labels.positions.to(device))
    if not seen.features.isfinite().all():
        raise InputError(f"kernel potential of {system.name!r}: a label has two particles in one place; leave it out")
    slopes = -torch.einsum("lc,lcd->ld", labels.forces.flatten(1).to(seen.directions), seen.directions)
    stiffness, quadratic, bent = _quadratic(seen, slopes)
    energies = labels.energies.to(slopes) - quadratic
    offset = float(energies.mean())
    rows = torch.cat([(energies - offset)[:, None], slopes - bent], 1)
    spread = float(seen.features.square().sum(1).mean().sqrt())
    data, images = _Data(seen, rows, spread), folding.images.to(seen.features.device)
    numbers = _fitted(data, labels, images, settings, start)
    found = data.likelihood(images, numbers)
    if found is None:
        raise InputError(f"kernel potential of {system.name!r}: the labels' covariance is singular; drop equal labels")
    _, weights, variance = found
    length, energy_noise, force_noise = numbers.exp().tolist()
    deviation = math.sqrt(float(variance))
    model = KernelModel(
        particles=tuple(system.species_names[s] for s in system.species),
        units=system.units,
        tolerance=settings.tolerance,
        length=length * spread,
        deviation=deviation,
        energy_noise=energy_noise * deviation,
        force_noise=force_noise * deviation,
        offset=offset,
        stiffness=stiffness,
    )
    kept = {name: part.cpu().contiguous() for name, part in vars(seen).items()}
    numbers_of = KernelWeights(
        reference.to("cpu", torch.float64), **kept, weights=weights.reshape(rows.shape).cpu().contiguous()
    )
    return KernelPotential(system, model, numbers_of, device), _left_out(data, images, numbers, weights, labels)


def _quadratic(seen: Points, slopes: Tensor) -> tuple[float, Tensor, Tensor]:
    """k of ½ k |Δφ|² that fits the slopes of the labels best, never negative; its energies, and its slopes."""
    bent = torch.einsum("lp,lpd->ld", seen.features, seen.slopes)
    total = float(bent.square().sum())
    stiffness = max(0.0, float((bent * slopes).sum()) / total) if total > 0 else 0.0
    return stiffness, 0.5 * stiffness * seen.features.square().sum(1), stiffness * bent


def _fitted(
    data: _Data, labels: LabelSet, images: Tensor, settings: KernelSettings, start: KernelPotential | None
) -> Tensor:
    """Logarithms of length and noise of the largest marginal likelihood."""
    order = sorted(range(len(labels)), key=lambda k: geometry_hash(labels.system, labels.positions[k].numpy()))
    chosen = torch.tensor(sorted(order[: settings.fitted_on]))
    some = _Data(data.points[chosen], data.rows[chosen], data.spread)

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        numbers = torch.from_numpy(values).to(data.rows).requires_grad_()
        found = some.likelihood(images, numbers)
        if found is None:
            return 1e3, np.zeros(len(values))
        (slope,) = torch.autograd.grad(found[0], numbers)
        return float(found[0].detach()), slope.cpu().numpy()

    begin = np.array(_START)
    if start is not None:
        model = start.model
        known = (model.length / data.spread, model.energy_noise / model.deviation, model.force_noise / model.deviation)
        begin = np.clip(np.log(known), *np.array(_BOUNDS).T)
    options = {"maxiter": settings.iterations, "ftol": 1e-4}
    best = minimize(objective, begin, jac=True, method="L-BFGS-B", bounds=_BOUNDS, options=options).x
    return torch.from_numpy(best).to(data.rows)


def _left_out(data: _Data, images: Tensor, numbers: Tensor, weights: Tensor, labels: LabelSet) -> LearnedErrors:
    """Errors of every label as predicted from the others: the label's block of the inverse, solved for its weights."""
    length, energy_noise, force_noise = numbers.exp()
    factor, _ = factorised(data.points, images, length * data.spread, energy_noise, force_noise)
    count, rows = data.rows.shape
    inverse = torch.cholesky_inverse(factor).reshape(count, rows, count, rows)
    own = inverse.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    residuals = torch.linalg.solve(own, weights.reshape(count, rows, 1))[..., 0].cpu()
    energy, force = residuals[:, 0], torch.einsum("lcd,ld->lc", data.points.directions.cpu(), residuals[:, 1:])
    return LearnedErrors(
        labels=count,
        energy_rmse=float(energy.square().mean().sqrt()),
        energy_mae=float(energy.abs().mean()),
        energy_spread=float(labels.energies.std(correction=0)),
        force_rmse=float(force.square().mean().sqrt()),
        force_mae=float(force.abs().mean()),
        force_spread=float(labels.forces.square().mean().sqrt()),
    )
