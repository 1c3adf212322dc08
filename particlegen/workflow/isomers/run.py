"""A run on isomers, opened."""

from functools import cached_property
from pathlib import Path
from typing import cast

from particlegen.energy.kernel_potential import KernelPotential
from particlegen.estimate import Estimate
from particlegen.io.checkpoint import Checkpoint, load_checkpoint
from particlegen.isomers import BuiltCluster, build_cluster
from particlegen.settings import InputError
from particlegen.system import ParticleSystem
from particlegen.workflow.isomers.adaptation import adaptation_finished
from particlegen.workflow.isomers.job import ADAPTATION, VIBRATIONS
from particlegen.workflow.isomers.production import AUDIT, audited
from particlegen.workflow.isomers.schema import IsomerWorkflow
from particlegen.workflow.isomers.surrogate import frozen_potentials
from particlegen.workflow.isomers.vibrations import units_of_vibrations
from particlegen.workflow.opened import Run, StageStatus, as_estimate

__all__ = ["IsomerRun"]


class IsomerRun(Run):
    """A run of `kind: isomers`; ensembles `production` (states of the chains) and `generated` (draws of the flows)."""

    ensemble = "production"

    @property
    def headline(self) -> tuple[tuple[str, str], ...]:
        """The differences of free energies, and what they rest on."""
        names = list(self.results["isomers"])
        rows = [
            (f"delta_free_energy.{key}", f"F({key.replace('-', ') - F(')})")
            for key in self.results["delta_free_energy"]
        ]
        for name in names:
            rows.append((f"isomers.{name}.acceptance", f"{name}: global moves accepted"))
            rows.append((f"isomers.{name}.r_hat", f"{name}: R-hat"))
        return tuple(rows)

    @cached_property
    def workflow(self) -> IsomerWorkflow:
        """The canonical workflow."""
        return cast(IsomerWorkflow, super().workflow)

    @cached_property
    def built(self) -> BuiltCluster:
        """System, thermodynamic state, isomers and basins."""
        return build_cluster(self.workflow.system, self.relative_to)

    @property
    def system(self) -> ParticleSystem:
        return self.built.system

    @property
    def elements(self) -> dict[str, str]:
        return dict(self.built.symbols)

    def free_energy(self) -> dict[str, Estimate]:
        """Differences F_b − F_a, all labelled copies included, and by other ways; then F of each isomer."""
        found: dict[str, Estimate] = {}
        for key, entry in self.results["delta_free_energy"].items():
            found[key] = as_estimate(entry)
            ways = [name for name, value in entry.items() if isinstance(value, dict) and name != "budget"]
            found |= {f"{key} {name}": as_estimate(entry[name]) for name in ways}
            found[f"{key} half_width"] = as_estimate(entry["budget"]["half_width"])
        return found | {name: as_estimate(entry["free_energy"]) for name, entry in self.results["isomers"].items()}

    def checkpoint(self, stage: str) -> Checkpoint | None:
        """The newest intact checkpoint of a stage; None when the stage has none."""
        return load_checkpoint(self.folder.checkpoints, stage)

    def potentials(self) -> dict[int, KernelPotential]:
        """The learned potentials that production ran on, by index of the isomer.

        Raises:
            InputError: the workflow learns none, or the run has not come so far.
        """
        saved = self.checkpoint(ADAPTATION)
        if self.workflow.learned is None or saved is None:
            raise InputError(f"{self.folder.path}: no learned potentials there; see particlegen status")
        return frozen_potentials(self.built, saved)

    def status(self) -> list[StageStatus]:
        isomers, settings = len(self.built.isomers), self.workflow
        sweeps = -(-settings.production.samples // settings.chains.count)
        states = float(sweeps * settings.chains.count * isomers)
        done = float(self.store.length("production"))
        finished = self.folder.results_file.is_file()
        units = float(settings.adaptation.rounds * isomers)
        adapted = self._counted("adaptation", units).done or 0.0
        settled = adaptation_finished(settings, self.checkpoint(ADAPTATION), self.built.isomers)
        corrected = float(isomers * (1 + settings.correction.decisions))
        vibrations = units_of_vibrations(settings, isomers)
        # The last part of production, the quenches, follows the last state.
        produced = finished or audited(self.checkpoint(AUDIT))
        return [
            self._counted("minima", float(isomers)),
            StageStatus("adaptation", _state(adapted, settled), adapted, units),
            StageStatus("production", _state(done, produced), done, states),
            *([] if settings.learned is None else [self._counted("correction", corrected)]),
            *([self._counted(VIBRATIONS, float(vibrations))] if vibrations else []),
            *self._observations(),
            StageStatus("estimates", _state(0.0, finished)),
            StageStatus("report", _state(0.0, self.folder.report_file.is_file())),
        ]

    def _observations(self) -> list[StageStatus]:
        """The stages between correction and estimates that the workflow asks for."""
        asked, isomers, settings = {}, len(self.built.isomers), self.workflow
        if settings.spectra is not None:
            asked["spectra"] = float(isomers * (1 + settings.spectra.configurations))
        if settings.check is not None:
            asked["check"] = float(isomers * settings.check.labels)
        found = [self._counted(stage, total) for stage, total in asked.items()]
        if not self.folder.results_file.is_file():
            return found
        # Where labels of the correction failed there are fewer states than were asked for.
        return [StageStatus(each.name, "done", each.done, each.total) for each in found]

    def _counted(self, stage: str, total: float) -> StageStatus:
        done = max((float(fields["done"]) for fields in self.folder.progress(stage)), default=0.0)
        return StageStatus(stage, _state(done, done >= total), done, total)

    def write_report(self) -> Path:
        from particlegen.workflow.isomers.report import write_report

        return write_report(self)


def _state(done: float, finished: bool):
    return "done" if finished else "running" if done else "waiting"
