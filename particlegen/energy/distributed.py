"""A batch of energies shared over an executor, in chunks whose size does not depend on the machine."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from particlegen.energy.provider import Counted, EnergyProvider, EnergyResult, Ledger, LedgerEntry, Wrapper
from particlegen.events import EventSink, ignore
from particlegen.geometry import Positions
from particlegen.tasks import Done, Failed, TaskLimits, map_tasks

__all__ = ["Distributed", "Recipe", "made"]

KEPT = 8
"""Providers that a worker keeps; the one that was longest without use goes first."""


@dataclass(frozen=True)
class Recipe:
    """How a provider is made: a function or class of an importable module, and hashable, picklable arguments.

    Equal recipes make equal providers, so a worker makes each once.

    >>> from particlegen.energy import SystemSettings, TorchPairEnergy, build_system
    >>> built = build_system(SystemSettings(card="lj_cluster"))
    >>> Recipe.of(TorchPairEnergy, built.system, built.potential)().name
    'torch_pair'
    """

    make: Callable[..., EnergyProvider]
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, make: Callable[..., EnergyProvider], /, *arguments: Any, **options: Any) -> "Recipe":
        """The recipe of `make(*arguments, **options)`.

        Raises:
            TypeError: an argument without a hash, such as a dictionary or an engine that was made already.
        """
        recipe = cls(make, arguments, tuple(sorted(options.items())))
        hash(recipe)
        return recipe

    def __call__(self) -> EnergyProvider:
        return self.make(*self.arguments, **dict(self.options))


@dataclass(frozen=True)
class _Chunk:
    """One task: positions `(item, particle, dim)`."""

    recipe: Recipe
    positions: np.ndarray
    want: tuple[str, ...]
    stage: str


@dataclass(frozen=True)
class _Answer:
    """`EnergyResult` in arrays, which travel as bytes (tensors would travel as open files), and the worker's ledger."""

    energy: np.ndarray
    forces: np.ndarray | None
    virial: np.ndarray | None
    ok: np.ndarray
    reasons: tuple[str | None, ...]
    iterations: tuple[int | None, ...]
    ledger: Ledger


@lru_cache(maxsize=KEPT)
def made(recipe: Recipe) -> EnergyProvider:
    """The provider of a recipe, made once in each process."""
    return recipe()


def _evaluate(chunk: _Chunk) -> _Answer:
    """Runs in the worker."""
    ledger = Ledger()
    provider = Counted(made(chunk.recipe), ledger, chunk.stage)
    found = provider.evaluate(torch.from_numpy(chunk.positions.copy()).to(provider.device), chunk.want)
    return _Answer(
        energy=_array(found.energy),
        forces=None if found.forces is None else _array(found.forces),
        virial=None if found.virial is None else _array(found.virial),
        ok=_array(found.ok),
        reasons=found.reasons,
        iterations=found.iterations or (None,) * len(found.reasons),
        ledger=ledger,
    )


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


class Distributed(Wrapper):
    """An energy provider whose batches are shared over an executor; itself a provider.

    A batch is cut into chunks of `chunk` items, in order, so the answer does not depend on the executor or its
    workers. A chunk without an answer (its worker died or hung, again and again) gives items with `ok` False and the
    reason. What the provider itself marks as failed is not tried again.

    Args:
        recipe: of the provider, which is also made once here, for its name and to refuse wrong requests at once.
        executor: whose workers evaluate; closing it is left to whoever opened it.
        chunk: items per task: enough to outweigh the milliseconds of a task, few enough to keep all workers busy.
        limits: attempts and seconds of a task.
        ledger: gets the calls, seconds and failures that the workers counted; without it wrap this in `Counted`, which
            counts seconds of waiting.
        stage: what the calls are for, in ledger and events.
        events: hears about attempts that failed.

    Raises:
        ValueError: a chunk of less than one item.
        InputError: what making the provider raises.
    """

    differentiable = False

    def __init__(
        self,
        recipe: Recipe,
        executor: Executor,
        chunk: int,
        limits: TaskLimits = TaskLimits(),
        ledger: Ledger | None = None,
        stage: str = "labels",
        events: EventSink = ignore,
    ):
        if chunk < 1:
            raise ValueError(f"chunk has to be 1 or more, found {chunk}")
        super().__init__(made(recipe))
        self._recipe, self._executor, self._chunk, self._limits = recipe, executor, chunk, limits
        self._ledger, self._stage, self._events = ledger, stage, events

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        """As the provider's own.

        Raises:
            ValueError: positions or a request that the provider refuses.
        """
        self._provider.evaluate(positions[:0].to(self._provider.device), want)
        x = positions.detach().cpu().numpy()
        tasks = [
            _Chunk(self._recipe, x[start : start + self._chunk], tuple(want), self._stage)
            for start in range(0, len(x), self._chunk)
        ]
        found = map_tasks(self._executor, _evaluate, tasks, self._limits, self._events, self._stage)
        answers = [self._settled(task, outcome) for task, outcome in zip(tasks, found, strict=True)]
        if self._ledger is not None:
            for answer in answers:
                self._ledger.include(answer.ledger)

        def joined(name: str, empty: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.concatenate([empty, *(getattr(answer, name) for answer in answers)]))

        none = np.zeros(0)
        return EnergyResult(
            energy=joined("energy", none),
            forces=joined("forces", np.zeros((0, *x.shape[1:]))) if "forces" in want else None,
            virial=joined("virial", none) if "virial" in want else None,
            ok=joined("ok", none.astype(bool)),
            reasons=tuple(reason for answer in answers for reason in answer.reasons),
            iterations=tuple(count for answer in answers for count in answer.iterations),
        )

    def _settled(self, task: _Chunk, outcome: Done[_Answer] | Failed) -> _Answer:
        """The answer, or that of a chunk whose items all failed."""
        if isinstance(outcome, Done):
            return outcome.value
        n, ledger = len(task.positions), Ledger()
        ledger.add(self.name, self._stage, LedgerEntry(n, failures=n))
        nothing = np.full(n, np.nan)
        return _Answer(
            energy=nothing,
            forces=np.full(task.positions.shape, np.nan),
            virial=nothing,
            ok=np.zeros(n, dtype=bool),
            reasons=(outcome.reason,) * n,
            iterations=(None,) * n,
            ledger=ledger,
        )
