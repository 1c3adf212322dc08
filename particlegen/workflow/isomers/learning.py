"""The learned potential of an isomer in a round: labels asked for, its error told, refitted."""

from typing import Any

import torch
from torch import Tensor

from particlegen.energy.kernel_potential import KernelPotential
from particlegen.energy.kernel_training import fit_kernel
from particlegen.events import Event
from particlegen.learning.selection import select, sorted_inverse_distances
from particlegen.settings import InputError
from particlegen.workflow.isomers.job import ADAPTATION, MINIMA, ORIENTATIONS, IsomerJob
from particlegen.workflow.isomers.labels import Recorded, joined, label_set, label_tensors, taken
from particlegen.workflow.isomers.schema import IsomerWorkflow, LearnedEnergy
from particlegen.workflow.isomers.surrogate import model_of, potential_tensors, restored

__all__ = ["first_potential", "known_potential", "labels_reserved", "learn"]


_TRIES = 100
"""Batches of harmonic states that are drawn before a basin counts as too small."""


def labels_reserved(workflow: IsomerWorkflow, isomers: int) -> int:
    """Labels that the correction of all isomers takes, kept from the learning."""
    wanted = workflow.correction
    delayed = wanted.chains * (wanted.decisions + 1) if wanted.decisions else 0
    return isomers * (wanted.labels + ORIENTATIONS + delayed)


def first_potential(job: IsomerJob, index: int, tensors: dict[str, Tensor], note: dict[str, Any]) -> KernelPotential:
    """The potential of what optimisation and Hessian asked for and of harmonic states; put into tensors and note."""
    name, saved, learned = job.built.isomers[index].name, job.load(MINIMA), _settings(job)
    if saved is None:
        raise RuntimeError("the stage 'minima' has to run first")
    known = taken(name, saved.tensors)
    recorded = Recorded(job.energies(ADAPTATION))
    recorded.evaluate(_harmonic_states(job, index, learned.first), ("energy", "forces"))
    note["labels"] += recorded.asked
    recorded.check(learned.largest_failures)
    tensors |= label_tensors(name, joined(known, recorded.labels))
    return _refit(job, index, tensors, note)


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


def known_potential(job: IsomerJob, index: int, tensors: dict[str, Tensor], note: dict[str, Any]) -> KernelPotential:
    """The potential that the last round left."""
    return restored(job.built.system, job.built.isomers[index].name, tensors, note["model"])


def _settings(job: IsomerJob) -> LearnedEnergy:
    learned = job.workflow.learned
    if learned is None:
        raise RuntimeError("this workflow learns no potential")
    return learned


def _refit(job: IsomerJob, index: int, tensors: dict[str, Tensor], note: dict[str, Any]) -> KernelPotential:
    name, frame = job.built.isomers[index].name, job.minima[index].frame
    labels = label_set(job.built.system, taken(name, tensors))
    potential, left_out = fit_kernel(labels, frame.reference, _settings(job).potential)
    for key in [key for key in tensors if key.startswith(f"{name}.potential.")]:
        del tensors[key]
    tensors |= potential_tensors(name, potential)
    note |= {"model": model_of(potential), "left_out_rmse": left_out.energy_rmse}
    return potential


def learn(
    job: IsomerJob,
    number: int,
    index: int,
    states: Tensor,
    potential: KernelPotential,
    tensors: dict[str, Tensor],
    note: dict[str, Any],
) -> None:
    """Ask for labels of a round's states, tell the potential's error on them, and refit it on all labels.

    Nothing happens when the rounds of learning are over or the budget is.

    Raises:
        RunError: too many labels failed.
    """
    learned, name = _settings(job), job.built.isomers[index].name
    minima = job.load(MINIMA)
    used = float(minima.metadata["calls"]) if minima else 0.0
    others = job.load(ADAPTATION)
    notes = dict(others.metadata) if others else {}
    used += sum(int(other["labels"]) for key, other in notes.items() if key != name) + note["labels"]
    count = int(min(learned.per_round, job.labels_left(used + labels_reserved(job.workflow, len(job.built.isomers)))))
    if number >= learned.rounds or count < 1:
        if number < learned.rounds:
            job.emit(Event("warning", ADAPTATION, f"{name}: the label budget ended the learning in round {number + 1}"))
            note["budget_ended"] = True
        return
    held = taken(name, tensors)
    descriptor = sorted_inverse_distances(job.built.system)
    uncertainty = potential.deviation(states).cpu()
    chosen = states[select(states, uncertainty, torch.ones_like(uncertainty), count, descriptor, held["positions"])]
    recorded = Recorded(job.energies(ADAPTATION))
    predicted = potential.evaluate(chosen).energy.detach()
    found = recorded.evaluate(chosen, ("energy", "forces"))
    note["labels"] += recorded.asked
    recorded.check(learned.largest_failures)
    gap = (found.energy.cpu() - predicted)[found.ok.cpu()]
    report = {
        "labels": note["labels"],
        "energy_rmse": float(gap.square().mean().sqrt()),
        "energy_bias": float(gap.mean()),
        "deviation": float(potential.deviation(chosen).mean()),
    }
    tensors |= label_tensors(name, joined(held, recorded.labels))
    _refit(job, index, tensors, note)
    note["rounds"] = [*note["rounds"], report]
