"""Production stage: chains and flows frozen, everything begun anew; all estimates come from here."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from particlegen.energy import Counted, Ledger
from particlegen.estimate import flow_free_energy
from particlegen.events import Event
from particlegen.io.checkpoint import Checkpoint
from particlegen.isomers import Basins, optimise
from particlegen.sampling.independence import LabelledFlows
from particlegen.settings import RunError
from particlegen.workflow.isomers.job import PRODUCTION, IsomerJob, weighed

__all__ = ["AUDIT", "CHAINS", "DRAWS", "MIXTURE", "audited", "run_production", "spread_states"]

CHAINS, DRAWS = "production", "generated"
"""Ensembles of the run store: states of the chains, draws of the flows."""

MIXTURE, AUDIT = "mixture", "audit"
"""Checkpoints: the labels of the chains that move between isomers; the quenches."""

CHUNK = 1_000
"""Draws of a flow that are stored at a time."""

QUENCHED = {"lj": 1e-3, "metal": 5e-3}
"""Largest force on a particle of a quenched state."""

SAME = 0.02
"""A quenched state is an isomer's minimum within this share of the mean distance."""


def run_production(job: IsomerJob) -> None:
    """What is still missing of: chains of each isomer, draws of each flow, chains between isomers, quenches."""
    settings, isomers = job.workflow.production, job.built.isomers
    chunks = {CHAINS: len(_blocks(job)), DRAWS: math.ceil(settings.draws / CHUNK)}
    if audited(job.load(AUDIT)):
        lost = [job.lost(PRODUCTION, ensemble, n * len(isomers)) for ensemble, n in chunks.items()]
        if not any(lost):
            return
    job.emit(Event("started", PRODUCTION, f"{settings.samples} states and {settings.draws} draws of each isomer"))
    _chains(job)
    _draws(job)
    if len(isomers) > 1:
        _mixture(job)
    _audit(job)
    job.emit(Event("finished", PRODUCTION, f"{job.store.length(CHAINS)} states, {job.store.length(DRAWS)} draws"))


def _blocks(job: IsomerJob) -> list[int]:
    """Sweeps of each block of one isomer's chains."""
    settings, chains = job.workflow.production, job.workflow.chains.count
    sweeps = math.ceil(settings.samples / chains)
    return [min(settings.block, sweeps - start) for start in range(0, sweeps, settings.block)]


def _chains(job: IsomerJob) -> None:
    blocks, isomers = _blocks(job), job.built.isomers
    saved = job.load(PRODUCTION)
    done = saved.step if saved else 0
    positions = saved.tensors["chains"] if saved else torch.zeros(0)
    counts = dict(saved.metadata) if saved else {}
    if job.lost(PRODUCTION, CHAINS, done):
        done, positions, counts = 0, torch.zeros(0), {}
    for unit in range(done, len(blocks) * len(isomers)):
        index, block = divmod(unit, len(blocks))
        name = isomers[index].name
        flow, stream = job.flows[index], job.stream(PRODUCTION, index, block)
        target = job.target(PRODUCTION, index)
        sweep = job.sweep(target, job.adapted.metadata[name]["step"], LabelledFlows({index: flow}))
        if block == 0:
            state = sweep.init(job.adapted.tensors[f"{name}.chains"])
            for _ in range(job.workflow.production.discard):
                state, _ = sweep.step(state, stream)
        else:
            state = sweep.init(positions)
        kept, infos = [], []
        for _ in range(blocks[block]):
            state, info = sweep.step(state, stream)
            kept.append(state)
            infos.append(info)
        target.engine.check()
        x = torch.stack([each.positions for each in kept], 1).flatten(0, 1)
        energies = torch.stack([each.energies for each in kept], 1).flatten()
        chain = np.repeat(np.arange(job.workflow.chains.count), blocks[block])
        arrays = {
            "position": x.numpy(),
            "energy": energies.numpy(),
            "chain": chain,
            "isomer": np.full(len(x), index),
            "log_q": flow.log_prob(x)[0].numpy(),
        }
        job.keep(CHAINS, unit, arrays)
        positions, total = state.positions, sum(infos[1:], infos[0])
        own = counts.setdefault(name, {})
        for key, part in total.parts.items():
            for what in ("proposed", "accepted", "left_basin", "failed"):
                place = f"{key}.{what}"
                own[place] = own.get(place, 0) + int(getattr(part, what).sum())
        own["calls"] = own.get("calls", 0) + target.engine.calls
        job.save(PRODUCTION, unit + 1, {"chains": positions}, counts)
        done_states = job.store.length(CHAINS)
        total_states = sum(blocks) * len(isomers) * job.workflow.chains.count
        job.emit(Event("progress", PRODUCTION, f"chains of {name}", {"done": done_states, "total": total_states}))
        job.check(PRODUCTION)


def _draws(job: IsomerJob) -> None:
    draws = job.workflow.production.draws
    sizes = [min(CHUNK, draws - start) for start in range(0, draws, CHUNK)]
    present = set(job.store.segments(DRAWS))
    for unit in range(len(sizes) * len(job.built.isomers)):
        if unit in present:
            continue
        index, chunk = divmod(unit, len(sizes))
        target = job.target(PRODUCTION, index)
        found = job.flows[index].sample(sizes[chunk], job.stream("draws", index, chunk))
        energies, log_w, failed = weighed(target, found, index)
        target.engine.check()
        if failed.any():
            said = f"{int(failed.sum())} of {len(failed)} draws of {job.built.isomers[index].name} have no energy and "
            job.emit(Event("warning", PRODUCTION, f"{said}weigh nothing; the first: {target.engine.first_failure}"))
        arrays = {
            "position": found.positions.numpy(),
            "energy": energies.numpy(),
            "isomer": np.full(len(energies), index),
            "log_q": found.log_q.numpy(),
            "log_q_error": found.log_q_error.numpy(),
            "log_weight": log_w.numpy(),
            "failed": failed.numpy().astype(np.int8),
        }
        job.store.append(DRAWS, unit, arrays)
        job.check(PRODUCTION)


def _mixture(job: IsomerJob) -> None:
    """Chains over all isomers, the label part of the state; a bias makes the isomers about equally frequent."""
    blocks, indices = _blocks(job), range(len(job.built.isomers))
    saved = job.load(MIXTURE)
    done = saved.step if saved else 0
    if done == len(blocks):
        return
    names = [isomer.name for isomer in job.built.isomers]
    if saved:
        bias = {k: float(value) for k, value in enumerate(saved.metadata["log_bias"])}
        calls = int(saved.metadata["calls"])
        positions, series = saved.tensors["chains"], [saved.tensors["labels"]]
    else:
        log_w, owner = job.store.read(DRAWS, "log_weight"), job.store.read(DRAWS, "isomer")
        bias = {k: flow_free_energy(log_w[owner == k]).estimate.value for k in indices}
        share = [job.adapted.tensors[f"{name}.chains"] for name in names]
        positions = torch.stack([share[chain % len(names)][chain] for chain in range(len(share[0]))])
        series, calls = [], 0
    target = job.target(PRODUCTION, *indices)
    flows = LabelledFlows(job.flows, log_bias=bias)
    step = min(job.adapted.metadata[name]["step"] for name in names)
    sweep = job.sweep(target, step, flows)
    for block in range(done, len(blocks)):
        stream = job.stream(MIXTURE, block)
        state = sweep.init(positions)
        for _ in range(job.workflow.production.discard if block == 0 else 0):
            state, _ = sweep.step(state, stream)
        labels = []
        for _ in range(blocks[block]):
            state, _ = sweep.step(state, stream)
            labels.append(state.labels)
        target.engine.check()
        series.append(torch.stack(labels, 1))
        positions = state.positions
        tensors = {"chains": positions, "labels": torch.cat(series, 1)}
        notes = {"log_bias": [bias[k] for k in indices], "calls": calls + target.engine.calls}
        job.save(MIXTURE, block + 1, tensors, notes)
        job.check(PRODUCTION)


def _audit(job: IsomerJob) -> None:
    """Quench states of every isomer's chains, evenly spread, and count where they end."""
    isomers, units = job.built.isomers, job.built.system.units
    minima = torch.stack([minimum.frame.reference for minimum in job.minima])
    mean = float(torch.cdist(minima, minima).sum() / (len(minima) * minima.shape[1] * (minima.shape[1] - 1)))
    ends = Basins(minima, job.built.system.species, SAME * mean)
    quenches, saved = job.workflow.production.quenches, job.load(AUDIT)
    states = [(index, x) for index in range(len(isomers)) for x in spread_states(job, index, quenches)]
    counts = saved.tensors["counts"] if saved else torch.zeros(len(isomers), len(isomers) + 1, dtype=torch.int64)
    done, calls = (saved.step, saved.metadata["calls"]) if saved else (0, 0)
    for number, (index, x) in enumerate(states[done:], start=done + 1):
        ledger = Ledger()
        provider = Counted(job.sampled(index, PRODUCTION), ledger, AUDIT)
        try:
            quenched, _ = optimise(provider, x, QUENCHED[units])
        except RunError:
            counts[index, -1] += 1
        else:
            counts[index, int(ends.assign(quenched[None])[0])] += 1
        calls += ledger.total_calls(provider.name)
        if number < len(states) and job.due():
            job.save(AUDIT, number, {"counts": counts}, {"calls": calls, "complete": False})
            job.check(PRODUCTION)
    job.save(AUDIT, len(states), {"counts": counts}, {"calls": calls, "complete": True})


def audited(saved: Checkpoint | None) -> bool:
    """Whether a checkpoint `AUDIT` is the last one; earlier versions wrote no other."""
    return saved is not None and saved.metadata.get("complete", True)


def spread_states(job: IsomerJob, index: int, count: int) -> Iterator[Tensor]:
    """`count` states `(N, 3)` of an isomer's production at most, evenly spread over chains and time."""
    rows = np.flatnonzero(job.store.read(CHAINS, "isomer") == index)
    positions = job.store.read(CHAINS, "position")
    for row in rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]:
        yield torch.from_numpy(positions[row])
