"""Linear combinations of energy providers: sums, scales, baseline + correction, λ-paths and their derivatives."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from particlegen.energy.fingerprint import settings_of
from particlegen.energy.provider import EnergyProvider, EnergyResult, check_request
from particlegen.geometry import Positions
from particlegen.system import ParticleSystem

__all__ = ["LinearEnergy", "lambda_derivative", "lambda_path"]


class LinearEnergy:
    """U = Σ_k c_k U_k, with forces and virial to match; itself a provider.

    `LinearEnergy((1.0, baseline), (1.0, correction))` is their sum. A term with coefficient 0 is not evaluated, so
    neither its cost nor its infinities count. An item fails where a term fails, and where infinities cannot be added
    up: +∞ times a negative coefficient.

    Args:
        terms: coefficients and providers of one system; results lie on the first one's device.

    Raises:
        ValueError: no terms, a coefficient that is not finite, or terms of different systems.

    >>> from particlegen.energy import SystemSettings, TorchPairEnergy, build_system
    >>> built = build_system(SystemSettings(card="lj_cluster", particles=2))
    >>> pair = TorchPairEnergy(built.system, built.potential)
    >>> x = torch.tensor([[[0.0, 0.0, 0.0], [2 ** (1 / 6), 0.0, 0.0]]], dtype=torch.float64)
    >>> LinearEnergy((1.0, pair), (0.5, pair)).evaluate(x).energy
    tensor([-1.5000], dtype=torch.float64)
    """

    def __init__(self, *terms: tuple[float, EnergyProvider]):
        if not terms:
            raise ValueError("a linear combination needs at least one provider")
        for coefficient, provider in terms:
            if not torch.isfinite(torch.tensor(coefficient)):
                raise ValueError(f"the coefficient of {provider.name!r} is {coefficient}; give a finite number")
            if provider.system != terms[0][1].system:
                raise ValueError(
                    f"{provider.name!r} is for another system than {terms[0][1].name!r}; particles, box and units "
                    "have to be the same"
                )
        self._terms = terms

    @property
    def name(self) -> str:
        return " + ".join(f"{coefficient:g} {provider.name}" for coefficient, provider in self._terms)

    @property
    def system(self) -> ParticleSystem:
        return self._terms[0][1].system

    @property
    def differentiable(self) -> bool:
        return all(provider.differentiable for _, provider in self._terms)

    @property
    def device(self) -> torch.device:
        return self._terms[0][1].device

    @property
    def settings(self) -> Mapping[str, Any]:
        """Coefficients and settings of the terms that count.

        Raises:
            InputError: a term has no settings.
        """
        terms = [[float(coefficient), settings_of(provider)] for coefficient, provider in self._terms if coefficient]
        return {"engine": "linear", "terms": terms}

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        """Energies and what else `want` names, as far as every term offers it.

        Raises:
            ValueError: positions of another N or dimension, or a quantity that a term does not offer.
        """
        check_request(self.system, positions, want)
        x = positions.to(dtype=torch.float64)
        energy = torch.zeros(len(x), dtype=torch.float64, device=self.device)
        forces = torch.zeros_like(x, device=self.device, requires_grad=False) if "forces" in want else None
        virial = torch.zeros_like(energy) if "virial" in want else None
        ok = torch.isfinite(x).all(2).all(1).to(self.device)
        reasons = [None if good else "positions are not finite" for good in ok.tolist()]
        for coefficient, provider in self._terms:
            if coefficient == 0:
                continue
            part = provider.evaluate(positions, want)
            energy = energy + coefficient * part.energy.to(self.device)
            forces = None if forces is None or part.forces is None else forces + coefficient * part.forces.to(energy)
            virial = None if virial is None or part.virial is None else virial + coefficient * part.virial.to(energy)
            ok = ok & part.ok.to(self.device)
            reasons = [old or new for old, new in zip(reasons, part.reasons, strict=True)]
        lost = ok & (energy.isnan() | energy.isneginf())
        reasons = [
            old or ("infinite energies that do not add up" if bad else None)
            for old, bad in zip(reasons, lost.tolist(), strict=True)
        ]
        ok = ok & ~lost
        return EnergyResult(
            energy=energy.masked_fill(~ok, torch.nan),
            forces=None if forces is None else forces.masked_fill(~ok[:, None, None], torch.nan),
            virial=None if virial is None else virial.masked_fill(~ok, torch.nan),
            ok=ok,
            reasons=tuple(reasons),
        )


def lambda_path(start: EnergyProvider, end: EnergyProvider, at: float) -> LinearEnergy:
    """U_λ = (1 − λ) U_start + λ U_end, the linear path of thermodynamic integration (Kirkwood 1935).

    Raises:
        ValueError: `at` outside [0, 1], or the systems differ.
    """
    if not 0.0 <= at <= 1.0:
        raise ValueError(f"λ has to lie in [0, 1], found {at}")
    return LinearEnergy((1.0 - at, start), (at, end))


def lambda_derivative(start: EnergyProvider, end: EnergyProvider) -> LinearEnergy:
    """∂U_λ/∂λ = U_end − U_start of `lambda_path`, the same at every λ: F_end − F_start = ∫₀¹ ⟨∂U_λ/∂λ⟩_λ dλ."""
    return LinearEnergy((-1.0, start), (1.0, end))
