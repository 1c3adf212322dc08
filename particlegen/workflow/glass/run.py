"""A glass run, opened."""

from functools import cached_property
from pathlib import Path
from typing import Literal, cast

from particlegen.energy import BuiltSystem, build_system
from particlegen.estimate import Estimate
from particlegen.io.checkpoint import load_weights
from particlegen.settings import InputError
from particlegen.system import ParticleSystem
from particlegen.workflow.glass.network_card import write_card
from particlegen.workflow.glass.schema import GlassWorkflow, PretrainedSettings
from particlegen.workflow.opened import Ensemble, Run, StageStatus, as_estimate

__all__ = ["GlassRun"]


HEADLINE = (
    ("reference.energy_per_particle", "energy per particle, reference"),
    ("reweighted.energy_per_particle", "energy per particle, reweighted"),
    ("reweighted.heat_capacity_per_particle", "heat capacity per particle, reweighted"),
    ("free_energy.excess", "free energy, excess"),
    ("free_energy.total", "free energy, total"),
    ("generated.n_samples", "generated samples"),
    ("generated.ess_per_sample", "effective sample size per sample"),
    ("generated.pareto_k", "Pareto k"),
)


class GlassRun(Run):
    """A run of `kind: glass`; ensembles `reference` and `generated`."""

    ensemble = "generated"

    @property
    def headline(self) -> tuple[tuple[str, str], ...]:
        return HEADLINE

    @cached_property
    def workflow(self) -> GlassWorkflow:
        """The canonical workflow."""
        return cast(GlassWorkflow, super().workflow)

    @cached_property
    def built(self) -> BuiltSystem:
        """System, thermodynamic state and potential."""
        return build_system(self.workflow.system, relative_to=self.relative_to)

    @property
    def system(self) -> ParticleSystem:
        return self.built.system

    @property
    def elements(self) -> dict[str, str]:
        return dict(self.built.card.data.get("elements", {}))

    def free_energy(self) -> dict[str, Estimate]:
        """`excess` and `total` free energy in kT; definitions in the docs.

        Raises:
            InputError: the run is not finished, or its workflow does not ask for it.
        """
        found = self.results.get("free_energy")
        if not found:
            raise InputError(f"{self.folder.path}: no free energy there; set estimates.free_energy: true in a new run")
        return {name: as_estimate(entry) for name, entry in found.items()}

    def export(
        self, output: str | Path, to: str, ensemble: Ensemble | None = None, resample: int | None = None
    ) -> list[str]:
        """As every run; `network` writes the trained network and its card."""
        if to != "network":
            return super().export(output, to, ensemble, resample)
        if not self.folder.weights_file.is_file():
            raise InputError(f"{self.folder.path}: no trained network there yet; see particlegen status")
        return write_card(Path(output), self.workflow, self.built, load_weights(self.folder.weights_file)[0])

    def status(self) -> list[StageStatus]:
        workflow, store = self.workflow, self.store
        found = []
        frames = float(store.length("reference"))
        total = float(workflow.reference.frames)
        found.append(_stage("reference", frames, total, frames >= total))
        trained = self.folder.weights_file.is_file()
        steps = list(self.folder.progress("training"))
        done, of = (steps[-1]["done"], steps[-1]["total"]) if steps else (None, None)
        if isinstance(workflow.training, PretrainedSettings):
            done, of = None, None
        found.append(_stage("training", done, of, trained))
        generated, samples = float(store.length("generated")), float(workflow.generation.samples)
        found.append(_stage("generation", generated, samples, generated >= samples))
        found.append(_stage("estimates", None, None, self.folder.results_file.is_file()))
        found.append(_stage("report", None, None, self.folder.report_file.is_file()))
        return found

    def write_report(self) -> Path:
        from particlegen.workflow.glass.report import write_report

        return write_report(self)


def _stage(name: str, done: float | None, total: float | None, finished: bool) -> StageStatus:
    state: Literal["waiting", "running", "done"] = "done" if finished else "running" if done else "waiting"
    return StageStatus(name, state, done, total)
