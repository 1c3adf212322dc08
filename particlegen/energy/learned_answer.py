"""What learned potentials of every kind share: how they answer, and how they say what they do not know."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from particlegen.energy.provider import EnergyProvider, EnergyResult, check_request
from particlegen.geometry import Positions

__all__ = ["Disagreement", "UncertainPotential", "answer"]

_Terms = tuple[Tensor, Tensor | None, Tensor | None]
_NOT_FINITE = "positions are not finite"
_NO_NUMBER = "two particles coincide, or the energy or a force is not a number"


@dataclass(frozen=True)
class Disagreement:
    """What a potential does not know: standard deviations over the members of a committee, or of a Gaussian process.

    NaN where the energy is no finite number.

    Args:
        energy: `(batch,)` standard deviation of the energy.
        force: `(batch,)` largest over particles of the root of the variance of the force, summed over components.
    """

    energy: Float[Tensor, " batch"]
    force: Float[Tensor, " batch"]


@runtime_checkable
class UncertainPotential(EnergyProvider, Protocol):
    """A potential that says how little it knows: `Committee`, `KernelPotential`."""

    def judge(self, positions: Positions, want: Sequence[str] = ("energy",)) -> tuple[EnergyResult, Disagreement]:
        """What `evaluate` gives, and the disagreement of energies and forces."""
        ...

    def deviation(self, positions: Positions) -> Float[Tensor, " batch"]:
        """The disagreement of energies alone, which costs less."""
        ...


def answer(
    provider: EnergyProvider, positions: Positions, want: Sequence[str], size: int, terms: Callable[..., _Terms]
) -> EnergyResult:
    """What a learned potential in torch answers: failures and the confining sphere seen to, gradients kept.

    Args:
        provider: whose answer it is.
        positions, want: of the request.
        size: configurations per chunk.
        terms: energies, forces and virial of a chunk of float64 positions; also given whether slopes are wanted, and
            whether they are to be differentiated.

    Raises:
        ValueError: positions of another N or dimension, or a quantity in `want` that does not exist.
    """
    check_request(provider.system, positions, want)
    x = positions.to(device=provider.device, dtype=torch.float64)
    finite = torch.isfinite(x).all(2).all(1)
    x = torch.where(finite[:, None, None], x, torch.zeros_like(x))
    outside = ~provider.system.geometry.contains(x)
    slopes, differentiated = bool({"forces", "virial"} & set(want)), x.requires_grad and torch.is_grad_enabled()
    parts = [terms(chunk, slopes, differentiated) for chunk in x.split(size) if len(chunk)]
    columns = list(zip(*parts, strict=True)) or [(x.new_zeros(0),), (torch.zeros_like(x),), (x.new_zeros(0),)]
    energy = torch.cat(columns[0])
    forces, virial = (torch.cat(column) if slopes else None for column in columns[1:])
    ok = finite & ~energy.isnan()
    if forces is not None:
        ok = ok & torch.isfinite(forces).all(2).all(1)
    ok = ok | outside
    reasons = tuple(
        None if good else _NO_NUMBER if placed else _NOT_FINITE
        for good, placed in zip(ok.tolist(), finite.tolist(), strict=True)
    )

    def settled(values: Tensor, beyond: float) -> Tensor:
        shape = (-1,) + (1,) * (values.ndim - 1)
        return values.masked_fill(outside.view(shape), beyond).masked_fill(~ok.view(shape), math.nan)

    return EnergyResult(
        energy=settled(energy, math.inf),
        forces=settled(forces, 0.0) if forces is not None and "forces" in want else None,
        virial=settled(virial, math.inf) if virial is not None and "virial" in want else None,
        ok=ok,
        reasons=reasons,
    )
