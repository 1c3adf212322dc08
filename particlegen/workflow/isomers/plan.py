"""What a workflow on isomers would do and ask for, stage by stage."""

from particlegen.isomers import BuiltCluster
from particlegen.workflow.isomers.learning import labels_reserved
from particlegen.workflow.isomers.schema import IsomerWorkflow
from particlegen.workflow.isomers.vibrations import trajectory_energies
from particlegen.workflow.plans import PlannedStage

__all__ = ["planned_stages"]

OPTIMISATION = 30
"""Energies that an optimisation takes from a poor guess."""


def planned_stages(workflow: IsomerWorkflow, built: BuiltCluster) -> tuple[PlannedStage, ...]:
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
