"""One chain (a ladder of one or more temperatures) as a value: started, equilibrated, advanced by chunks.

The functions here run in worker processes. What a chain does depends on its arguments alone.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from particlegen.sampling.blocks import STAGE, extent, scattered
from particlegen.sampling.generator import seeded_state
from particlegen.sampling.kernels import COUNTERS, advance
from particlegen.sampling.model import KernelModel, pack, unpack
from particlegen.settings import RunError
from particlegen.streams import numpy_stream, stream_seed
from particlegen.system import ParticleSystem

__all__ = ["Chain", "ChainPlan", "Chunk", "advance_chain", "energy_calls", "equilibrate", "start_chain"]

_LARGEST_DRIFT = 1e-8
_TARGET_ACCEPTANCE = 0.4
_HOTTEST = 10.0
"""Annealing starts at this multiple of every temperature."""

_TUNINGS = 24


@dataclass(frozen=True)
class Chain:
    """The state of a chain: all that the next chunk depends on, and counters.

    Args:
        index: number of the chain.
        positions: `(K, N, dim)`, one configuration per temperature.
        steps: `(K,)` half-widths of the displacement cube.
        walkers, heading: `(K,)` which walker is at each temperature; whether it was last at the hottest (1).
        exchanges: `(K − 1, 2)` attempted and accepted exchanges of neighbours.
        tally: `(2,)` exchange rounds, round trips.
        counters: `(K, 4)` moves, columns as in `kernels.COUNTERS`.
    """

    index: int
    positions: np.ndarray
    steps: np.ndarray
    walkers: np.ndarray
    heading: np.ndarray
    exchanges: np.ndarray
    tally: np.ndarray
    counters: np.ndarray


@dataclass(frozen=True)
class ChainPlan:
    """What every chain of a run shares; sent to the workers with each task."""

    model: KernelModel
    betas: np.ndarray
    target: int
    swap_fraction: float
    sweeps_between_frames: int
    sweeps_between_exchanges: int
    equilibration_sweeps: int
    seed: int


@dataclass(frozen=True)
class Chunk:
    """What a chain recorded: positions `(frame, N, dim)`, energies at all temperatures `(frame, K)`; its new state."""

    chain: Chain
    positions: np.ndarray
    energies: np.ndarray


def start_chain(system: ParticleSystem, plan: ChainPlan, index: int) -> Chain:
    """A chain at uniform random positions: over the box, or over a ball in free space."""
    k = len(plan.betas)
    return Chain(
        index=index,
        positions=scattered(system, numpy_stream(plan.seed, STAGE + ".start", index), k),
        steps=np.full(k, 0.1 * extent(system) / system.n_particles ** (1.0 / system.dim)),
        walkers=np.arange(k),
        heading=np.zeros(k, np.int64),
        exchanges=np.zeros((max(0, k - 1), 2), np.int64),
        tally=np.zeros(2, np.int64),
        counters=np.zeros((k, len(COUNTERS)), np.int64),
    )


def advance_chain(
    plan: ChainPlan, chain: Chain, frames: int, sweeps: int, stream: np.ndarray, heat: float = 1.0
) -> Chunk:
    """Run a chain for `frames` × `sweeps` sweeps; `heat` multiplies all temperatures (annealing).

    Raises:
        RunError: the energy that accumulated move by move left the recomputed one by more than 1e-8.
    """
    x = pack(plan.model, chain.positions)
    state = replace(
        chain,
        walkers=chain.walkers.copy(),
        heading=chain.heading.copy(),
        exchanges=chain.exchanges.copy(),
        tally=chain.tally.copy(),
        counters=chain.counters.copy(),
    )
    ladder = (state.walkers, state.heading, state.exchanges, state.tally)
    rows, energies, drift = advance(
        plan.model,
        x,
        plan.betas / heat,
        chain.steps,
        plan.swap_fraction,
        frames,
        sweeps,
        plan.sweeps_between_exchanges,
        plan.target,
        stream,
        ladder,
        state.counters,
    )
    if heat == 1.0 and drift > _LARGEST_DRIFT:
        raise RunError(
            f"chain {chain.index}: the running energy drifted by {drift:.1e} of the recomputed one (allowed "
            f"{_LARGEST_DRIFT:g}); the start may hold overlaps: raise reference.equilibration_sweeps"
        )
    return Chunk(replace(state, positions=unpack(plan.model, x)), unpack(plan.model, rows), energies)


def _tuned(plan: ChainPlan, before: Chain, after: Chain) -> np.ndarray:
    moves = after.counters - before.counters
    acceptance = moves[:, 1] / np.maximum(moves[:, 0], 1)
    factor = np.clip(acceptance / _TARGET_ACCEPTANCE, 0.5, 2.0)
    # Beyond half a box the displacement is uniform over the torus already.
    finite = [length for length in plan.model.lengths if math.isfinite(length)]
    largest = max(finite) / 2 if finite else math.inf
    return np.minimum(after.steps * factor, min(largest, 2.0 * math.sqrt(plan.model.radius2)))


def energy_calls(counters: np.ndarray, particles: int) -> float:
    """Full-energy equivalents of move counters `(..., 4)`: a displacement is 1/N, a swap (two particles) 2/N."""
    return float(counters[..., 0].sum() + 2 * counters[..., 2].sum()) / particles


def equilibrate(system: ParticleSystem, plan: ChainPlan, index: int) -> tuple[Chain, float]:
    """A chain ready to record: cooled from random positions, its steps tuned and then frozen; and the energy calls.

    A third of the sweeps anneals every temperature geometrically from ten times its value, a third tunes the steps at
    the final temperatures, and a third runs with the steps frozen, so that what is recorded comes from a Markov chain
    that no longer adapts.
    """
    chain = start_chain(system, plan, index)
    stream = seeded_state(stream_seed(plan.seed, STAGE + ".equilibration", index))
    portion = plan.equilibration_sweeps // (3 * _TUNINGS)
    for k in range(2 * _TUNINGS if portion else 0):
        heat = max(1.0, _HOTTEST ** (1.0 - (k + 1) / _TUNINGS))
        after = advance_chain(plan, chain, 1, portion, stream, heat).chain
        chain = replace(after, steps=_tuned(plan, chain, after))
    left = plan.equilibration_sweeps - 2 * _TUNINGS * portion
    if left:
        chain = advance_chain(plan, chain, 1, left, stream).chain
    # Counters start anew: acceptances are reported for the frozen steps.
    calls = energy_calls(chain.counters, system.n_particles)
    names = ("counters", "exchanges", "tally")
    return replace(chain, **{name: np.zeros_like(getattr(chain, name)) for name in names}), calls
