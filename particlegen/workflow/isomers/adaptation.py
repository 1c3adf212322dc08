"""Adaptation stage: chains of every isomer and their flows, in rounds; each learns from the other, then both freeze."""

from typing import Any

import torch
from torch import Tensor

from particlegen.events import Event
from particlegen.flow.coupling_training import train_flow
from particlegen.sampling.independence import LabelledFlows
from particlegen.sampling.local import HamiltonianMonteCarlo, tuned
from particlegen.sampling.target import IsomerTarget
from particlegen.workflow.isomers.job import ADAPTATION, IsomerJob

__all__ = ["run_adaptation"]

TUNINGS = 24


def run_adaptation(job: IsomerJob) -> None:
    """Rounds that are still missing; each is on disk before the next begins.

    A round of one isomer: every chain makes its sweeps, with global moves from the second round on; then the flow is
    trained on the latest states. Later trainings are shorter and slower (see `FlowTraining`), so adaptation vanishes.
    """
    settings, isomers = job.workflow.adaptation, job.built.isomers
    saved = job.load(ADAPTATION)
    done = saved.step if saved else 0
    units = settings.rounds * len(isomers)
    if done == units:
        return
    tensors: dict[str, Tensor] = dict(saved.tensors) if saved else {}
    notes: dict[str, Any] = dict(saved.metadata) if saved else {}
    job.emit(Event("started", ADAPTATION, f"{settings.rounds} rounds of {job.workflow.chains.count} chains per isomer"))
    for unit in range(done, units):
        number, index = divmod(unit, len(isomers))
        name = isomers[index].name
        tensors, note = _round(job, number, index, tensors, notes.get(name))
        notes[name] = note
        job.save(ADAPTATION, unit + 1, tensors, notes)
        acceptance = "" if note["global"] is None else f", global acceptance {note['global']:.2f}"
        said = f"round {number + 1}, {name}: local acceptance {note['local']:.2f}{acceptance}"
        job.emit(Event("progress", ADAPTATION, said, {"done": unit + 1, "total": units}))
        job.check(ADAPTATION)
    job.emit(Event("finished", ADAPTATION, f"{settings.rounds} rounds"))


def _round(
    job: IsomerJob, number: int, index: int, tensors: dict[str, Tensor], note: dict[str, Any] | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """One round of one isomer; tensors and notes to go on from."""
    settings, name = job.workflow.adaptation, job.built.isomers[index].name
    target, stream = job.target(ADAPTATION, index), job.stream(ADAPTATION, index, number)
    if note is None:
        positions, step = _warmed_up(job, target, index, stream)
        flow, kept, flows = job.flow(index), torch.zeros(0, *positions.shape[1:], dtype=torch.float64), None
    else:
        positions, step, kept = tensors[f"{name}.chains"], note["step"], tensors[f"{name}.states"]
        flow = job.flow(index, tensors)
        flows = LabelledFlows({index: flow})
    sweep = job.sweep(target, step, flows)
    state, infos, states = sweep.init(positions), [], [kept]
    for _ in range(settings.sweeps):
        state, info = sweep.step(state, stream)
        infos.append(info)
        states.append(state.positions)
    kept = torch.cat(states)[-settings.kept :]
    if number == 0:
        flow.fit_base(kept)
    flow, progress = train_flow(flow, kept, job.seed("flow", index), number, target.engine.provider, target.beta)
    tensors = tensors | {f"{name}.flow.{key}": value for key, value in flow.state_dict().items()}
    tensors |= {f"{name}.chains": state.positions, f"{name}.states": kept}
    total = sum(infos[1:], infos[0])
    parts = {key: part.acceptance for key, part in total.parts.items()}
    note = {
        "step": step,
        "local": parts.get("hmc", parts.get("mala")),
        "global": parts.get("isir"),
        "loss": progress.validation_loss,
        "calls": (note["calls"] if note else 0) + target.engine.calls,
    }
    return tensors, note


def _warmed_up(job: IsomerJob, target: IsomerTarget, index: int, stream: torch.Generator) -> tuple[Tensor, float]:
    """Chains that left the minimum at temperature, and their tuned step."""
    chains, minimum = job.workflow.chains, job.minima[index]
    stiffest = float(minimum.curvatures[-1])
    # A leap of this many standard deviations of the stiffest vibration; tuning does the rest.
    first = 0.5 / (job.built.state.beta * stiffest) ** 0.5
    kernel = HamiltonianMonteCarlo(target, first, chains.leaps)
    state = kernel.init(minimum.frame.reference.expand(chains.count, -1, -1))
    kernel, state = tuned(kernel, state, stream, TUNINGS, max(1, chains.warm_up // TUNINGS))
    return state.positions, kernel.step_size
