"""What a workflow on isomers would do and ask for, stage by stage."""

import math
from collections.abc import Iterator

from particlegen.isomers import BuiltCluster
from particlegen.workflow.isomers.learning import labels_reserved
from particlegen.workflow.isomers.schema import IsomerWorkflow, LearnedEnergy
from particlegen.workflow.isomers.vibrations import frames_of_trajectory, trajectory_energies
from particlegen.workflow.plans import Need, Outline, PlannedStage

__all__ = ["outline"]

OPTIMISATION = 30
"""Energies that an optimisation takes from a poor guess."""


COMPARED = 2e6
"""Labelled copies of isomers that a batch of states is compared with at a time, however large the batch."""

DRAWN = 1000
"""Draws of a flow that are weighed at a time."""

ROWS = 1 << 14
"""What a flow carries at a time, however many states there are."""


def outline(workflow: IsomerWorkflow, built: BuiltCluster) -> Outline:
    """Stages, memory and disk of a workflow."""
    names = ", ".join(isomer.name for isomer in built.isomers)
    counts = zip(built.system.species_names, built.system.composition, strict=True)
    composition, n = " ".join(f"{name}{number}" for name, number in counts), built.system.n_particles
    return Outline(
        system=f"{built.system.name}: N = {n} ({composition}), isomers {names}, T = {built.state.temperature:g}",
        stages=_stages(workflow, built),
        memory=tuple(_memory(workflow, built)),
        disk=_disk(workflow, built),
    )


def _rows(workflow: IsomerWorkflow, isomers: int) -> tuple[int, int]:
    """States of the chains, and draws of the flows, of all isomers."""
    chains, production = workflow.chains.count, workflow.production
    return isomers * -(-production.samples // chains) * chains, isomers * production.draws


def _memory(workflow: IsomerWorkflow, built: BuiltCluster) -> Iterator[Need]:
    k, coordinates = len(built.isomers), 3 * built.system.n_particles
    states, draws = _rows(workflow, k)
    chains, flow = workflow.chains, workflow.flow
    yield Need("states of production", 24.0 * states * (coordinates + 5), ("production.samples",))
    yield Need("draws of the flows", 24.0 * draws * (coordinates + 5), ("production.draws",))
    block = max(min(workflow.production.block, states // (k * chains.count)), workflow.adaptation.sweeps)
    keys = ("chains.count", "production.block", "adaptation.sweeps")
    yield Need("a block of sweeps", 48.0 * block * chains.count * coordinates, keys)
    copies = math.prod(map(math.factorial, built.system.composition)) * 2.0
    compared = min(COMPARED, max(min(DRAWN, workflow.production.draws), block * chains.count) * copies)
    yield Need("copies that states are compared with", 250.0 * compared, ("chains.count", "production.block"))
    yield Need("moves of the chains", 200.0 * chains.count * chains.candidates * coordinates, ("chains.count",))
    deciding = workflow.correction.chains if workflow.learned is not None else 0
    yield Need("moves of the correction", 400.0 * deciding * coordinates, ("correction.chains",))
    yield Need("states that flows learn", 48.0 * k * workflow.adaptation.kept * coordinates, ("adaptation.kept",))
    width = max((*flow.hidden, coordinates * (3 * flow.bins if flow.kind == "spline_coupling" else 2)))
    yield Need("flows", 48.0 * ROWS * width, ("flow.hidden",))
    step = 16.0 * flow.training.batch * flow.layers * (sum(flow.hidden) + 4 * width)
    yield Need("the gradient of a flow's batch", step, ("flow.training.batch", "flow.layers", "flow.hidden"))
    if workflow.vibrations is not None:
        frames = workflow.vibrations.states * frames_of_trajectory(workflow.vibrations)
        keys = ("vibrations.states", "vibrations.periods", "vibrations.steps")
        yield Need("velocities of the trajectories", 40.0 * frames * coordinates, keys)
    learned = workflow.learned
    if learned is not None:
        each = _labels(workflow, learned, coordinates)
        rows = max(each, min(each, learned.potential.fitted_on) * 2) * (coordinates - 5)
        yield Need("covariances of the labels", 32.0 * rows**2 + 3e8, ("learned.per_round", "learned.first"))


def _labels(workflow: IsomerWorkflow, learned: LearnedEnergy, coordinates: int) -> int:
    """Of an isomer, at most."""
    each = 2 * (coordinates - 6) + OPTIMISATION + learned.first
    each += min(learned.rounds, workflow.adaptation.rounds) * learned.per_round
    return each if workflow.energy.budget is None else min(each, workflow.energy.budget)


def _disk(workflow: IsomerWorkflow, built: BuiltCluster) -> tuple[Need, ...]:
    k, coordinates = len(built.isomers), 3 * built.system.n_particles
    states, draws = _rows(workflow, k)
    kept = 8.0 * k * coordinates * (2 * workflow.adaptation.kept + 20 * workflow.chains.count)
    needs = (
        # Segments and data.h5 are there together until the last are moved.
        Need("states of production", 16.0 * states * (coordinates + 5), ("production.samples",)),
        Need("draws of the flows", 16.0 * draws * (coordinates + 5), ("production.draws",)),
        Need("checkpoints of the adaptation", kept + 1e6 * k, ("adaptation.kept", "chains.count")),
    )
    if workflow.learned is not None:
        size = 500.0 * k * _labels(workflow, workflow.learned, coordinates) * coordinates
        needs = (*needs, Need("labels", size, ("learned.per_round", "learned.first")))
    if workflow.vibrations is None:
        return needs
    frames = workflow.vibrations.states * frames_of_trajectory(workflow.vibrations)
    keys = ("vibrations.states", "vibrations.periods", "vibrations.steps")
    return (*needs, Need("velocities of the trajectories", 16.0 * frames * coordinates, keys))


def _stages(workflow: IsomerWorkflow, built: BuiltCluster) -> tuple[PlannedStage, ...]:
    """The stages in order; with a learned potential, what is asked of it apart from the labels of the engine."""
    chains, adaptation, production = workflow.chains, workflow.adaptation, workflow.production
    k, frame = len(built.isomers), 3 * built.system.n_particles - 6
    sweep = chains.local_steps * chains.leaps + chains.candidates - 1
    sweeps = -(-production.samples // chains.count)
    warm = chains.count * (1 + chains.warm_up * chains.leaps)
    adapt = k * (warm + adaptation.rounds * adaptation.sweeps * chains.count * sweep)
    mixed = (sweeps + production.discard) * chains.count * sweep if k > 1 else 0
    produce = k * ((sweeps + production.discard) * chains.count * sweep + production.draws) + mixed
    names = ", ".join(isomer.name for isomer in built.isomers)
    found = f"optimise {names}; Hessians by {2 * frame} forces each"
    minima = PlannedStage("minima", found, k * (2 * frame + OPTIMISATION))
    if workflow.start_from is not None:
        minima = PlannedStage("minima", f"{names}, with labels, flows and chains from {workflow.start_from}")
    adapting = f"{adaptation.rounds} rounds of {chains.count} chains, {workflow.flow.kind} flows"
    producing = f"{sweeps * chains.count:,} states and {production.draws:,} draws of each isomer"
    last = (
        *_observations(workflow, k),
        PlannedStage("estimates", "free energies by BAR, weights and mixture; error budget"),
        PlannedStage("report", "report.html"),
    )
    learned, wanted = workflow.learned, workflow.correction
    if learned is None:
        middle = PlannedStage("adaptation", adapting, adapt), PlannedStage("production", producing, produce)
        return minima, *middle, *last
    first = learned.first if workflow.start_from is None else 0
    labels = k * (first + min(learned.rounds, adaptation.rounds) * learned.per_round)
    reserved = labels_reserved(workflow, k)
    if workflow.energy.budget is not None:
        labels = min(labels, max(0.0, workflow.energy.budget - minima.energy_calls - reserved))
    deciding = k * wanted.decisions * wanted.chains * (1 + wanted.sweeps * sweep)
    return (
        minima,
        PlannedStage("adaptation", f"{adapting}, labels where the learned potentials know least", labels, adapt),
        PlannedStage("production", producing, 0.0, produce),
        PlannedStage(
            "correction",
            f"labels of {wanted.labels} states, {wanted.chains} chains of {wanted.decisions} decisions of each isomer",
            reserved,
            deciding,
        ),
        *last,
    )


def _observations(workflow: IsomerWorkflow, isomers: int) -> list[PlannedStage]:
    """The stages between correction and estimates that the workflow asks for."""
    stages, vibrations, spectra, check = [], workflow.vibrations, workflow.spectra, workflow.check
    if vibrations is not None:
        said = f"trajectories of {vibrations.periods} periods on {{}}, {vibrations.steps} steps each"
        energies = float(isomers * trajectory_energies(workflow))
        stages.append(
            PlannedStage("vibrations", said.format("the engine"), energies)
            if workflow.learned is None
            else PlannedStage("vibrations", said.format("the learned potentials"), 0.0, energies)
        )
    if spectra is not None:
        said = f"TDDFT, {spectra.states} roots: the minimum and {spectra.configurations} states of each isomer"
        stages.append(PlannedStage("spectra", said, isomers * (1 + spectra.configurations)))
    if check is not None:
        said = f"{check.labels} states of each isomer by {check.engine}"
        stages.append(PlannedStage("check", said, isomers * check.labels))
    return stages
