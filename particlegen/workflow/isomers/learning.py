"""The learned potential of an isomer in a round: labels asked for, its error told, refitted."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from particlegen.energy import LabelSet
from particlegen.energy.kernel_potential import KernelPotential
from particlegen.events import Event
from particlegen.learning import LabelSettings, Learner, requests_for
from particlegen.settings import InputError
from particlegen.workflow.isomers.job import ADAPTATION, MINIMA, ORIENTATIONS, IsomerJob
from particlegen.workflow.isomers.labels import taken
from particlegen.workflow.isomers.schema import IsomerWorkflow, LearnedEnergy
from particlegen.workflow.isomers.surrogate import model_of, potential_tensors, restored

__all__ = ["begun", "kept_in", "kernel_of", "labels_reserved", "learn", "resumed"]


_TRIES = 100
"""Batches of harmonic states that are drawn before a basin counts as too small."""


def labels_reserved(workflow: IsomerWorkflow, isomers: int) -> int:
    """Labels that the correction of all isomers takes, kept from the learning."""
    wanted = workflow.correction
    delayed = wanted.chains * (wanted.decisions + 1) if wanted.decisions else 0
    return isomers * (wanted.labels + ORIENTATIONS + delayed)


def begun(job: IsomerJob, index: int, tensors: Mapping[str, Tensor], note: dict[str, Any]) -> Learner:
    """The learner of an isomer, trained on what optimisation and Hessian asked for and on harmonic states; in a run
    that goes on from another one, on the labels of that one.

    Raises:
        RunError: too many labels failed.
    """
    name, saved = job.built.isomers[index].name, job.load(MINIMA)
    if inherited := taken(name, tensors):
        learner = _learner(job, index)
        learner.add(name, LabelSet(job.built.system, **inherited))
        _retrain(learner, name, note)
        return learner
    if saved is None:
        raise RuntimeError("the stage 'minima' has to run first")
    learner = _learner(job, index)
    count = int(min(_settings(job).first, learner.remaining))
    states = _harmonic_states(job, index, count)
    learner.add(name, LabelSet(job.built.system, **taken(name, saved.tensors)))
    learner.label(requests_for(job.built.system, name, states))
    _retrain(learner, name, note)
    return learner


def resumed(job: IsomerJob, index: int, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> Learner:
    """The learner of an isomer as the last round left it."""
    name, learner = job.built.isomers[index].name, _learner(job, index)
    learner.restore(tensors, note["learner"], {name: restored(job.built.system, name, tensors, note["model"])})
    return learner


def kept_in(learner: Learner, name: str, tensors: Mapping[str, Tensor], note: dict[str, Any]) -> dict[str, Tensor]:
    """A checkpoint's tensors with the learner's labels and potential in the place of older ones; noted."""
    labels, numbers = learner.state()
    potential = kernel_of(learner, name)
    others = {key: value for key, value in tensors.items() if not key.startswith(f"{name}.potential.")}
    calls = note.get("baseline_calls", 0) + learner.baseline_calls
    note |= {"labels": learner.asked, "learner": numbers, "model": model_of(potential), "baseline_calls": calls}
    return others | labels | potential_tensors(name, potential)


def kernel_of(learner: Learner, name: str) -> KernelPotential:
    """The present potential of an isomer; with a baseline the correction to it."""
    potential = learner.potential(name)
    if not isinstance(potential, KernelPotential):
        raise RuntimeError(f"isomers are learned by kernel potentials, found a {type(potential).__name__}")
    return potential


def _learner(job: IsomerJob, index: int) -> Learner:
    """The learner of an isomer before its first label; the budget holds what the others take."""
    learned, name = _settings(job), job.built.isomers[index].name
    minima, others = job.load(MINIMA), job.load(ADAPTATION)
    notes = dict(others.metadata) if others else {}
    spoken = labels_reserved(job.workflow, len(job.built.isomers)) + int(minima.metadata["calls"] if minima else 0)
    spoken += sum(int(other["labels"]) for key, other in notes.items() if key != name)
    labels = LabelSettings(
        budget=job.workflow.energy.budget,
        first=learned.first,
        per_round=learned.per_round,
        most_failures=learned.largest_failures,
    )
    return Learner(
        job.energies(ADAPTATION),
        {name: job.minima[index].frame.reference},
        labels,
        learned.potential,
        baseline=None if job.baseline is None else job.counted(job.baseline, ADAPTATION),
        reserved=spoken,
    )


def _harmonic_states(job: IsomerJob, index: int, count: int) -> Tensor:
    """States of the harmonic ensemble that lie in the isomer's basin."""
    minimum, stream = job.minima[index], job.stream("harmonic", index)
    found = torch.zeros(0, job.built.system.n_particles, 3, dtype=torch.float64)
    for _ in range(_TRIES):
        x = minimum.frame.to_cartesian(minimum.sample(count, job.built.state.beta, stream))
        found = torch.cat([found, x[job.built.basins.assign(x) == index]])
        if len(found) >= count:
            return found[:count]
    raise InputError(
        f"isomer {job.built.isomers[index].name}: only {len(found)} of {_TRIES * count} harmonic states at "
        f"T = {job.built.state.temperature:g} lie in its basin; lower system.temperature, or raise basins.reach"
    )


def _settings(job: IsomerJob) -> LearnedEnergy:
    learned = job.workflow.learned
    if learned is None:
        raise RuntimeError("this workflow learns no potential")
    return learned


def learn(job: IsomerJob, number: int, index: int, learner: Learner, states: Tensor, note: dict[str, Any]) -> None:
    """Ask for labels of a round's states, tell the potential's error on them, and retrain it on all labels.

    Nothing happens when the budget is over.

    Raises:
        RunError: too many labels failed.
    """
    name = job.built.isomers[index].name
    if learner.remaining < 1:
        job.emit(Event("warning", ADAPTATION, f"{name}: the label budget ended the learning in round {number + 1}"))
        note["budget_ended"] = True
    requests = learner.request(name, states)
    if not requests:
        return
    told = learner.label(requests).errors.get(name)
    if told is not None:
        x = torch.stack([request.positions for request in requests])
        deviation = float(kernel_of(learner, name).deviation(x).mean())
        report = {"labels": learner.asked, "energy_rmse": told.energy_rmse, "deviation": deviation}
        note["rounds"] = [*note["rounds"], report]
    _retrain(learner, name, note)


def _retrain(learner: Learner, name: str, note: dict[str, Any]) -> None:
    told = learner.retrain()[name]
    note["left_out_rmse"] = None if told is None else told.energy_rmse
