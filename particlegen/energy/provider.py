"""The one contract that every energy engine fulfils, and the ledger that counts its calls."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from particlegen.geometry import Positions
from particlegen.system import ParticleSystem

__all__ = ["Counted", "EnergyProvider", "EnergyResult", "Ledger", "check_request"]


@dataclass(frozen=True)
class EnergyResult:
    """Energies of a batch; failure is data, not an exception.

    Args:
        energy: `(batch,)` float64; NaN where `ok` is False.
        forces: `(batch, particle, dim)` −∂U/∂x, or None when not asked for.
        virial: `(batch,)` W = −Σ_{i<j} r_ij U'(r_ij), or None.
        ok: `(batch,)`; False marks an item that must not be used as an energy or a training label.
        reasons: one entry per item, None where ok.
    """

    energy: Float[Tensor, " batch"]
    forces: Positions | None
    virial: Float[Tensor, " batch"] | None
    ok: Bool[Tensor, " batch"]
    reasons: tuple[str | None, ...]


@runtime_checkable
class EnergyProvider(Protocol):
    """Answers energies for batches of positions of one system."""

    @property
    def name(self) -> str: ...
    @property
    def system(self) -> ParticleSystem: ...
    @property
    def differentiable(self) -> bool:
        """Whether torch can differentiate `evaluate(x).energy` with respect to x."""
        ...

    @property
    def device(self) -> torch.device: ...

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        """Energies, and what else `want` names (`forces`, `virial`), in the system's units and float64."""
        ...


def check_request(
    system: ParticleSystem, positions: Tensor, want: Sequence[str], offered: Sequence[str] = ("forces", "virial")
) -> None:
    """What every provider asks of a call before it computes anything.

    Raises:
        ValueError: positions of another N or dimension, or a quantity in `want` that is not offered.
    """
    if tuple(positions.shape[1:]) != (system.n_particles, system.dim):
        raise ValueError(
            f"system {system.name!r} has positions (batch, {system.n_particles}, {system.dim}), "
            f"found {tuple(positions.shape)}"
        )
    unknown = sorted(set(want) - {"energy", *offered})
    if unknown:
        raise ValueError(f"cannot evaluate {unknown}: expected {', '.join(('energy', *offered))}")


@dataclass
class Ledger:
    """Calls, seconds and failures per (provider, stage). A call is one full-energy evaluation."""

    calls: dict[tuple[str, str], int] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    failures: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, provider: str, stage: str, calls: int, seconds: float = 0.0, failures: int = 0) -> None:
        key = (provider, stage)
        self.calls[key] = self.calls.get(key, 0) + calls
        self.seconds[key] = self.seconds.get(key, 0.0) + seconds
        self.failures[key] = self.failures.get(key, 0) + failures

    def total_calls(self, provider: str) -> int:
        return sum(n for (name, _), n in self.calls.items() if name == provider)


class Counted:
    """A provider that writes every call of the provider it wraps into a ledger."""

    def __init__(self, provider: EnergyProvider, ledger: Ledger, stage: str):
        self._provider, self._ledger, self._stage = provider, ledger, stage

    @property
    def name(self) -> str:
        return self._provider.name

    @property
    def system(self) -> ParticleSystem:
        return self._provider.system

    @property
    def differentiable(self) -> bool:
        return self._provider.differentiable

    @property
    def device(self) -> torch.device:
        return self._provider.device

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        start = time.perf_counter()
        result = self._provider.evaluate(positions, want)
        failures = int((~result.ok).sum())
        self._ledger.add(self.name, self._stage, len(positions), time.perf_counter() - start, failures)
        return result
