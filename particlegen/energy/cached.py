"""Answers from a label store in place of calls."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from particlegen.energy.fingerprint import geometry_hash, settings_of
from particlegen.energy.label import Label
from particlegen.energy.labels import LabelStore
from particlegen.energy.provider import Counted, EnergyProvider, EnergyResult, Wrapper, check_request
from particlegen.geometry import Positions

__all__ = ["Cached"]


class Cached(Wrapper):
    """A provider that asks the one it wraps only for what a label store lacks, and stores every answer at once.

    A label counts where the hash of the settings and the hash of the geometry are the same (see `geometry_hash`) and
    it has what is wanted. A configuration that stands in a batch twice is asked for once. What is answered is what
    the store holds: where another process was faster, its energy. Failures are kept with their reason and answered
    as failures again. Positions that are not finite fail without a call and are not stored.

    Args:
        provider: what is asked. Wrap it as `Cached(Counted(engine, ledger, stage), store)`, and the ledger counts
            calls and `cached` answers apart; duplicates in a batch are cached answers.
        store: where the labels are; several processes may share it.
        settings: what the answers depend on, as JSON; default the provider's own.
        chunk: configurations per call of the provider. Each chunk is stored when it arrives, so that is what a kill
            can lose; more than one for engines that are faster in batches.
        retry_failed: ask again for what failed before, and keep a success in its place.

    Raises:
        InputError: the provider does not say what its answers depend on, and no settings are given.
    """

    differentiable = False

    def __init__(
        self,
        provider: EnergyProvider,
        store: LabelStore,
        settings: Mapping[str, Any] | None = None,
        chunk: int = 1,
        retry_failed: bool = False,
    ):
        if chunk < 1:
            raise ValueError(f"chunk has to be at least 1, found {chunk}")
        super().__init__(provider)
        self._store, self._chunk, self._retry = store, chunk, retry_failed
        self._settings = settings_of(provider) if settings is None else dict(settings)
        self._settings_hash = store.add_settings(self._settings)

    @property
    def settings(self) -> Mapping[str, Any]:
        return self._settings

    @property
    def settings_hash(self) -> str:
        """Under which the labels are kept."""
        return self._settings_hash

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        """As the provider's, without gradients.

        Raises:
            ValueError: positions of another N or dimension, or a quantity in `want` that is not offered.
            InputError, RunError: see `LabelStore`.
        """
        check_request(self.system, positions, want)
        x = positions.detach().to("cpu", torch.float64)
        finite = x.isfinite().all(2).all(1).tolist()
        keys = [
            geometry_hash(self.system, frame) if good else None for frame, good in zip(x.numpy(), finite, strict=True)
        ]
        places = {key: item for item, key in enumerate(keys) if key is not None}
        found = self._store.get(self._settings_hash, list(places))
        answers = {key: label for key, label in found.items() if self._answers(label, want)}
        missing = [(key, item) for key, item in places.items() if key not in answers]
        for start in range(0, len(missing), self._chunk):
            asked = missing[start : start + self._chunk]
            labels = self._ask(x[[item for _, item in asked]], want)
            answers |= {key: label for (key, _), label in zip(asked, labels, strict=True)}
        if isinstance(self._provider, Counted):
            self._provider.add_cached(sum(finite) - len(missing))
        return self._result(x, [None if key is None else answers[key] for key in keys], want)

    def _answers(self, label: Label, want: Sequence[str]) -> bool:
        return set(want) <= label.quantities if label.converged else not self._retry

    def _ask(self, x: Tensor, want: Sequence[str]) -> list[Label]:
        """Ask the provider, store what it says, and return what answers the request."""
        start = time.perf_counter()
        result = self._provider.evaluate(x.to(self.device), want)
        seconds = (time.perf_counter() - start) / len(x)
        new = [self._label(result, item, frame, seconds) for item, frame in enumerate(x.numpy())]
        held = self._store.put(new)
        # A store keeps an energy although the forces failed; this request is then answered with the failure.
        return [kept if self._answers(kept, want) else asked for kept, asked in zip(held, new, strict=True)]

    def _label(self, result: EnergyResult, item: int, frame: np.ndarray, seconds: float) -> Label:
        ok = bool(result.ok[item])
        forces, virial = result.forces, result.virial
        return Label(
            settings_hash=self._settings_hash,
            system=self.system,
            positions=frame.copy(),
            energy=float(result.energy[item]) if ok else None,
            forces=forces[item].detach().cpu().double().numpy().copy() if ok and forces is not None else None,
            virial=float(virial[item]) if ok and virial is not None else None,
            reason=None if ok else result.reasons[item] or "the engine gave no reason",
            iterations=None if result.iterations is None else result.iterations[item],
            seconds=seconds,
            provider=self.name,
            time=time.time(),
        )

    def _result(self, x: Tensor, labels: Sequence[Label | None], want: Sequence[str]) -> EnergyResult:
        """Labels as a batch; None stands for positions that are not finite."""
        energy, virial, forces = np.full(len(x), np.nan), np.full(len(x), np.nan), np.full(x.shape, np.nan)
        for item, label in enumerate(labels):
            if label is not None and label.converged:
                energy[item] = label.energy
                virial[item] = np.nan if label.virial is None else label.virial
                forces[item] = np.nan if label.forces is None else label.forces
        reasons = tuple("positions are not finite" if label is None else label.reason for label in labels)
        return EnergyResult(
            energy=torch.from_numpy(energy).to(self.device),
            forces=torch.from_numpy(forces).to(self.device) if "forces" in want else None,
            virial=torch.from_numpy(virial).to(self.device) if "virial" in want else None,
            ok=torch.tensor([reason is None for reason in reasons], dtype=torch.bool, device=self.device),
            reasons=reasons,
            iterations=tuple(None if label is None else label.iterations for label in labels),
        )
