"""The one contract that every energy engine fulfils, and the ledger that counts its calls."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from particlegen.geometry import Positions
from particlegen.system import ParticleSystem

__all__ = ["Counted", "EnergyProvider", "EnergyResult", "Ledger", "LedgerEntry", "Wrapper", "check_request", "vetted"]


@dataclass(frozen=True)
class EnergyResult:
    """Energies of a batch; failure is data, not an exception.

    Args:
        energy: `(batch,)` float64; NaN where `ok` is False.
        forces: `(batch, particle, dim)` −∂U/∂x, or None when not asked for.
        virial: `(batch,)` W = −Σ_{i<j} r_ij U'(r_ij), or None.
        ok: `(batch,)`; False marks an item that must not be used as an energy or a training label.
        reasons: one entry per item, None where ok.
        iterations: of the engine's self-consistency, one entry per item, where it tells.
    """

    energy: Float[Tensor, " batch"]
    forces: Positions | None
    virial: Float[Tensor, " batch"] | None
    ok: Bool[Tensor, " batch"]
    reasons: tuple[str | None, ...]
    iterations: tuple[int | None, ...] | None = None


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


def vetted(found: Any, positions: Tensor, want: Sequence[str]) -> EnergyResult:
    """What an engine answered, held to the contract: what cannot be used is a failed item with a reason.

    Every item fails where a part is missing or has another shape than it should; a single one where its energy is −∞,
    or a number that was asked for is NaN. Failed items hold NaN alone. A sound answer is returned as it is.

    Args:
        found: of `evaluate`, whatever it is.
        positions, want: what was asked.
    """
    n = len(positions)
    shapes = {"energy": (n,), "forces": tuple(positions.shape), "virial": (n,)}
    shapes = {name: shape for name, shape in shapes.items() if name == "energy" or name in want}
    for name, shape in (shapes | {"ok": (n,)}).items():
        part = getattr(found, name, None)
        if not isinstance(part, Tensor) or tuple(part.shape) != shape:
            what = f"{name} of shape {tuple(part.shape)}" if isinstance(part, Tensor) else f"no tensor for {name}"
            return _all_failed(positions, want, f"the engine answered with {what}, expected shape {shape}")
    told = tuple(getattr(found, "reasons", None) or ())
    if len(told) != n:
        return _all_failed(positions, want, f"the engine answered with {len(told)} reasons, expected {n}")
    ok, unusable = found.ok.bool(), found.energy.isneginf()
    for name in shapes:
        nan = getattr(found, name).isnan()
        unusable = unusable | (nan.flatten(1).any(1) if nan.ndim > 1 else nan)
    bad = ~ok | unusable
    if not bad.any():
        return found
    why = ["the energy or what else was asked for is not a number" if one else "no reason given" for one in ok.tolist()]
    return EnergyResult(
        energy=found.energy.masked_fill(bad, torch.nan),
        forces=found.forces.masked_fill(bad[:, None, None], torch.nan) if "forces" in want else None,
        virial=found.virial.masked_fill(bad, torch.nan) if "virial" in want else None,
        ok=~bad,
        reasons=tuple((told[k] or why[k]) if one else None for k, one in enumerate(bad.tolist())),
        iterations=getattr(found, "iterations", None),
    )


def _all_failed(positions: Tensor, want: Sequence[str], reason: str) -> EnergyResult:
    nothing = torch.full_like(positions, torch.nan, dtype=torch.float64, requires_grad=False)
    column = nothing.new_full((len(positions),), torch.nan)
    return EnergyResult(
        energy=column,
        forces=nothing if "forces" in want else None,
        virial=column if "virial" in want else None,
        ok=torch.zeros(len(positions), dtype=torch.bool, device=positions.device),
        reasons=(reason,) * len(positions),
    )


@dataclass(frozen=True)
class LedgerEntry:
    """What an engine was asked.

    Args:
        calls: full-energy evaluations; N single-particle trial moves count as one, so there are fractions.
        seconds: that they took.
        failures: calls that gave no energy.
        cached: answers of a label store in place of calls.
    """

    calls: int | float = 0
    seconds: float = 0.0
    failures: int = 0
    cached: int = 0

    def __add__(self, other: "LedgerEntry") -> "LedgerEntry":
        return LedgerEntry(
            self.calls + other.calls,
            self.seconds + other.seconds,
            self.failures + other.failures,
            self.cached + other.cached,
        )


@dataclass
class Ledger:
    """One entry per (provider, stage)."""

    entries: dict[tuple[str, str], LedgerEntry] = field(default_factory=dict)

    def add(self, provider: str, stage: str, entry: LedgerEntry) -> None:
        key = (provider, stage)
        self.entries[key] = self.entries.get(key, LedgerEntry()) + entry

    def take(self, stage: str) -> dict[str, LedgerEntry]:
        """Remove the entries of a stage and return them by provider."""
        taken = [key for key in self.entries if key[1] == stage]
        return {key[0]: self.entries.pop(key) for key in taken}

    def include(self, other: "Ledger") -> None:
        """Add what another ledger, that of a task, has counted."""
        for (provider, stage), entry in other.entries.items():
            self.add(provider, stage, entry)

    def total_calls(self, provider: str) -> int | float:
        return sum(entry.calls for (name, _), entry in self.entries.items() if name == provider)


class Wrapper:
    """What a provider around another passes on; its `evaluate` is its own."""

    def __init__(self, provider: EnergyProvider):
        self._provider = provider

    @property
    def name(self) -> str:
        return self._provider.name

    @property
    def system(self) -> ParticleSystem:
        return self._provider.system

    @property
    def device(self) -> torch.device:
        return self._provider.device

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the provider; AttributeError where it has none."""
        return self._provider.settings  # pyright: ignore[reportAttributeAccessIssue]


class Counted(Wrapper):
    """A provider that writes every call of the provider it wraps into a ledger, and passes on sound answers alone.

    What does not keep the contract (NaN without a word, arrays of another shape) is passed on as failed, see `vetted`.

    With a label store the order is `Cached(Counted(engine, ledger, stage), store)`: calls that are paid for, and
    answers from the store apart from them.
    """

    def __init__(self, provider: EnergyProvider, ledger: Ledger, stage: str):
        super().__init__(provider)
        self._ledger, self._stage = ledger, stage

    @property
    def differentiable(self) -> bool:
        return self._provider.differentiable

    def add_cached(self, answers: int) -> None:
        """Count answers that a store gave in the provider's place."""
        self._ledger.add(self.name, self._stage, LedgerEntry(cached=answers))

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        start = time.perf_counter()
        result = vetted(self._provider.evaluate(positions, want), positions, want)
        seconds, failures = time.perf_counter() - start, int((~result.ok).sum())
        self._ledger.add(self.name, self._stage, LedgerEntry(len(positions), seconds, failures))
        return result
