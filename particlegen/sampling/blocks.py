"""What every reference sampler shares: where chains start, the blocks they yield, the word on how far they are."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from particlegen.events import Event
from particlegen.geometry import FlatTorus
from particlegen.sampling.settings import ReferenceSettings
from particlegen.system import ParticleSystem

__all__ = ["STAGE", "FrameBlock", "extent", "progress", "scattered", "state_before"]

STAGE = "reference"
"""Key of this room's random streams."""


@dataclass(frozen=True)
class FrameBlock:
    """Frames of all chains from one chunk of work, chain by chain.

    Args:
        chunk: number of the chunk, from 0.
        positions: `(frame, N, dim)` float64, wrapped into the box.
        energies: `(frame,)` at the system's temperature, each summed afresh.
        chain: `(frame,)` chain of each frame.
        energy_calls: spent on this block (equilibration is in block 0), in full-energy equivalents.
        temperatures: `(K,)` of the ladder, coldest first; one without tempering.
        ladder_energies: `(frame, K)` energies at all temperatures at the time of each frame, for MBAR.
        acceptance: accepted shares since equilibration over all chains, by kind of move: one per temperature, or, for
            `exchange`, per pair of neighbours; an empty list for moves that were not made.
        round_trips: walkers that went from the coldest temperature to the hottest and back since equilibration.
        state: arrays to continue from: pass them to the sampler with `start_chunk = chunk + 1`.
    """

    chunk: int
    positions: Float[np.ndarray, "frame particle dim"]
    energies: Float[np.ndarray, " frame"]
    chain: Int[np.ndarray, " frame"]
    energy_calls: float
    temperatures: Float[np.ndarray, " temperature"]
    ladder_energies: Float[np.ndarray, "frame temperature"]
    acceptance: Mapping[str, list[float]]
    round_trips: int
    state: Mapping[str, np.ndarray]


def extent(system: ParticleSystem) -> float:
    """Longest edge of the box, or radius of the ball, in which chains start.

    Unconfined particles start at a density of about one per cubic length unit.
    """
    if isinstance(system.geometry, FlatTorus):
        return max(system.geometry.lengths)
    return min(system.geometry.radius, max(1.0, system.n_particles ** (1.0 / system.dim)))


def scattered(system: ParticleSystem, rng: np.random.Generator, count: int) -> Float[np.ndarray, "count particle dim"]:
    """Uniform random positions: over the box, or over a ball in free space."""
    n, dim = system.n_particles, system.dim
    if isinstance(system.geometry, FlatTorus):
        return rng.random((count, n, dim)) * np.asarray(system.geometry.lengths)
    direction = rng.normal(size=(count, n, dim))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    return extent(system) * rng.random((count, n, 1)) ** (1.0 / dim) * direction


def state_before(
    start_chunk: int, resume_from: Mapping[str, np.ndarray] | None, names: Sequence[str], chains: int
) -> Mapping[str, np.ndarray] | None:
    """The state of the block before `start_chunk`; None at the beginning.

    Raises:
        ValueError: it is missing, lacks one of the arrays `names`, or holds another number of chains.
    """
    if start_chunk == 0:
        return None
    if resume_from is None:
        raise ValueError(f"start_chunk={start_chunk} needs the state of block {start_chunk - 1} (resume_from)")
    missing = [name for name in names if name not in resume_from]
    if missing:
        raise ValueError(f"the state to resume from lacks {', '.join(missing)}")
    if len(resume_from["positions"]) != chains:
        raise ValueError(f"the state holds {len(resume_from['positions'])} chains, the settings {chains}")
    return resume_from


def progress(settings: ReferenceSettings, chunk: int, start_chunk: int, began: float) -> Event:
    """That a block is done; `began` is when the first one of this session was, by `time.perf_counter`."""
    done, total = chunk + 1 - start_chunk, settings.chunks - start_chunk
    return Event(
        "progress",
        STAGE,
        f"reference block {chunk + 1} of {settings.chunks}",
        {
            "done": min((chunk + 1) * settings.chunk_frames, settings.frames_per_chain) * settings.chains,
            "total": settings.frames_per_chain * settings.chains,
            "seconds_left": (time.perf_counter() - began) / done * (total - done),
        },
    )
