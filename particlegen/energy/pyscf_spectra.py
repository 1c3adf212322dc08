"""Excitations of a batch shared over an executor, one configuration per task."""

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch

from particlegen.energy.distributed import Recipe, made
from particlegen.energy.provider import EnergyProvider, LedgerEntry
from particlegen.energy.pyscf_engine import Excitations, PySCFEnergy
from particlegen.events import EventSink, ignore
from particlegen.geometry import Positions
from particlegen.settings import InputError
from particlegen.tasks import Done, TaskLimits, map_tasks

__all__ = ["excited", "shared_excitations"]


@dataclass(frozen=True)
class _Task:
    """Positions `(particle, 3)` in arrays, which travel as bytes (tensors would travel as open files)."""

    recipe: Recipe
    positions: np.ndarray
    states: int


@dataclass(frozen=True)
class _Answer:
    """`(state,)` each; NaN where there is a reason."""

    energies: np.ndarray
    strengths: np.ndarray
    reason: str | None
    seconds: float


def excited(provider: EnergyProvider) -> PySCFEnergy:
    """The provider, where it knows excitations.

    Raises:
        InputError: it is another engine than PySCF.
    """
    if not isinstance(provider, PySCFEnergy):
        raise InputError(f"engine {provider.name!r} knows no excitations; take a card of kind 'pyscf'")
    return provider


def _excite(task: _Task) -> _Answer:
    """Runs in the worker."""
    start = time.perf_counter()
    found = excited(made(task.recipe)).excitations(torch.from_numpy(task.positions.copy())[None], task.states)
    energies, strengths = found.energies[0].numpy(), found.strengths[0].numpy()
    return _Answer(energies, strengths, found.reasons[0], time.perf_counter() - start)


def shared_excitations(
    recipe: Recipe,
    executor: Executor,
    positions: Positions,
    states: int,
    limits: TaskLimits = TaskLimits(),
    events: EventSink = ignore,
    stage: str = "spectra",
) -> tuple[Excitations, LedgerEntry]:
    """The lowest excitations of configurations, as `PySCFEnergy.excitations`, and what the workers spent on them.

    A task without an answer (its worker died or hung, again and again) is a failed item with that reason.

    Args:
        recipe: of a `PySCFEnergy`.
        executor: whose workers compute.
        positions: `(batch, particle, 3)` in Å.
        states: how many excitations.
        limits: attempts and seconds of a task.
        events: hears about attempts that failed.
        stage: whom the events speak for.

    Raises:
        InputError: another engine, or `states` is not positive.
        ValueError: positions of another N or dimension.
    """
    excited(made(recipe)).excitations(positions[:0], states)
    tasks = [_Task(recipe, x, states) for x in positions.detach().to("cpu", torch.float64).numpy()]
    nothing = np.full(states, np.nan)
    answers = [
        outcome.value if isinstance(outcome, Done) else _Answer(nothing, nothing, outcome.reason, 0.0)
        for outcome in map_tasks(executor, _excite, tasks, limits, events, stage)
    ]
    reasons = tuple(answer.reason for answer in answers)
    failures = sum(reason is not None for reason in reasons)
    spent = LedgerEntry(len(answers), sum(answer.seconds for answer in answers), failures)
    return Excitations(
        energies=_joined([answer.energies for answer in answers], states),
        strengths=_joined([answer.strengths for answer in answers], states),
        ok=torch.tensor([reason is None for reason in reasons], dtype=torch.bool),
        reasons=reasons,
    ), spent


def _joined(rows: Sequence[np.ndarray], states: int) -> torch.Tensor:
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, states, dtype=torch.float64)
