"""A run, opened: its answers, configurations and weights, for Python and for the command line."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from particlegen.energy import BuiltSystem, build_system
from particlegen.estimate import Estimate, normalised_weights, resample
from particlegen.io.checkpoint import load_weights
from particlegen.io.store import RunStore
from particlegen.settings import InputError
from particlegen.streams import numpy_stream
from particlegen.workflow.folder import RunFolder
from particlegen.workflow.network_card import write_card
from particlegen.workflow.schema import PretrainedSettings, Workflow, load_workflow

if TYPE_CHECKING:
    import ase
    import mdtraj

__all__ = ["Ensemble", "Run", "StageStatus", "open_run"]

Ensemble = Literal["reference", "generated", "production"]


@dataclass(frozen=True)
class StageStatus:
    """How far one stage is.

    Args:
        name: the stage.
        state: `waiting`, `running` (begun, not finished) or `done`.
        done, total: in the stage's own unit (frames, steps, samples); None where it has none.
    """

    name: str
    state: Literal["waiting", "running", "done"]
    done: float | None = None
    total: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"stage": self.name, "state": self.state, "done": self.done, "total": self.total}


class Run:
    """A run folder, finished or not.

    Args:
        path: the folder.

    Raises:
        InputError: no run there.
    """

    def __init__(self, path: str | Path):
        self.folder = RunFolder.open(path)
        self.manifest: dict[str, Any] = self.folder.read_json(self.folder.manifest_file)

    def __repr__(self) -> str:
        return f"Run({str(self.folder.path)!r})"

    @cached_property
    def workflow(self) -> Workflow:
        """The canonical workflow."""
        return load_workflow(self.folder.workflow_file)[0]

    @property
    def relative_to(self) -> Path:
        """The folder that a user's own cards are cited from."""
        return Path(self.manifest["relative_to"])

    @cached_property
    def built(self) -> BuiltSystem:
        """System, thermodynamic state and potential."""
        return build_system(self.workflow.system, relative_to=self.relative_to)

    @property
    def results(self) -> dict[str, Any]:
        """The content of `results.json`. Raises InputError while the run is not finished."""
        return self.folder.read_json(self.folder.results_file)

    @property
    def converged(self) -> bool:
        """Whether every stated convergence criterion was met."""
        return bool(self.results["status"]["converged"])

    @property
    def reasons(self) -> list[str]:
        """Which criteria were missed."""
        return list(self.results["status"]["reasons"])

    @property
    def citations(self) -> list[str]:
        """What to cite for what this run used."""
        return list(self.manifest["citations"])

    @property
    def store(self) -> RunStore:
        return self.folder.store

    def read(self, ensemble: Ensemble, name: str) -> np.ndarray:
        """A stored array: `position` `(frame, N, d)`, `energy`, `chain`, `log_q`, `log_q_error`, `log_weight`.

        Raises:
            InputError: the run has no such ensemble or array yet.
        """
        if self.store.length(ensemble) == 0:
            raise InputError(f"{self.folder.path}: no {ensemble} configurations there; see particlegen status")
        return self.store.read(ensemble, name)

    def positions(self, ensemble: Ensemble = "generated") -> np.ndarray:
        """Positions `(frame, N, d)` in the system's unit of length, float64."""
        return self.read(ensemble, "position")

    def weights(self, ensemble: Ensemble = "generated") -> np.ndarray:
        """Normalised importance weights `(frame,)`; equal ones for the reference."""
        if ensemble == "reference":
            n = self.store.length(ensemble)
            return np.full(n, 1.0 / n)
        return normalised_weights(self.read(ensemble, "log_weight"))

    def resampled(self, ensemble: Ensemble, n: int) -> np.ndarray:
        """Indices `(n,)` of frames drawn by weight, systematically; the same for the same run and n."""
        log_weight = np.log(self.weights(ensemble)) if ensemble == "reference" else self.read(ensemble, "log_weight")
        return resample(log_weight, n, numpy_stream(self.workflow.seed, "resample", n))

    def free_energy(self) -> dict[str, Estimate]:
        """`excess` and `total` free energy in kT; definitions in the docs.

        Raises:
            InputError: the run is not finished, or its workflow does not ask for it.
        """
        found = self.results.get("free_energy")
        if not found:
            raise InputError(f"{self.folder.path}: no free energy there; set estimates.free_energy: true in a new run")
        return {name: _estimate(entry) for name, entry in found.items()}

    def _selected(self, ensemble: Ensemble, resample: int | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Positions, and per-frame columns that travel with them."""
        positions, columns = self.positions(ensemble), {"energy": self.read(ensemble, "energy")}
        if ensemble != "reference":
            columns["weight"] = self.weights(ensemble)
        if resample is None:
            return positions, columns
        chosen = self.resampled(ensemble, resample)
        return positions[chosen], {"energy": columns["energy"][chosen]}

    def to_ase(self, ensemble: Ensemble = "generated", resample: int | None = None) -> "list[ase.Atoms]":
        """Configurations as ASE atoms, 1 σ as 1 Å, 2D systems at z = 0; `info` holds energy and weight.

        Args:
            ensemble: `reference` or `generated`.
            resample: draw this many unweighted frames by their weights instead of returning all with weights.
        """
        positions, columns = self._selected(ensemble, resample)
        from particlegen.io import export as formats

        return formats.to_ase(self.built.system, positions, columns, self.elements)

    def to_mdtraj(self, ensemble: Ensemble = "generated", resample: int | None = None) -> "mdtraj.Trajectory":
        """Configurations as an MDTraj trajectory, 1 σ as 0.1 nm; arguments as `to_ase`, weights from `weights`."""
        positions, _ = self._selected(ensemble, resample)
        from particlegen.io import export as formats

        return formats.to_mdtraj(self.built.system, positions, self.elements)

    @property
    def elements(self) -> dict[str, str]:
        """The chemical element that stands for each species in exported files."""
        return dict(self.built.card.data.get("elements", {}))

    def export(
        self, output: str | Path, to: str, ensemble: Ensemble = "generated", resample: int | None = None
    ) -> list[str]:
        """Write configurations (`extxyz`, `traj`, `mdtraj-h5`, `dcd`, `xtc`) or the trained network (`network`).

        Returns:
            Sentences: which files, in which units and precision.

        Raises:
            InputError: the file exists, or the run has nothing to export yet.
        """
        output = Path(output)
        if to == "network":
            if not self.folder.weights_file.is_file():
                raise InputError(f"{self.folder.path}: no trained network there yet; see particlegen status")
            return write_card(output, self.workflow, self.built, load_weights(self.folder.weights_file)[0])
        positions, columns = self._selected(ensemble, resample)
        from particlegen.io import export as formats

        return formats.export(output, to, self.built.system, positions, columns, self.elements)

    def status(self) -> list[StageStatus]:
        """How far each stage is."""
        workflow, store = self.workflow, self.store
        found = []
        frames = float(store.length("reference"))
        total = float(workflow.reference.frames)
        found.append(_stage("reference", frames, total, frames >= total))
        trained = self.folder.weights_file.is_file()
        steps = [entry["fields"] for entry in self.folder.events() if _is_progress(entry, "training")]
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
        """Write `report.html` again from the run's files and return its path."""
        from particlegen.workflow.stage_report import write_report

        return write_report(self)


def _estimate(entry: dict[str, Any]) -> Estimate:
    value, stderr = (float("nan") if entry[key] is None else float(entry[key]) for key in ("value", "stderr"))
    return Estimate(value, stderr, entry["unit"], entry["method"])


def _stage(name: str, done: float | None, total: float | None, finished: bool) -> StageStatus:
    state: Literal["waiting", "running", "done"] = "done" if finished else "running" if done else "waiting"
    return StageStatus(name, state, done, total)


def _is_progress(entry: dict[str, Any], stage: str) -> bool:
    return entry.get("kind") == "progress" and entry.get("stage") == stage and "done" in entry.get("fields", {})


def open_run(path: str | Path) -> Run:
    """An existing run. Raises InputError if there is none."""
    return Run(path)
