"""Check stage: what another engine would say of the difference, by reweighting the engine's ensemble to it."""

import math
from typing import Any

import torch
from torch import Tensor

from particlegen import estimate
from particlegen.energy import EnergyProvider, LabelStore
from particlegen.estimate import Estimate, ReweightedFreeEnergy
from particlegen.events import Event
from particlegen.units import energy_unit
from particlegen.workflow.engines import engine_recipe
from particlegen.workflow.isomers.job import IsomerJob
from particlegen.workflow.isomers.labels import Recorded
from particlegen.workflow.isomers.states import weighted_states
from particlegen.workflow.opened import as_estimate
from particlegen.workflow.spent import as_dicts, count

__all__ = ["CHECK", "check_calls", "checked_difference", "checks", "run_check"]

CHECK = "check"

FEWEST = 8
"""Configurations that both engines have to answer; below it there is no shift."""


def run_check(job: IsomerJob) -> None:
    """Labels of the check engine that are still missing; each is in `labels.db` when it arrives, and the energies of an
    isomer are on disk before the next begins. What fails is counted, and left out."""
    settings, isomers = job.workflow.check, job.built.isomers
    saved = job.load(CHECK)
    done = saved.step if saved else 0
    if settings is None or done == len(isomers):
        return
    tensors: dict[str, Tensor] = dict(saved.tensors) if saved else {}
    notes: dict[str, Any] = dict(saved.metadata) if saved else {}
    other, engine = _other(job), job.energies(CHECK)
    job.emit(Event("started", CHECK, f"{settings.labels} labels of each isomer by {settings.engine}"))
    for index in range(done, len(isomers)):
        name = isomers[index].name
        x, log_w = weighted_states(job, index, settings.labels)
        theirs, ours = Recorded(other), Recorded(engine)
        answers, size = [], job.workflow.energy.chunk * job.slots
        for start in range(0, len(x), size):
            answers.append(theirs.evaluate(x[start : start + size]).energy.detach().cpu())
            reached = index * settings.labels + theirs.asked
            progress = {"done": reached, "total": len(isomers) * settings.labels}
            job.emit(Event("progress", CHECK, f"{name}: {theirs.asked} labels", progress))
            job.check(CHECK)
        energies = torch.cat(answers)
        # A learned run labelled these states for its correction: the store answers.
        exact = ours.evaluate(x).energy.detach().cpu()
        ok = energies.isfinite() & exact.isfinite()
        tensors |= {
            f"{name}.{key}": column[ok]
            for key, column in (("positions", x), ("log_weights", log_w), ("engine", exact), ("check", energies))
        }
        notes[name] = {
            "engine": other.name,
            "labels": theirs.asked,
            "failed": int((~ok).sum()),
            "first_failure": theirs.first_failure or ours.first_failure or None,
            "engine_labels": ours.asked if job.workflow.learned is None else 0,
        }
        job.save(CHECK, index + 1, tensors, notes)
    job.emit(Event("finished", CHECK, ", ".join(f"{name} {note['labels']}" for name, note in notes.items())))


def _other(job: IsomerJob) -> EnergyProvider:
    """The check engine, counted; its answers are kept whether or not the run keeps those of its own engine."""
    recipe = engine_recipe(job.built.system, _card(job), None, job.relative_to)
    store = job.labels or LabelStore(job.folder.labels_file)
    return job.stored(job.shared(recipe), CHECK, store)


def _shift(job: IsomerJob, name: str) -> ReweightedFreeEnergy | None:
    """F of the check engine less F of the run's, in kT."""
    saved, beta = job.load(CHECK), job.built.state.beta
    if saved is None:
        return None
    exact, other, log_w = (saved.tensors[f"{name}.{key}"].numpy() for key in ("engine", "check", "log_weights"))
    return estimate.reweighted(beta * (other - exact), log_w) if len(exact) >= FEWEST else None


def checks(job: IsomerJob) -> dict[str, Any]:
    """By isomer, the shift of its free energy from the engine to the check engine; empty without the stage."""
    saved = job.load(CHECK)
    if saved is None:
        return {}
    kt, unit, found = 1.0 / job.built.state.beta, energy_unit(job.built.system.units), {}
    for isomer in job.built.isomers:
        note, shift = saved.metadata[isomer.name], _shift(job, isomer.name)
        nothing = Estimate(math.nan, math.nan, unit, f"fewer than {FEWEST} configurations have both energies")
        entry = (nothing if shift is None else shift.estimate.scaled(kt, unit)).as_dict()
        entry |= {key: note[key] for key in ("engine", "labels", "failed", "first_failure")}
        if shift is not None:
            quality = {"ess_per_sample": shift.ess_per_sample, "pareto_k": max(shift.pareto_k, -1.0)}
            entry |= as_dicts({key: Estimate(value, math.nan, "", "of the weights") for key, value in quality.items()})
        found[isomer.name] = entry | {"warnings": list(shift.warnings) if shift else []}
    return found


def checked_difference(job: IsomerJob, found: dict[str, Any], b: int, a: int) -> Estimate | None:
    """F_b − F_a of the check engine: the answer, shifted; None without the stage. No part of answer or budget."""
    saved, names = job.load(CHECK), [isomer.name for isomer in job.built.isomers]
    if saved is None:
        return None
    answer, shifts = as_estimate(found), [_shift(job, names[b]), _shift(job, names[a])]
    if None in shifts:
        return Estimate(math.nan, math.nan, answer.unit, f"fewer than {FEWEST} configurations have both energies")
    shift = estimate.difference(*(each.estimate for each in shifts if each)).scaled(
        1.0 / job.built.state.beta, answer.unit
    )
    engine, labels = saved.metadata[names[b]]["engine"], sum(saved.metadata[names[k]]["labels"] for k in (a, b))
    method = f"the answer, shifted to {engine} (card {_card(job)}) by {labels} of its labels; {shift.method}"
    return Estimate(answer.value + shift.value, math.hypot(answer.stderr, shift.stderr), answer.unit, method)


def _card(job: IsomerJob) -> str:
    return job.workflow.check.engine if job.workflow.check else ""


def check_calls(job: IsomerJob) -> dict[str, Estimate]:
    """Labels that the check asked for, by engine; those of the run's own engine only where no label was there."""
    saved = job.load(CHECK)
    if saved is None:
        return {}
    notes = list(saved.metadata.values())
    ours, theirs = job.provider.name, notes[0]["engine"]
    numbers = {ours: sum(note["engine_labels"] for note in notes)}
    key = theirs if theirs != ours else f"{theirs} of {_card(job)}"
    return {name: count(n, "calls") for name, n in (numbers | {key: sum(n["labels"] for n in notes)}).items() if n}
