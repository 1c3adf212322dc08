"""Vibrations stage: trajectories at constant energy from states of production, and densities of vibrational states."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from particlegen import estimate
from particlegen.estimate import Estimate
from particlegen.events import Event
from particlegen.sampling import dynamics
from particlegen.sampling.leapfrog import Phase, leapfrog
from particlegen.sampling.target import centred
from particlegen.settings import RunError
from particlegen.units import WAVENUMBER, energy_unit, frequency_unit
from particlegen.workflow.isomers.job import VIBRATIONS, IsomerJob
from particlegen.workflow.isomers.labels import under
from particlegen.workflow.isomers.schema import IsomerWorkflow, VibrationSettings
from particlegen.workflow.isomers.states import weighted_states
from particlegen.workflow.spent import as_dicts, count

__all__ = [
    "frames_of_trajectory",
    "run_vibrations",
    "trajectory_energies",
    "units_of_vibrations",
    "vibrational_densities",
]

FRAMES = 8
"""At least so many of a period of the stiffest vibration are kept: power is seen up to four times its frequency."""

BLOCK = 16
"""Periods between two checkpoints."""

_PHASE = tuple(part.name for part in fields(Phase))


def units_of_vibrations(workflow: IsomerWorkflow, isomers: int) -> int:
    """Pieces of work with a checkpoint each; 0 where no vibrations are asked for."""
    return 0 if workflow.vibrations is None else isomers * len(_blocks(workflow.vibrations))


def trajectory_energies(workflow: IsomerWorkflow) -> int:
    """Energies with forces that the trajectories of one isomer take."""
    settings = workflow.vibrations
    if settings is None:
        return 0
    states = settings.states if workflow.learned is None else min(settings.states, workflow.correction.labels)
    return states * (1 + sum(_blocks(settings)) * _leaps(settings))


def frames_of_trajectory(settings: VibrationSettings) -> int:
    """Velocities that are kept of each trajectory."""
    return 2 * round(settings.periods * settings.steps / (2 * _leaps(settings)))


def _leaps(settings: VibrationSettings) -> int:
    """Steps between two frames that are kept."""
    return settings.steps // FRAMES


def _blocks(settings: VibrationSettings) -> list[int]:
    """Frames of each block; an even number in all."""
    each = BLOCK * settings.steps // _leaps(settings)
    total = frames_of_trajectory(settings)
    return [min(each, total - start) for start in range(0, total, each)]


def _time_step(job: IsomerJob, settings: VibrationSettings) -> float:
    """In √(mass/energy) × length; one for all isomers, so that their frequencies are the same."""
    masses = job.built.masses
    stiffest = max(float(minimum.angular_frequencies(masses)[-1]) for minimum in job.minima)
    return 2.0 * math.pi / stiffest / settings.steps


def run_vibrations(job: IsomerJob) -> None:
    """What is still missing, isomer by isomer, in blocks; after each everything is on disk.

    A trajectory that would leave its isomer's basin, or has no energy on its way, is sent back with its velocities
    reversed, which keeps the ensemble of the isomer (see `sampling.dynamics`).

    Raises:
        RunError: fewer than two states to start from have forces.
    """
    settings, isomers = job.workflow.vibrations, job.built.isomers
    if settings is None:
        return
    blocks, saved = _blocks(settings), job.load(VIBRATIONS)
    done, units = saved.step if saved else 0, len(_blocks(settings)) * len(isomers)
    if done == units:
        return
    tensors: dict[str, Tensor] = dict(saved.tensors) if saved else {}
    notes: dict[str, Any] = dict(saved.metadata) if saved else {"calls": 0, "failed": {}}
    job.emit(Event("started", VIBRATIONS, f"{settings.states} trajectories of {settings.periods} periods per isomer"))
    for unit in range(done, units):
        index, block = divmod(unit, len(blocks))
        name = isomers[index].name
        mine, notes = _block(job, settings, index, blocks, block, under(f"{name}.", tensors), notes)
        tensors = {key: value for key, value in tensors.items() if not key.startswith(f"{name}.")}
        tensors |= {f"{name}.{key}": value for key, value in mine.items()}
        job.save(VIBRATIONS, unit + 1, tensors, notes)
        said = f"trajectories of {name}, {int((mine['reversals'] > 0).sum())} of {len(mine['reversals'])} sent back"
        job.emit(Event("progress", VIBRATIONS, said, {"done": unit + 1, "total": units}))
        job.check(VIBRATIONS)
    job.emit(Event("finished", VIBRATIONS, f"{settings.periods} periods per isomer"))


def _block(
    job: IsomerJob,
    settings: VibrationSettings,
    index: int,
    blocks: list[int],
    block: int,
    held: dict[str, Tensor],
    notes: dict[str, Any],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """One block of an isomer's trajectories; after the last, their spectra in place of the velocities."""
    masses, beta, name = job.built.masses, job.built.state.beta, job.built.isomers[index].name
    target = job.target(VIBRATIONS, index)
    if block == 0:
        x, log_w = weighted_states(job, index, settings.states)
        x = centred(x)
        energies, forces, ok = target.evaluate(x)
        if ok.sum() < 2:
            raise RunError(
                f"isomer {name}: forces at {int(ok.sum())} of {len(ok)} states of production, 2 are needed to tell an "
                f"error; {target.engine.first_failure}"
            )
        x, log_w = x[ok], log_w[ok] + dynamics.log_rest_weight(x[ok], masses)
        momenta = dynamics.rest_momenta(x, masses, job.stream(VIBRATIONS, index))
        phase = Phase(x, momenta, energies[ok], forces[ok], ok[ok])
        held = {"start": x, "log_weight": log_w, "began": dynamics.total_energy(phase, beta)}
        held["reversals"] = torch.zeros(len(x), dtype=torch.int64)
        velocities, changes, failed = [], [], int((~ok).sum())
    else:
        phase = Phase(**{part: held[part] for part in _PHASE})
        velocities, changes, failed = [held["velocities"]], [held["changes"]], int(notes["failed"][name])
    step, reversals = _time_step(job, settings), held["reversals"].clone()
    labels = torch.full((len(reversals),), index)
    steps = dynamics.thermal_steps(len(labels), step, beta, masses)
    visited: list[Phase] = []
    for _ in range(blocks[block]):
        after = leapfrog(target.evaluate, target.geometry, phase, beta, steps, _leaps(settings))
        inside = after.ok.clone()
        inside[after.ok] = target.inside(centred(after.positions[after.ok]), labels[after.ok])
        failed += int((~after.ok).sum())
        reversals += ~inside
        phase = dynamics.confined(phase, after, inside)
        visited.append(phase)
        changes.append((dynamics.total_energy(phase, beta) - held["began"])[:, None])
    momenta, x = (torch.stack([getattr(each, part) for each in visited], 1) for part in ("momenta", "positions"))
    start = held["start"][:, None].expand_as(x)
    turned = dynamics.turned_back(momenta.flatten(0, 1), x.flatten(0, 1), start.flatten(0, 1), masses)
    velocities.append(turned.reshape(*x.shape[:2], -1))
    kept = torch.cat(velocities, 1)
    notes = {"calls": notes["calls"] + target.engine.calls, "failed": notes["failed"] | {name: failed}}
    held = held | {"changes": torch.cat(changes, 1), "reversals": reversals}
    if block < len(blocks) - 1:
        return held | {"velocities": kept} | {part: getattr(phase, part) for part in _PHASE}, notes
    frequency, spectra = estimate.velocity_spectra(kept.numpy(), _leaps(settings) * step)
    ended = {key: held[key] for key in ("log_weight", "changes", "reversals")}
    return ended | {"frequency": torch.from_numpy(frequency), "spectra": torch.from_numpy(spectra)}, notes


def vibrational_densities(job: IsomerJob) -> dict[str, Any]:
    """By isomer: density of states over frequency, harmonic frequencies, and how good the trajectories are.

    Empty where none are asked for.
    """
    saved, settings = job.load(VIBRATIONS), job.workflow.vibrations
    if settings is None:
        return {}
    if saved is None:
        raise RuntimeError("the stage 'vibrations' has to run first")
    units, masses = job.built.system.units, job.built.masses
    factor, unit = WAVENUMBER[units], frequency_unit(units)
    resolution = factor * estimate.HANN_RESOLUTION / (settings.periods * settings.steps * _time_step(job, settings))
    found = {}
    for number, isomer in enumerate(job.built.isomers):
        part, minimum = under(f"{isomer.name}.", saved.tensors), job.minima[number]
        frequency, spectra, log_w = (part[key].numpy() for key in ("frequency", "spectra", "log_weight"))
        curve = estimate.density_of_states(frequency, spectra, log_w, minimum.frame.dimensions)
        weighted = "weighted " if job.workflow.learned else ""
        found[isomer.name] = {
            "frequency": (factor * curve.x).tolist(),
            "density": (curve.value / factor).tolist(),
            "stderr": (curve.stderr / factor).tolist(),
            "harmonic": (factor / (2.0 * math.pi) * minimum.angular_frequencies(masses)).tolist(),
            "unit": unit,
            "method": f"power spectrum of mass-weighted velocities under Hann's window, {len(log_w)} trajectories at "
            f"constant energy and zero angular momentum from {weighted}states of production, seen from axes that turn "
            "with the cluster",
            **as_dicts(_quality(job, part, int(saved.metadata["failed"][isomer.name]))),
            "resolution": Estimate(resolution, math.nan, unit, "width of a line at half its height").as_dict(),
        }
    return found


def _quality(job: IsomerJob, part: Mapping[str, Tensor], failed: int) -> dict[str, Estimate]:
    reversals, unit = part["reversals"].numpy(), energy_unit(job.built.system.units)
    n, left = len(reversals), float((reversals > 0).mean())
    # Energies stay what they are at a reversal, so that these are the integrator's own.
    changes = np.sqrt(np.square(part["changes"].numpy()).mean(1)) / job.built.state.beta
    said = "root mean square change of a trajectory's energy since its start"
    return {
        "energy_drift": Estimate(float(changes.mean()), float(changes.std(ddof=1)) / math.sqrt(n), unit, said),
        "left_basin": Estimate(left, math.sqrt(left * (1.0 - left) / n), "", f"share of {n} trajectories sent back"),
        "reversals": Estimate(
            float(reversals.mean()), float(reversals.std(ddof=1)) / math.sqrt(n), "", "of a trajectory, at the border"
        ),
        "failed": count(failed, "calls"),
    }
