"""Reference stage: equilibrium Monte Carlo frames, streamed into the run store."""

import time
from collections.abc import Iterator

import numpy as np
import torch

from particlegen.events import Event
from particlegen.io.checkpoint import Checkpoint
from particlegen.io.store import RunStore
from particlegen.sampling import FrameBlock, energies_by_chain, sample_hamiltonian, sample_reference
from particlegen.workflow.glass.job import GlassJob
from particlegen.workflow.glass.schema import GlassWorkflow

__all__ = ["COMPILED", "STAGE", "chain_energies", "frame_split", "held_out_frames", "run_reference", "training_frames"]

STAGE = "reference"
COMPILED = "monte_carlo"
"""The compiled kernels' name in the ledger."""


def run_reference(job: GlassJob) -> None:
    """Sample what is still missing; every chunk is on disk, with the state to go on from, before the next begins."""
    settings = job.workflow.reference
    saved = job.load(STAGE)
    chunk, calls = (saved.step, float(saved.metadata["energy_calls"])) if saved else (0, 0.0)
    if saved and job.lost(STAGE, STAGE, chunk):
        saved, chunk, calls = None, 0, 0.0
    if saved and saved.metadata["complete"]:
        return
    job.emit(Event("started", STAGE, f"{settings.frames} frames by {settings.method}"))
    compiled = settings.sampler != "hmc"
    mark = time.perf_counter()
    for block in _blocks(job, chunk, saved):
        if compiled:
            job.count(COMPILED, STAGE, block.energy_calls, time.perf_counter() - mark)
        arrays = {"position": block.positions, "energy": block.energies, "chain": block.chain}
        job.keep("reference", block.chunk, arrays)
        calls += block.energy_calls
        chunk = block.chunk + 1
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in block.state.items()}
        job.save(STAGE, chunk, tensors, {"energy_calls": calls, "complete": chunk == settings.chunks})
        job.check(STAGE)
        mark = time.perf_counter()
    job.emit(Event("finished", STAGE, f"{job.store.length('reference')} frames"))


def _blocks(job: GlassJob, start_chunk: int, saved: Checkpoint | None) -> Iterator[FrameBlock]:
    """The blocks that are still missing, by the sampler that was asked for."""
    state, settings, seed = job.built.state, job.workflow.reference, job.workflow.seed
    resume_from = {name: tensor.numpy() for name, tensor in saved.tensors.items()} if saved else None
    if settings.sampler == "hmc":
        return sample_hamiltonian(job.energies(STAGE), state, settings, seed, job.emit, start_chunk, resume_from)
    system, potential = job.built.system, job.built.potential
    return sample_reference(
        system, potential, state, settings, seed, job.executor, job.emit, start_chunk, resume_from, job.limits
    )


def frame_split(workflow: GlassWorkflow, n_frames: int) -> int:
    """How many frames, the first ones, training may see; the rest is held out."""
    return n_frames - int(workflow.estimates.held_out * n_frames)


def training_frames(workflow: GlassWorkflow, store: RunStore) -> np.ndarray:
    """Positions `(frame, N, d)` that training may see."""
    return store.read("reference", "position", 0, frame_split(workflow, store.length("reference")))


def held_out_frames(workflow: GlassWorkflow, store: RunStore) -> Iterator[tuple[np.ndarray, float]]:
    """(positions `(N, d)`, energy) of the held-out frames that are scored, evenly spread."""
    n = store.length("reference")
    start = frame_split(workflow, n)
    picked = np.unique(np.linspace(start, n - 1, min(workflow.estimates.held_out_frames, n - start)).astype(int))
    positions = store.read("reference", "position", start, n)
    energies = store.read("reference", "energy", start, n)
    for index in picked - start:
        yield positions[index], float(energies[index])


def chain_energies(store: RunStore) -> np.ndarray:
    """Reference energies `(chain, frame)`, in the order of time."""
    return energies_by_chain(store.read("reference", "energy"), store.read("reference", "chain"))
