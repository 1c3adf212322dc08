"""Adaptation stage: chains of every isomer and their flows, in rounds; each learns from the other, then both freeze."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from particlegen.estimate import Estimate, flow_free_energy, split_r_hat
from particlegen.events import Event
from particlegen.flow.coupling import IsomerFlow
from particlegen.flow.coupling_training import train_flow
from particlegen.io.checkpoint import Checkpoint
from particlegen.sampling.independence import LabelledFlows
from particlegen.sampling.local import HamiltonianMonteCarlo, tuned
from particlegen.sampling.target import IsomerTarget
from particlegen.system import Isomer
from particlegen.units import energy_unit
from particlegen.workflow.isomers.job import ADAPTATION, MINIMA, IsomerJob, weighed
from particlegen.workflow.isomers.learning import begun, kept_in, kernel_of, learn, resumed
from particlegen.workflow.isomers.observables import order_parameters
from particlegen.workflow.isomers.schema import IsomerWorkflow, SettledSettings
from particlegen.workflow.isomers.surrogate import restored

__all__ = ["adaptation_finished", "run_adaptation"]

TUNINGS = 24

FOLLOWED = 500
"""Draws of a round's flow that tell how the free energy settles."""


def run_adaptation(job: IsomerJob) -> None:
    """Rounds that are still missing, fewer where they have settled; each is on disk before the next begins.

    A round of one isomer: every chain makes its sweeps, with global moves from the second round on; then the flow is
    trained on the latest states. Later trainings are shorter and slower (see `FlowTraining`), so adaptation vanishes.
    """
    settings, isomers = job.workflow.adaptation, job.built.isomers
    saved = job.load(ADAPTATION)
    done = saved.step if saved else 0
    units = settings.rounds * len(isomers)
    if adaptation_finished(job.workflow, saved, isomers):
        return
    job.check_repeatable(ADAPTATION, job.workflow.flow.training, "production")
    start = saved or job.inherited
    tensors: dict[str, Tensor] = dict(start.tensors) if start else {}
    notes: dict[str, Any] = dict(start.metadata) if start else {}
    job.emit(Event("started", ADAPTATION, f"{settings.rounds} rounds of {job.workflow.chains.count} chains per isomer"))
    for unit in range(done, units):
        number, index = divmod(unit, len(isomers))
        name = isomers[index].name
        tensors, note = _round(job, number, index, tensors, notes.get(name))
        notes[name] = note
        job.save(ADAPTATION, unit + 1, tensors, notes)
        said = f"round {number + 1}, {name}: {_said(note)}{_labels(job, notes)}{_difference(job, index, notes)}"
        job.emit(Event("progress", ADAPTATION, said, {"done": unit + 1, "total": units}))
        job.check(ADAPTATION)
        if _settled(settings.settled, unit + 1, [notes.get(isomer.name) for isomer in isomers]):
            break
    rounds = len(notes[isomers[-1].name]["history"])
    job.emit(Event("finished", ADAPTATION, f"{rounds} rounds" + (", settled" if rounds < settings.rounds else "")))


def adaptation_finished(workflow: IsomerWorkflow, saved: Checkpoint | None, isomers: Sequence[Isomer]) -> bool:
    """Whether a checkpoint is that of the last round, or of an earlier one that was good enough."""
    if saved is None:
        return False
    settings, notes = workflow.adaptation, [saved.metadata.get(isomer.name) for isomer in isomers]
    return saved.step == settings.rounds * len(isomers) or _settled(settings.settled, saved.step, notes)


def _settled(wanted: SettledSettings | None, done: int, notes: Sequence[Mapping[str, Any] | None]) -> bool:
    """Whether the round that all isomers have just finished, their second or later, is good enough to be the last."""
    if wanted is None or done % len(notes) or done < 2 * len(notes):
        return False
    for note in filter(None, notes):
        if wanted.r_hat is not None and not (note["r_hat"] is not None and note["r_hat"] <= wanted.r_hat):
            return False
        if wanted.acceptance is not None and not note["global"] >= wanted.acceptance:
            return False
        errors = [entry["energy_rmse"] for entry in note["rounds"]]
        if wanted.surrogate_rmse is not None and errors and not errors[-1] <= wanted.surrogate_rmse:
            return False
    return True


def _labels(job: IsomerJob, notes: Mapping[str, Any]) -> str:
    """Labels of the engine so far, of those that the budget allows, for a person."""
    minima, budget = job.load(MINIMA), job.workflow.energy.budget
    if job.workflow.learned is None or minima is None:
        return ""
    used = int(minima.metadata["calls"]) + sum(int(note["labels"]) for note in notes.values())
    return f", {used} labels" + ("" if budget is None else f" of {budget}")


def _difference(job: IsomerJob, index: int, notes: dict[str, Any]) -> str:
    """The present difference to the first isomer, for a person."""
    first, name = job.built.isomers[0].name, job.built.isomers[index].name
    if index == 0:
        return ""
    a, b = notes[first]["history"][-1], notes[name]["history"][-1]
    kt = 1.0 / job.built.state.beta
    value, error = kt * (b["free_energy"] - a["free_energy"]), kt * (b["stderr"] ** 2 + a["stderr"] ** 2) ** 0.5
    return f"; F({name}) - F({first}) = {value:.4f} ± {error:.4f} {energy_unit(job.built.system.units)}"


def _said(note: dict[str, Any]) -> str:
    """How a round went, for a person."""
    text = f"local acceptance {note['local']:.2f}"
    if note["global"] is not None:
        text += f", global {note['global']:.2f}"
    if note["r_hat"] is not None:
        text += f", R-hat {note['r_hat']:.3f}"
    if note["rounds"]:
        text += f", error on new labels {note['rounds'][-1]['energy_rmse']:.4g}"
    return text


def _round(
    job: IsomerJob, number: int, index: int, tensors: dict[str, Tensor], note: dict[str, Any] | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """One round of one isomer; tensors and notes to go on from."""
    settings, name = job.workflow.adaptation, job.built.isomers[index].name
    stream = job.stream(ADAPTATION, index, number)
    tensors, note = dict(tensors), dict(note or {"calls": 0, "labels": 0, "rounds": [], "history": []})
    learned, learner, potentials = job.workflow.learned, None, None
    if learned is not None and number < learned.rounds:
        learner = begun(job, index, tensors, note) if number == 0 else resumed(job, index, tensors, note)
        potentials = {index: kernel_of(learner, name)}
    elif learned is not None:
        potentials = {index: restored(job.built.system, name, tensors, note["model"])}
    target = job.target(ADAPTATION, index, potentials=potentials)
    trained = f"{name}.flow.mean" in tensors
    flow = job.flow(index, tensors if trained else None)
    flows = LabelledFlows({index: flow}) if trained else None
    if number == 0:
        positions, step = _warmed_up(job, target, index, stream, tensors.get(f"{name}.chains"), note.get("step"))
        kept = torch.zeros(0, *positions.shape[1:], dtype=torch.float64)
    else:
        positions, step, kept = tensors[f"{name}.chains"], note["step"], tensors[f"{name}.states"]
        positions = _inside(job, target, index, positions)
        if potentials is not None:
            # The potential has changed since: so has the step that suits it.
            local = HamiltonianMonteCarlo(target, step, job.workflow.chains.leaps)
            local, state = tuned(local, local.init(positions), stream, TUNINGS // 4)
            positions, step = state.positions, local.step_size
    sweep = job.sweep(target, step, flows)
    state, infos, states = sweep.init(positions), [], []
    for _ in range(settings.sweeps):
        state, info = sweep.step(state, stream)
        infos.append(info)
        states.append(state)
    fresh = torch.cat([each.positions for each in states])
    target.engine.check()
    total = sum(infos[1:], infos[0])
    parts = {key: part.acceptance for key, part in total.parts.items()}
    note |= {"step": step, "local": parts.get("hmc", parts.get("mala")), "global": parts.get("isir")}
    note["r_hat"] = _r_hat(job, index, fresh, torch.stack([each.energies for each in states]))
    if learner is not None:
        learn(job, number, index, learner, fresh, note)
        tensors = kept_in(learner, name, tensors, note)
    kept = torch.cat([kept, fresh])[-settings.kept :]
    if not trained:
        flow.fit_base(kept)
    # A flow that was taken over is trained as in a later round from the first one on.
    earlier = number + int(job.inherited is not None and f"{name}.flow.mean" in job.inherited.tensors)
    flow, progress = train_flow(flow, kept, job.seed("flow", index), earlier, target.engine.provider, target.beta)
    tensors |= {f"{name}.flow.{key}": value for key, value in flow.state_dict().items()}
    tensors |= {f"{name}.chains": state.positions, f"{name}.states": kept}
    found = _free_energy(job, index, number, flow, target)
    entry = {
        "labels": note["labels"],
        "free_energy": found.value,
        "stderr": found.stderr,
        "loss": progress.validation_loss,
    }
    note["calls"] += target.engine.calls
    return tensors, note | {"history": [*note["history"], entry]}


def _r_hat(job: IsomerJob, index: int, states: Tensor, energies: Tensor) -> float | None:
    """Largest R-hat of a round, None where it is too short for one; `states` sweep after sweep, energies
    `(sweep, chain)`."""
    if len(energies) < 4:
        return None
    parameters = order_parameters(states.numpy(), job.minima[index].frame.reference.numpy())
    series = [energies.numpy(), *(value.reshape(energies.shape) for value in parameters.values())]
    largest = max(split_r_hat(each.T) for each in series)
    return largest if math.isfinite(largest) else None


def _free_energy(job: IsomerJob, index: int, number: int, flow: IsomerFlow, target: IsomerTarget) -> Estimate:
    """F of the round's flow and potential by importance weights, in kT: how the answer settles, no part of it."""
    drawn = flow.sample(FOLLOWED, job.stream("followed", index, number))
    log_w = weighed(target, drawn, index)[1].numpy()
    if np.isfinite(log_w).sum() < 2:
        return Estimate(float("nan"), float("nan"), "kT", "no draw has a weight")
    return flow_free_energy(log_w).estimate


def _inside(job: IsomerJob, target: IsomerTarget, index: int, positions: Tensor) -> Tensor:
    """Chains that a new potential has put outside its trust region begin again where others are, or at the minimum."""
    good = target.inside(positions, torch.full((len(positions),), index)).nonzero()[:, 0]
    if not len(good):
        return job.minima[index].frame.reference.expand(len(positions), -1, -1)
    places = torch.arange(len(positions))
    inside = torch.isin(places, good)
    return positions[torch.where(inside, places, good[places % len(good)])]


def _warmed_up(
    job: IsomerJob,
    target: IsomerTarget,
    index: int,
    stream: torch.Generator,
    start: Tensor | None,
    first: float | None,
) -> tuple[Tensor, float]:
    """Chains that left the minimum, or where chains of an earlier run ended, at temperature; and their tuned step."""
    chains, minimum = job.workflow.chains, job.minima[index]
    # A leap of this many standard deviations of the stiffest vibration; tuning does the rest.
    guess = 0.5 / (job.built.state.beta * float(minimum.curvatures[-1])) ** 0.5
    kernel = HamiltonianMonteCarlo(target, guess if first is None else first, chains.leaps)
    if start is None:
        positions = minimum.frame.reference.expand(chains.count, -1, -1)
    else:
        positions = _inside(job, target, index, start[torch.arange(chains.count) % len(start)])
    state = kernel.init(positions)
    kernel, state = tuned(kernel, state, stream, TUNINGS, max(1, chains.warm_up // TUNINGS))
    return state.positions, kernel.step_size
