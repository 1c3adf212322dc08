"""Correction stage: from the learned potential's ensembles to those of the engine."""

from typing import Any

import torch
from torch import Tensor

from particlegen.events import Event
from particlegen.sampling.delayed import DelayedAcceptance, DelayedState
from particlegen.sampling.independence import LabelledFlows
from particlegen.sampling.target import IsomerTarget
from particlegen.workflow.isomers.job import CORRECTION, ORIENTATIONS, IsomerJob
from particlegen.workflow.isomers.labels import Recorded
from particlegen.workflow.isomers.production import spread_states

__all__ = ["run_correction"]


def run_correction(job: IsomerJob) -> None:
    """What is still missing, isomer by isomer; after every batch of labels everything is on disk.

    Raises:
        RunError: too many labels failed.
    """
    if job.workflow.learned is None:
        return
    settings, isomers = job.workflow.correction, job.built.isomers
    per_isomer = 1 + settings.decisions
    saved = job.load(CORRECTION)
    done = saved.step if saved else 0
    units = per_isomer * len(isomers)
    if done == units:
        return
    tensors: dict[str, Tensor] = dict(saved.tensors) if saved else {}
    notes: dict[str, Any] = (
        dict(saved.metadata) if saved else {isomer.name: {"labels": 0, "calls": 0} for isomer in isomers}
    )
    job.emit(Event("started", CORRECTION, f"{settings.labels} labels and {settings.chains} chains of each isomer"))
    for unit in range(done, units):
        index, part = divmod(unit, per_isomer)
        name = isomers[index].name
        note = dict(notes[name])
        if part == 0:
            _reweighting(job, index, tensors, note)
        else:
            _decision(job, index, part - 1, tensors, note)
        notes[name] = note
        job.save(CORRECTION, unit + 1, tensors, notes)
        said = f"{name}: {note['labels']} labels"
        job.emit(Event("progress", CORRECTION, said, {"done": unit + 1, "total": units}))
        job.check(CORRECTION)
    job.emit(Event("finished", CORRECTION, ", ".join(f"{name} {note['labels']}" for name, note in notes.items())))


def _reweighting(job: IsomerJob, index: int, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
    """Energies of the engine at states of the learned potential's chains, evenly spread."""
    name, learned = job.built.isomers[index].name, job.workflow.learned
    x = torch.stack(list(spread_states(job, index, job.workflow.correction.labels)))
    recorded = Recorded(job.energies(CORRECTION))
    found = recorded.evaluate(x)
    if learned is not None:
        recorded.check(learned.largest_failures)
    ok = found.ok.cpu()
    tensors[f"{name}.labelled"] = x[ok]
    tensors[f"{name}.exact"] = found.energy.detach().cpu()[ok]
    tensors[f"{name}.surrogate"] = job.sampled(index, CORRECTION).evaluate(x).energy.detach().cpu()[ok]
    tensors[f"{name}.deviation"] = job.potentials[index].deviation(x).detach().cpu()[ok]
    note |= {"labels": note["labels"] + recorded.asked, "failed": recorded.failed, "calls": note["calls"] + len(x)}
    scatter = job.orientation_scatter(x[len(x) // 2][None])
    if scatter is not None:
        note |= {"scatter": scatter, "labels": note["labels"] + ORIENTATIONS}


def _decision(job: IsomerJob, index: int, number: int, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
    """One exact decision of every delayed-acceptance chain."""
    name, settings = job.built.isomers[index].name, job.workflow.correction
    surrogate = job.target(CORRECTION, index)
    recorded = Recorded(job.energies(CORRECTION))
    exact = IsomerTarget(recorded, job.built.state.beta, surrogate.basins, (index,))
    step = job.adapted.metadata[name]["step"]
    sweep = job.sweep(surrogate, step, LabelledFlows({index: job.flows[index]}))
    kernel = DelayedAcceptance(exact, sweep, settings.sweeps)
    if number == 0:
        state, works = kernel.init(torch.stack(list(spread_states(job, index, settings.chains)))), []
    else:
        # The engine's energies come from the checkpoint: a label is never asked for twice.
        positions, works = tensors[f"{name}.delayed"], [tensors[f"{name}.works"]]
        state = DelayedState.at(sweep.init(positions), tensors[f"{name}.delayed_energies"])
    state, info = kernel.step(state, job.stream(CORRECTION, index, number))
    works.append(kernel.work(state)[:, None])
    tensors |= {
        f"{name}.delayed": state.positions,
        f"{name}.delayed_energies": state.energies,
        f"{name}.works": torch.cat(works, 1),
    }
    counts = note.get("delayed", {"proposed": 0, "accepted": 0, "failed": 0})
    note["delayed"] = {key: counts[key] + int(getattr(info, key).sum()) for key in counts}
    note["labels"] += recorded.asked
    note["calls"] += surrogate.engine.calls
