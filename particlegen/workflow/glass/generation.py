"""Generation stage: samples with log-density in chunks, and the log-density of held-out reference frames."""

import time

import numpy as np
import torch

from particlegen.energy import EnergyProvider
from particlegen.energy.failures import MOST_FAILURES, check_failures
from particlegen.estimate import log_weights
from particlegen.events import Event
from particlegen.flow import FlowSamples, ODEFlow, PathFlow
from particlegen.settings import RunError
from particlegen.streams import torch_stream
from particlegen.workflow.glass.job import GlassJob
from particlegen.workflow.glass.reference import held_out_frames
from particlegen.workflow.glass.training import trained_network

__all__ = ["HELD_OUT", "STAGE", "run_generation"]

STAGE = "generation"
HELD_OUT = "held_out"


def run_generation(job: GlassJob) -> None:
    """Draw the chunks that are still missing, then score the held-out frames.

    Raises:
        RunError: too many samples without a finite energy.
    """
    held_out, settings = job.load(HELD_OUT), job.workflow.generation
    sizes = [settings.chunk] * (settings.samples // settings.chunk)
    sizes += [settings.samples % settings.chunk] if settings.samples % settings.chunk else []
    if held_out and held_out.metadata["complete"] and not job.lost(STAGE, "generated", len(sizes)):
        return
    flow = _flow(job)
    present = set(job.store.segments("generated"))
    job.emit(Event("started", STAGE, f"{settings.samples} samples with {settings.likelihood} likelihood"))
    start, done_before = time.monotonic(), sum(sizes[chunk] for chunk in present)
    readable = present and max(present) + 1 == len(present)  # and not with a chunk missing in between
    done, failed = 0, int(job.store.read("generated", "failed").sum()) if readable else 0
    for chunk, size in enumerate(sizes):
        done += size
        if chunk in present:
            continue
        generator = torch_stream(job.workflow.seed, STAGE, chunk, device=job.device)
        arrays, first = _scored(flow.sample(size, generator), job.energies(STAGE), job.built.state.beta)
        if first is not None:
            lost = int(arrays["failed"].sum())
            failed += lost
            check_failures(job.provider.name, done, failed, first)
            said = f"{lost} of {size} samples have no energy: they count, and weigh nothing; the first: {first}"
            job.emit(Event("warning", STAGE, said))
        job.store.append("generated", chunk, arrays)
        _progress(job, done, settings.samples, start, done_before)
        job.check(STAGE)
    infinite = np.mean(~np.isfinite(job.store.read("generated", "energy")))
    if infinite > MOST_FAILURES:
        raise RunError(
            f"generation: {infinite:.0%} of the samples have no finite energy; train longer or check the system"
        )
    _score_held_out(job, flow)
    job.emit(Event("finished", STAGE, f"{settings.samples} samples"))


def _flow(job: GlassJob) -> ODEFlow | PathFlow:
    network, system, settings = trained_network(job), job.built.system, job.workflow.generation
    if settings.likelihood == "path":
        return PathFlow(network, system, job.workflow.interpolant, settings)
    return ODEFlow(network, system, settings)


def _scored(samples: FlowSamples, provider: EnergyProvider, beta: float) -> tuple[dict[str, np.ndarray], str | None]:
    """Arrays of one segment, and the first reason to fail; a sample whose energy failed has log weight −∞, so it counts
    and weighs nothing."""
    result = provider.evaluate(samples.positions.to(provider.device, torch.float64))
    energy, log_q = result.energy.cpu().numpy(), samples.log_q.cpu().double().numpy()
    arrays = {
        "position": samples.positions.cpu().double().numpy(),
        "energy": energy,
        "failed": (~result.ok).cpu().numpy().astype(np.int8),
        "log_q": log_q,
        "log_q_error": samples.log_q_error.cpu().double().numpy(),
        "log_weight": log_weights(log_q, energy, beta),
    }
    return arrays, next((reason for reason in result.reasons if reason), None)


def _progress(job: GlassJob, done: int, total: int, start: float, done_before: int) -> None:
    seconds = time.monotonic() - start
    left = seconds * (total - done) / max(done - done_before, 1)
    job.emit(Event("progress", STAGE, "", {"done": done, "total": total, "seconds_left": max(left, 0.0)}))


def _score_held_out(job: GlassJob, flow: ODEFlow | PathFlow) -> None:
    """log q of held-out frames, in the generation chunk's size; kept as a checkpoint beside the others."""
    pairs = list(held_out_frames(job.workflow, job.store)) if job.workflow.estimates.held_out > 0 else []
    saved, nothing = job.load(HELD_OUT), torch.zeros(0, dtype=torch.float64)
    tensors = dict(saved.tensors) if saved else {"log_q": nothing, "log_q_error": nothing}
    tensors["energy"] = torch.tensor([energy for _, energy in pairs], dtype=torch.float64)
    for start in range(len(tensors["log_q"]), len(pairs), job.workflow.generation.chunk):
        batch = np.stack([x for x, _ in pairs[start : start + job.workflow.generation.chunk]])
        probes = torch_stream(job.workflow.seed, HELD_OUT, start, device=job.device)
        scored = flow.log_prob(torch.from_numpy(batch).to(job.device), probes)
        for name, column in zip(("log_q", "log_q_error"), scored, strict=True):
            tensors[name] = torch.cat([tensors[name], column.cpu().double()])
        done = len(tensors["log_q"])
        if done < len(pairs) and job.due():
            job.save(HELD_OUT, done, tensors, {"complete": False})
            job.check(STAGE)
    job.save(HELD_OUT, len(pairs), tensors, {"complete": True})
