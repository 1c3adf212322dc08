"""Hamiltonian Monte Carlo: reference ensembles of any engine that gives forces, all chains in one batch."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from particlegen.energy.failures import MOST_FAILURES
from particlegen.energy.provider import EnergyProvider
from particlegen.events import Event, EventSink, ignore
from particlegen.geometry import Positions
from particlegen.sampling.acceptance import acceptance_probability
from particlegen.sampling.blocks import STAGE, FrameBlock, extent, progress, scattered, state_before
from particlegen.sampling.leapfrog import JITTER, Engine, Phase, energy_log_ratio, leapfrog, step_factor
from particlegen.sampling.settings import DESCENT, ReferenceSettings
from particlegen.settings import RunError
from particlegen.streams import numpy_stream
from particlegen.system import ThermodynamicState

__all__ = ["sample_hamiltonian"]

_HOTTEST = 10.0
_TUNINGS = 24


@dataclass(frozen=True)
class _Walkers:
    """The state of all chains: all that the next block depends on, and counters.

    Args:
        positions, forces: `(chain, N, dim)`, as the engine gave them.
        energies: `(chain,)`.
        step: `(1,)` length that a particle moves per leap at the speed that it has on average along one axis.
        counters: `(3,)` trajectories, accepted ones, and those without an energy.
    """

    positions: Tensor
    forces: Tensor
    energies: Tensor
    step: Tensor
    counters: Tensor


_STATE = tuple(field.name for field in fields(_Walkers))


def _advance(
    engine: Engine, walkers: _Walkers, streams: list[np.random.Generator], leaps: int, beta: float
) -> _Walkers:
    """One trajectory of every chain."""
    geometry = engine.provider.system.geometry
    shape = walkers.positions.shape[1:]
    momenta = torch.from_numpy(np.stack([stream.normal(size=shape) for stream in streams]))
    draws = np.array([stream.random(2) for stream in streams])
    steps = walkers.step * torch.from_numpy(1.0 + JITTER * (2.0 * draws[:, 1] - 1.0))
    everywhere = torch.ones(len(steps), dtype=torch.bool)
    start = Phase(walkers.positions, momenta, walkers.energies, walkers.forces, everywhere)
    found = leapfrog(engine.evaluate, geometry, start, beta, steps, leaps)
    allowed = found.ok & geometry.contains(found.positions)
    chance = np.array([acceptance_probability(ratio) for ratio in energy_log_ratio(start, found, beta).tolist()])
    accepted = allowed & torch.from_numpy(draws[:, 0] < chance)
    return _Walkers(
        positions=torch.where(accepted[:, None, None], found.positions, walkers.positions),
        forces=torch.where(accepted[:, None, None], found.forces, walkers.forces),
        energies=torch.where(accepted, found.energies, walkers.energies),
        step=walkers.step,
        counters=walkers.counters + torch.tensor([len(accepted), int(accepted.sum()), int((~found.ok).sum())]),
    )


def _run(
    engine: Engine,
    walkers: _Walkers,
    streams: list[np.random.Generator],
    leaps: int,
    trajectories: int,
    beta: float,
) -> _Walkers:
    """Several trajectories of every chain.

    Raises:
        RunError: most of them failed.
    """
    before = walkers.counters
    for _ in range(trajectories):
        walkers = _advance(engine, walkers, streams, leaps, beta)
    tried, _, failed = (walkers.counters - before).tolist()
    if failed > MOST_FAILURES * tried:
        raise RunError(f"{failed} of {tried} trajectories had no energy; the first: {engine.first_failure}")
    return walkers


def _downhill(engine: Engine, beta: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """Steepest descent with bounded steps: overlaps of random positions have forces beyond any time step.

    Returns:
        (where it ends, the last place of each chain where the engine had an energy): from there a chain goes on, with
        the next and smaller step, after the engine has failed.
    """
    system = engine.provider.system
    longest = 0.1 * extent(system) / system.n_particles ** (1.0 / system.dim)
    known, pulls, ever = x, torch.zeros_like(x), torch.zeros(len(x), dtype=torch.bool)
    for step in np.geomspace(longest, 0.01 * longest, DESCENT):
        _, forces, ok = engine.evaluate(x)
        back, ever = (ever & ~ok)[:, None, None], ever | ok
        x, forces = torch.where(back, known, x), torch.where(back, pulls, torch.nan_to_num(forces, 0.0, 0.0, 0.0))
        known, pulls = x, forces
        strength = forces.norm(dim=2, keepdim=True)
        moved = system.geometry.shift(x, step * forces / (strength + 1.0 / (beta * step)))
        x = torch.where(system.geometry.contains(moved)[:, None, None], moved, x)
    return x, known


def _equilibrated(
    engine: Engine, beta: float, settings: ReferenceSettings, seed: int, start: Positions | None
) -> _Walkers:
    """Chains ready to record, in thirds as the compiled chains are: cooled, steps tuned, steps frozen.

    Raises:
        RunError: the engine has no energy for where a chain starts.
    """
    system, leaps = engine.provider.system, settings.leaps
    if start is None:
        rngs = [numpy_stream(seed, STAGE + ".start", chain) for chain in range(settings.chains)]
        x, known = _downhill(
            engine, beta, torch.from_numpy(np.concatenate([scattered(system, rng, 1) for rng in rngs]))
        )
    else:
        x = known = start.detach().to("cpu", torch.float64).clone()
    engine.first_failure = None
    energies, forces, ok = engine.evaluate(x)
    if start is None and not ok.all():
        x = torch.where(ok[:, None, None], x, known)
        energies, forces, ok = engine.evaluate(x)
    if not ok.all():
        raise RunError(f"reference chain {int((~ok).nonzero()[0])}: no energy to start from: {engine.first_failure}")
    longest = extent(system) / 2
    step = 0.1 * longest / system.n_particles ** (1.0 / system.dim) / leaps**0.5
    zeros = torch.zeros(3, dtype=torch.int64)
    walkers = _Walkers(x, forces, energies, torch.tensor([step], dtype=torch.float64), zeros)
    streams = [numpy_stream(seed, STAGE + ".equilibration", chain) for chain in range(settings.chains)]
    portion = settings.equilibration_sweeps // (3 * _TUNINGS)
    for k in range(2 * _TUNINGS if portion else 0):
        heat = max(1.0, _HOTTEST ** (1.0 - (k + 1) / _TUNINGS)) if start is None else 1.0
        before = walkers.counters
        walkers = _run(engine, walkers, streams, leaps, portion, beta / heat)
        tried, accepted, _ = (walkers.counters - before).tolist()
        walkers = replace(walkers, step=(walkers.step * step_factor(accepted / tried, leaps)).clamp_max(longest))
    walkers = _run(engine, walkers, streams, leaps, settings.equilibration_sweeps - 2 * _TUNINGS * portion, beta)
    return replace(walkers, counters=zeros)  # acceptances are reported for the frozen steps


def sample_hamiltonian(
    provider: EnergyProvider,
    state: ThermodynamicState,
    settings: ReferenceSettings,
    seed: int,
    events: EventSink = ignore,
    start_chunk: int = 0,
    resume_from: Mapping[str, np.ndarray] | None = None,
    start: Positions | None = None,
) -> Iterator[FrameBlock]:
    """Equilibrium frames of any engine with forces by Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011).

    A sweep is a trajectory of `settings.leapfrog_steps` steps with fresh momenta; one step is the Metropolis-adjusted
    Langevin algorithm. All chains go in one batch, which the engine may share over an executor. A trajectory that has
    no energy, or ends beyond the confining radius, is rejected; failures are counted and told, and end the run when
    they are most of a frame's. Random streams are keyed by (seed, chain, chunk), as those of `sample_reference`.

    Args:
        provider: the engine; its system is what is sampled.
        state: temperature.
        settings: how; `sampler`, `swap_fraction`, `temperatures` and `workers` are not used.
        seed: of the workflow.
        events: receives `progress`, and `warning` where trajectories fail.
        start_chunk: first block to yield; above 0 it needs `resume_from`, the state of the block before.
        start: `(chain, N, dim)` where chains begin, at temperature; default random positions, cooled.

    Yields:
        `settings.chunks` blocks, less those before `start_chunk`.

    Raises:
        ValueError: a state or a start that does not fit.
        RunError: the engine has no forces, no energy for a start, or fails most of the time.
    """
    chains, system = settings.chains, provider.system
    if start is not None and tuple(start.shape) != (chains, system.n_particles, system.dim):
        expected = (chains, system.n_particles, system.dim)
        raise ValueError(f"start has to be (chain, N, dim) = {expected}, found {tuple(start.shape)}")
    engine, began = Engine(provider), time.perf_counter()
    if start is not None and not system.geometry.contains(start).all():
        raise ValueError(f"start: particles beyond the confining radius of system {system.name!r}")
    walkers = None
    if last := state_before(start_chunk, resume_from, _STATE, chains):
        walkers = _Walkers(**{name: torch.from_numpy(np.array(last[name])) for name in _STATE})
    for number in range(start_chunk, settings.chunks):
        engine.calls = 0
        if walkers is None:
            walkers = _equilibrated(engine, state.beta, settings, seed, start)
        before = walkers.counters
        frames = settings.frames_of(number)
        streams = [numpy_stream(seed, STAGE, chain, number) for chain in range(chains)]
        kept: list[_Walkers] = []
        for _ in range(frames):
            walkers = _run(engine, walkers, streams, settings.leaps, settings.sweeps_between_frames, state.beta)
            kept.append(walkers)
        energies = torch.stack([each.energies for each in kept], 1).flatten().numpy()
        tried, accepted, _ = walkers.counters.tolist()
        if failed := int((walkers.counters - before)[2]):
            said = f"{failed} trajectories had no energy and were rejected; the first: {engine.first_failure}"
            events(Event("warning", STAGE, said))
            engine.first_failure = None
        yield FrameBlock(
            chunk=number,
            positions=torch.stack([each.positions for each in kept], 1).flatten(0, 1).numpy(),
            energies=energies,
            chain=np.repeat(np.arange(chains), frames),
            energy_calls=float(engine.calls),
            temperatures=np.array([state.temperature]),
            ladder_energies=energies[:, None],
            acceptance={"trajectory": [accepted / tried]},
            round_trips=0,
            state={name: getattr(walkers, name).numpy() for name in _STATE},
        )
        events(progress(settings, number, start_chunk, began))
