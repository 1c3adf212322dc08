"""What the stages of a workflow on isomers are handed, and what they have in common."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from particlegen.energy import (
    Distributed,
    EnergyProvider,
    LabelStore,
    LinearEnergy,
    PySCFEnergy,
    Recipe,
    TorchPairEnergy,
)
from particlegen.energy.distributed import made
from particlegen.energy.kernel_potential import KernelPotential
from particlegen.flow import FlowSamples
from particlegen.flow.coupling import IsomerFlow
from particlegen.io.checkpoint import Checkpoint
from particlegen.isomers import BuiltCluster, EckartFrame, HarmonicIsomer
from particlegen.learning import TrustRegion
from particlegen.sampling.composite import Cycle
from particlegen.sampling.independence import ISIR, LabelledFlows
from particlegen.sampling.local import HamiltonianMonteCarlo
from particlegen.sampling.target import IsomerTarget
from particlegen.streams import stream_seed
from particlegen.workflow.engines import engine_recipe
from particlegen.workflow.isomers.labels import under
from particlegen.workflow.isomers.schema import IsomerWorkflow
from particlegen.workflow.isomers.surrogate import Baseline, PiecewiseEnergy, frozen_potentials
from particlegen.workflow.job import Job

__all__ = [
    "ADAPTATION",
    "CORRECTION",
    "INHERITED",
    "MINIMA",
    "ORIENTATIONS",
    "PRODUCTION",
    "TOLERANCE",
    "VIBRATIONS",
    "IsomerJob",
    "engine_card",
    "weighed",
]

MINIMA, ADAPTATION, PRODUCTION, CORRECTION = "minima", "adaptation", "production", "correction"
VIBRATIONS = "vibrations"

INHERITED = "inherited"
"""Checkpoint: what the adaptation begins with in a run that goes on from another one."""


ORIENTATIONS = 4
"""In which the scatter of a grid is measured."""


TOLERANCE = {"lj": 0.01, "metal": 0.05}
"""Of distances of an optimised structure that count as equal when its point group is looked for."""


def engine_card(workflow: IsomerWorkflow, built: BuiltCluster, relative_to: Path) -> tuple[str, Path]:
    """Name of the target engine's card, and the folder that it is relative to: the workflow's, or the system card's."""
    if workflow.energy.engine is None:
        return built.engine, built.card.path.parent
    return workflow.energy.engine, relative_to


def weighed(target: IsomerTarget, draws: FlowSamples, isomer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Energies of a flow's draws (NaN without a weight), their log weights, and which have no energy; `(draw,)`."""
    x = torch.where(draws.log_q.isfinite()[:, None, None], draws.positions, torch.nan)
    energies, _, failed = target.weigh(x, torch.full((len(x),), isomer))
    log_w = torch.where(energies.isfinite(), -target.beta * energies - draws.log_q, -torch.inf)
    return energies, log_w, failed


@dataclass(kw_only=True)
class IsomerJob(Job):
    """A session of a workflow on isomers, with the engine that it samples."""

    workflow: IsomerWorkflow
    built: BuiltCluster

    def __post_init__(self) -> None:
        learned = self.workflow.learned
        self.provider = self.shared(self.recipe)
        keep = self.workflow.energy.keep_labels or learned is not None
        self.labels = LabelStore(self.folder.labels_file) if keep else None
        self.baseline = None
        if learned is not None and learned.baseline is not None:
            baseline = engine_recipe(self.built.system, learned.baseline, None, self.relative_to)
            # It answers whole batches of chains: one task for each worker.
            chunk = math.ceil(self.workflow.chains.count / self.slots)
            self.baseline = Baseline(self.shared(baseline, chunk), self.provider)

    @property
    def recipe(self) -> Recipe:
        """How workers open the engine."""
        name, folder = engine_card(self.workflow, self.built, self.relative_to)
        return engine_recipe(self.built.system, name, None, folder)

    def shared(self, recipe: Recipe, chunk: int | None = None) -> EnergyProvider:
        """An engine, its batches shared over the executor; torch is fastest in one batch, other engines go in tasks of
        `chunk` configurations, by default those of `energy.chunk`."""
        engine = made(recipe)
        if isinstance(engine, TorchPairEnergy):
            return engine
        size = self.workflow.energy.chunk if chunk is None else chunk
        return Distributed(recipe, self.executor, size, self.limits, events=self.listener)

    def orientation_scatter(self, positions: Tensor) -> float | None:
        """Standard deviation of the engine's energy over orientations of a configuration; None where it has no grid."""
        engine = made(self.recipe)
        if not isinstance(engine, PySCFEnergy):
            return None
        return float(engine.orientation_scatter(positions, ORIENTATIONS, self.seed("orientation")).std(1).mean())

    def seed(self, stage: str, *keys: int) -> int:
        """Of a stream of this run: a run that goes on from another one repeats none of its random numbers."""
        generation = int(self.origin.get("generation", 0))
        return stream_seed(self.workflow.seed, f"{stage}, generation {generation}" if generation else stage, *keys)

    @cached_property
    def origin(self) -> Mapping[str, Any]:
        """What the run goes on from, as its manifest says; empty where it starts from nothing."""
        return self.folder.read_json(self.folder.manifest_file).get("start_from", {})

    @cached_property
    def inherited(self) -> Checkpoint | None:
        """What was taken over from the run that this one goes on from."""
        return self.load(INHERITED) if self.origin else None

    @cached_property
    def minima(self) -> tuple[HarmonicIsomer, ...]:
        """The isomers' minima with their harmonic energies, once the stage has found them."""
        saved = self.load(MINIMA)
        if saved is None or saved.step < len(self.built.isomers):
            raise RuntimeError("the stage 'minima' has to run first")
        found = []
        for isomer, energy in zip(self.built.isomers, saved.metadata["energies"], strict=True):
            structure, curvatures, modes = (
                saved.tensors[f"{isomer.name}.{part}"] for part in ("structure", "curvatures", "modes")
            )
            frame = EckartFrame(structure, self.built.system.species, TOLERANCE[self.built.system.units])
            found.append(HarmonicIsomer(frame, float(energy), curvatures, modes))
        return tuple(found)

    def target(
        self, stage: str, *isomers: int, potentials: Mapping[int, KernelPotential] | None = None
    ) -> IsomerTarget:
        """The law that is sampled, in the basins of these isomers: that of the engine, or of learned potentials.

        Args:
            stage: what the calls are counted for.
            isomers: indices.
            potentials: in the place of those that the adaptation ended with.
        """
        learned, beta, basins = self.workflow.learned, self.built.state.beta, self.built.basins
        if learned is None:
            return IsomerTarget(self.energies(stage), beta, basins.assign, isomers)
        known = self.potentials if potentials is None else potentials
        single = known[isomers[0]] if len(isomers) == 1 else PiecewiseEnergy([known[k] for k in sorted(known)], basins)
        trusted = TrustRegion(basins, {k: known[k] for k in isomers}, learned.trust / beta)
        return IsomerTarget(self._summed(single, stage), beta, trusted, isomers)

    def sampled(self, isomer: int, stage: str) -> EnergyProvider:
        """What the chains of an isomer run on in production: the engine, or baseline and learned potential."""
        if self.workflow.learned is None:
            return self.energies(stage)
        return self._summed(self.potentials[isomer], stage)

    def _summed(self, learned: EnergyProvider, stage: str) -> EnergyProvider:
        """What was learned, on top of the baseline where there is one; each counted under its own name."""
        counted = self.counted(learned, stage)
        if self.baseline is None:
            return counted
        return LinearEnergy((1.0, self.counted(self.baseline, stage)), (1.0, counted))

    @cached_property
    def potentials(self) -> dict[int, KernelPotential]:
        """The learned potentials, frozen; corrections, where there is a baseline."""
        return frozen_potentials(self.built, self.adapted)

    def flow(self, isomer: int, tensors: Mapping[str, Tensor] | None = None) -> IsomerFlow:
        """The flow of an isomer: with what a checkpoint of the adaptation holds, or before any training."""
        frame, seed = self.minima[isomer].frame, self.seed("flow", isomer)
        flow = IsomerFlow(self.built.system, frame, self.workflow.flow, seed)
        if tensors is not None:
            flow.load_state_dict(under(f"{self.built.isomers[isomer].name}.flow.", tensors))
        return flow.requires_grad_(False)

    @cached_property
    def adapted(self) -> Checkpoint:
        """What the adaptation ended with."""
        saved = self.load(ADAPTATION)
        if saved is None:
            raise RuntimeError("the stage 'adaptation' has to run first")
        return saved

    @cached_property
    def flows(self) -> dict[int, IsomerFlow]:
        """The trained flows, frozen."""
        return {number: self.flow(number, self.adapted.tensors) for number in range(len(self.built.isomers))}

    def sweep(self, target: IsomerTarget, step: float, flows: LabelledFlows | None) -> Cycle:
        """Local moves, and where there are flows one global move; a palindrome, so that it is reversible."""
        chains = self.workflow.chains
        local = HamiltonianMonteCarlo(target, step, chains.leaps)
        if flows is None:
            return Cycle((local,) * chains.local_steps)
        before = (local,) * (chains.local_steps // 2)
        after = (local,) * (chains.local_steps - len(before))
        return Cycle((*before, ISIR(target, flows, chains.candidates), *after))

    def stream(self, stage: str, *keys: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed(stage, *keys))
