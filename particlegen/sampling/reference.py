"""The reference ensemble: blocks of equilibrium frames from many independent chains."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import fields

import numpy as np

from particlegen.energy.formulas import PairPotential
from particlegen.events import EventSink, ignore
from particlegen.sampling.blocks import STAGE, FrameBlock, progress, state_before
from particlegen.sampling.chains import Chain, ChainPlan, Chunk, advance_chain, energy_calls, equilibrate
from particlegen.sampling.generator import seeded_state
from particlegen.sampling.model import build_model
from particlegen.sampling.settings import ReferenceSettings
from particlegen.settings import InputError, RunError
from particlegen.streams import stream_seed
from particlegen.system import ParticleSystem, ThermodynamicState
from particlegen.tasks import Done, Failed, InlineExecutor, TaskLimits, map_tasks

__all__ = ["plan_chains", "sample_reference"]

_STATE = tuple(field.name for field in fields(Chain) if field.name != "index")


def plan_chains(
    system: ParticleSystem,
    potential: PairPotential,
    state: ThermodynamicState,
    settings: ReferenceSettings,
    seed: int,
) -> ChainPlan:
    """What the chains of a run share.

    Raises:
        InputError: swaps in a system of one kind, or a ladder without the system's temperature.
    """
    model = build_model(system, potential)
    if settings.swap_share > 0 and model.kinds < 2:
        raise InputError(
            f"reference.sampler: system {system.name!r} has particles of one kind only, nothing to swap; "
            "use sampler: displacement"
        )
    ladder = settings.ladder(system, state)
    betas = np.array([ThermodynamicState(t, state.units).beta for t in ladder])
    return ChainPlan(
        model=model,
        betas=betas,
        target=int(np.argmin(np.abs(np.asarray(ladder) - state.temperature))),
        swap_fraction=settings.swap_share,
        sweeps_between_frames=settings.sweeps_between_frames,
        sweeps_between_exchanges=settings.sweeps_between_exchanges,
        equilibration_sweeps=settings.equilibration_sweeps,
        seed=seed,
    )


def _first_chunk(task: tuple[ParticleSystem, ChainPlan, int, int]) -> tuple[Chunk, float]:
    system, plan, index, frames = task
    chain, calls = equilibrate(system, plan, index)
    chunk, more = _next_chunk((plan, chain, 0, frames))
    return chunk, calls + more


def _next_chunk(task: tuple[ChainPlan, Chain, int, int]) -> tuple[Chunk, float]:
    plan, chain, number, frames = task
    stream = seeded_state(stream_seed(plan.seed, STAGE, chain.index, number))
    chunk = advance_chain(plan, chain, frames, plan.sweeps_between_frames, stream)
    calls = energy_calls(chunk.chain.counters, plan.model.particles) - energy_calls(
        chain.counters, plan.model.particles
    )
    return chunk, calls


def _answers(outcomes: list[Done[tuple[Chunk, float]] | Failed]) -> list[tuple[Chunk, float]]:
    """What every chain answered; without one of them there is no going on."""
    for chain, outcome in enumerate(outcomes):
        if isinstance(outcome, Failed):
            raise RunError(f"reference chain {chain}: {outcome.reason}")
    return [outcome.value for outcome in outcomes if isinstance(outcome, Done)]


def _chains(state: Mapping[str, np.ndarray]) -> list[Chain]:
    count = len(state["positions"])
    return [Chain(index=c, **{name: np.array(state[name][c]) for name in _STATE}) for c in range(count)]


def _acceptance(chains: Sequence[Chain]) -> dict[str, list[float]]:
    moves, exchanges = (
        np.sum([getattr(chain, name) for chain in chains], axis=0) for name in ("counters", "exchanges")
    )
    pairs = {"displacement": moves[:, :2], "swap": moves[:, 2:], "exchange": exchanges}
    return {
        name: (both[:, 1] / both[:, 0]).tolist() if len(both) and both[:, 0].all() else []
        for name, both in pairs.items()
    }


def sample_reference(
    system: ParticleSystem,
    potential: PairPotential,
    state: ThermodynamicState,
    settings: ReferenceSettings,
    seed: int,
    executor: Executor | None = None,
    events: EventSink = ignore,
    start_chunk: int = 0,
    resume_from: Mapping[str, np.ndarray] | None = None,
    limits: TaskLimits = TaskLimits(),
) -> Iterator[FrameBlock]:
    """Equilibrium frames, block by block; no block holds more than `settings.block_frames` frames (but one per chain).

    Random streams are keyed by (seed, chain, chunk), so the frames do not depend on the executor or its workers, and
    a run that continues from a block's state yields what the uninterrupted run would have.

    Args:
        system, potential, state: what to sample.
        settings: how.
        seed: of the workflow.
        executor: shares the chains of each block over its workers; None runs them here.
        events: receives `progress` with fields `done`, `total` (frames) and `seconds_left`.
        start_chunk: first block to yield; above 0 it needs `resume_from`, the state of the block before.
        limits: attempts and seconds of a task, which is one chain's share of a block.

    Yields:
        `settings.chunks` blocks, less those before `start_chunk`.

    Raises:
        InputError: settings that do not fit the system.
        ValueError: a state to resume from that does not fit.
        RunError: the running energy left the recomputed one, or a chain's task failed more often than is borne.
    """
    before = state_before(start_chunk, resume_from, _STATE, settings.chains)
    plan = plan_chains(system, potential, state, settings, seed)
    temperatures = np.asarray(settings.ladder(system, state))
    workers = executor or InlineExecutor()
    chains = [] if before is None else _chains(before)
    began = time.perf_counter()
    for number in range(start_chunk, settings.chunks):
        frames = settings.frames_of(number)
        if number == 0:
            starts = [(system, plan, c, frames) for c in range(settings.chains)]
            results = _answers(map_tasks(workers, _first_chunk, starts, limits, events, STAGE))
        else:
            states = [(plan, chain, number, frames) for chain in chains]
            results = _answers(map_tasks(workers, _next_chunk, states, limits, events, STAGE))
        chains = [chunk.chain for chunk, _ in results]
        energies = np.concatenate([chunk.energies for chunk, _ in results])
        yield FrameBlock(
            chunk=number,
            positions=np.concatenate([chunk.positions for chunk, _ in results]),
            energies=np.ascontiguousarray(energies[:, plan.target]),
            chain=np.repeat(np.arange(settings.chains), frames),
            energy_calls=sum(calls for _, calls in results),
            temperatures=temperatures,
            ladder_energies=energies,
            acceptance=_acceptance(chains),
            round_trips=sum(int(chain.tally[1]) for chain in chains),
            state={name: np.stack([getattr(chain, name) for chain in chains]) for name in _STATE},
        )
        events(progress(settings, number, start_chunk, began))
