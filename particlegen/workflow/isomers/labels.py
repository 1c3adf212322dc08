"""Labels of the engine for learned potentials: recorded, counted against the budget, kept as tensors of checkpoints."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from particlegen.energy import EnergyProvider, EnergyResult
from particlegen.energy.failures import check_failures
from particlegen.energy.provider import Wrapper
from particlegen.geometry import Positions

__all__ = ["Recorded", "label_tensors", "taken", "under"]

_FIELDS = ("positions", "energies", "forces")


class Recorded(Wrapper):
    """A provider that keeps what it was asked and what it answered, where energies and forces are there."""

    def __init__(self, provider: EnergyProvider):
        super().__init__(provider)
        self.asked, self.failed = 0, 0
        self.first_failure = ""
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def differentiable(self) -> bool:
        return False

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        found = self._provider.evaluate(positions, want)
        self.asked += len(positions)
        self.failed += int((~found.ok).sum())
        self.first_failure = self.first_failure or next((text for text in found.reasons if text), "")
        if found.forces is not None:
            x, energy, forces = (
                part.detach().to("cpu", torch.float64) for part in (positions, found.energy, found.forces)
            )
            ok = found.ok.cpu() & energy.isfinite() & forces.isfinite().all(2).all(1)
            self._kept.append((x[ok], energy[ok], forces[ok]))
        return found

    @property
    def labels(self) -> dict[str, Tensor]:
        """`positions`, `energies`, `forces` of all answers so far."""
        if not self._kept:
            n, dim = self.system.n_particles, self.system.dim
            empty = torch.zeros(0, n, dim, dtype=torch.float64)
            return {"positions": empty, "energies": empty[:, 0, 0], "forces": empty}
        columns = zip(*self._kept, strict=True)
        return {name: torch.cat(column) for name, column in zip(_FIELDS, columns, strict=True)}

    def check(self, largest_failures: float) -> None:
        """End the run where too large a share of the calls failed; labels that were paid for are in the store."""
        check_failures(self.name, self.asked, self.failed, self.first_failure, largest_failures)


def label_tensors(name: str, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Labels of an isomer as tensors of a checkpoint."""
    return {f"{name}.labels.{field}": labels[field] for field in _FIELDS}


def taken(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The labels of an isomer that a checkpoint holds."""
    return under(f"{name}.labels.", tensors)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint whose names begin with `prefix`, by the rest of their names."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
