"""Spectra stage: optical absorption of every isomer at temperature and at its minimum, by TDDFT."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from particlegen import estimate
from particlegen.energy.distributed import made
from particlegen.energy.pyscf_spectra import excited, shared_excitations
from particlegen.estimate import Estimate
from particlegen.events import Event
from particlegen.workflow.isomers.job import IsomerJob
from particlegen.workflow.isomers.states import weighted_states
from particlegen.workflow.spent import count

__all__ = ["SPECTRA", "excitation_calls", "run_spectra", "spectra"]

SPECTRA = "spectra"

POINTS = 400
"""Of the energy grid."""

TAIL = 4.0
"""The grid begins this many broadenings below the lowest excitation."""


def run_spectra(job: IsomerJob) -> None:
    """Excitations that are still missing, the minimum of an isomer before its states; every batch is on disk before
    the next begins. What does not converge is counted, and no part of a spectrum."""
    settings, isomers = job.workflow.spectra, job.built.isomers
    saved = job.load(SPECTRA)
    if settings is None or (saved is not None and saved.metadata["finished"]):
        return
    tensors: dict[str, Tensor] = dict(saved.tensors) if saved else {}
    notes: dict[str, Any] = dict(saved.metadata) if saved else {"finished": False, "reasons": {}}
    recipe, done = job.recipe, saved.step if saved else 0
    name, total = f"{job.provider.name} excitations", len(isomers) * (1 + settings.configurations)
    job.emit(Event("started", SPECTRA, f"TDDFT of {settings.configurations} states of each isomer and its minimum"))
    for index, isomer in enumerate(isomers):
        states, log_w = weighted_states(job, index, settings.configurations)
        x = torch.cat([job.minima[index].frame.reference[None], states])
        tensors |= {f"{isomer.name}.positions": x, f"{isomer.name}.log_weights": log_w}
        reasons = notes["reasons"].setdefault(isomer.name, [])
        for start in range(len(reasons), len(x), job.slots):
            batch = x[start : start + job.slots]
            found, spent = shared_excitations(
                recipe, job.executor, batch, settings.states, job.limits, job.listener, SPECTRA
            )
            job.count(name, SPECTRA, spent.calls, spent.seconds, spent.failures)
            for key, rows in (("energies", found.energies), ("strengths", found.strengths)):
                place = f"{isomer.name}.{key}"
                tensors[place] = torch.cat([tensors[place], rows]) if start else rows
            reasons += found.reasons
            done += len(batch)
            job.save(SPECTRA, done, tensors, notes)
            job.emit(Event("progress", SPECTRA, isomer.name, {"done": done, "total": total}))
            job.check(SPECTRA)
    job.save(SPECTRA, done + 1, tensors, notes | {"finished": True})
    failed = sum(reason is not None for reasons in notes["reasons"].values() for reason in reasons)
    job.emit(Event("finished", SPECTRA, f"{done - failed} of {done} configurations have their excitations"))


def spectra(job: IsomerJob) -> dict[str, Any]:
    """By isomer, what `results.json` holds of the stage; empty without it. Lists over the energies are null where too
    little converged."""
    saved, settings = job.load(SPECTRA), job.workflow.spectra
    if saved is None or settings is None:
        return {}
    level = excited(made(job.recipe)).level
    tensors = {name: tensor.numpy() for name, tensor in saved.tensors.items()}
    method = (
        f"linear-response TDDFT, {level.functional}, {settings.states} roots; normal broadening of standard deviation "
        f"{settings.broadening:g} eV; weighted mean over configurations, delta-method error"
    )
    found = {}
    for isomer in job.built.isomers:
        energies, strengths, log_w = (
            tensors[f"{isomer.name}.{key}"] for key in ("energies", "strengths", "log_weights")
        )
        curves = _spectrum(energies, strengths, log_w, settings.broadening)
        found[isomer.name] = {"unit": "1/eV", "method": method, **curves}
        found[isomer.name] |= _failures(saved.metadata["reasons"][isomer.name])
    return found


def _spectrum(energies: np.ndarray, strengths: np.ndarray, log_w: np.ndarray, broadening: float) -> dict[str, Any]:
    """The first row is the minimum, the others are the states that the weights belong to."""
    rows = np.flatnonzero(np.isfinite(energies).all(axis=1))
    states = rows[rows > 0]
    log_w = log_w[states - 1]
    found: dict[str, Any] = dict.fromkeys(("energies", "mean", "stderr", "zero_kelvin", "complete_up_to", "effective"))
    found["configurations"] = len(states)
    if not len(rows):
        return found
    end = estimate.complete_up_to(energies[rows])
    grid = np.linspace(max(0.0, float(energies[rows].min()) - TAIL * broadening), end, POINTS)
    found |= {"energies": grid.tolist(), "complete_up_to": end}
    if rows[0] == 0:
        found["zero_kelvin"] = estimate.broadened(energies[:1], strengths[:1], grid, broadening)[0].tolist()
    if len(states) < 2:
        return found
    curve = estimate.absorption(energies[states], strengths[states], log_w, grid, broadening)
    effective = estimate.ess_per_sample(log_w) * len(log_w)
    return found | {"mean": curve.value.tolist(), "stderr": curve.stderr.tolist(), "effective": effective}


def _failures(reasons: list[str | None]) -> dict[str, Any]:
    failed = [reason for reason in reasons if reason is not None]
    return {"failed": len(failed), "first_failure": failed[0] if failed else None}


def excitation_calls(job: IsomerJob) -> dict[str, Estimate]:
    """Configurations whose excitations were asked for, by the engine's name; empty without the stage."""
    saved = job.load(SPECTRA)
    if saved is None:
        return {}
    asked = sum(len(reasons) for reasons in saved.metadata["reasons"].values())
    return {f"{job.provider.name} excitations": count(asked, "calls")}
