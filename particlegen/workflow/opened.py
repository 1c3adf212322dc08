"""A run, opened: its answers, configurations and weights, for Python and for the command line."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from particlegen.estimate import Estimate, normalised_weights, resample
from particlegen.io.store import RunStore
from particlegen.machine import total_memory
from particlegen.settings import InputError
from particlegen.streams import numpy_stream
from particlegen.system import ParticleSystem
from particlegen.workflow.base import WorkflowBase
from particlegen.workflow.checked import checked_manifest, checked_results
from particlegen.workflow.folder import RunFolder
from particlegen.workflow.paths import check_inputs
from particlegen.workflow.schema import load_run

if TYPE_CHECKING:
    import ase
    import mdtraj

__all__ = ["Ensemble", "Run", "StageStatus", "as_estimate"]


Ensemble = Literal["reference", "generated", "production"]
BLOCK_BYTES = 2**20
"""Positions that an export holds at a time; as objects of ASE they take thirty times as much."""


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


class Run(ABC):
    """A run folder, finished or not; a kind of workflow adds what is its own.

    Args:
        path: the folder.

    Raises:
        InputError: no run there.
    """

    ensemble: ClassVar[Ensemble]
    """What is exported where nothing is said."""

    def __init__(self, path: str | Path):
        self.folder = RunFolder.open(path)
        self.manifest: dict[str, Any] = checked_manifest(
            self.folder.read_json(self.folder.manifest_file), self.folder.manifest_file
        )

    def __repr__(self) -> str:
        return f"Run({str(self.folder.path)!r})"

    @cached_property
    def workflow(self) -> WorkflowBase:
        """The canonical workflow."""
        return load_run(self.folder)

    @cached_property
    def relative_to(self) -> Path:
        """The folder that a user's own cards are cited from.

        Raises:
            InputError: a card that is cited by path is not what the run began with.
        """
        folder = Path(self.manifest["relative_to"])
        pinned = self.manifest.get("inputs", {})
        check_inputs(self.workflow.model_dump(mode="json"), folder, pinned, self.folder.path)
        return folder

    @property
    @abstractmethod
    def headline(self) -> tuple[tuple[str, str], ...]:
        """Keys of `results.json` that answer the question, and what they are called."""

    @property
    @abstractmethod
    def system(self) -> ParticleSystem:
        """What was sampled."""

    @property
    @abstractmethod
    def elements(self) -> dict[str, str]:
        """The chemical element that stands for each species in exported files."""

    @abstractmethod
    def free_energy(self) -> dict[str, Estimate]:
        """The free energies that the run answers, by name.

        Raises:
            InputError: the run is not finished, or its workflow does not ask for it.
        """

    @abstractmethod
    def status(self) -> list[StageStatus]:
        """How far each stage is."""

    @abstractmethod
    def write_report(self) -> Path:
        """Write `report.html` again from the run's files and return its path."""

    @property
    def results(self) -> dict[str, Any]:
        """The content of `results.json`. Raises InputError while the run is not finished."""
        return checked_results(self.folder.read_json(self.folder.results_file), self.folder.results_file)

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

    def positions(self, ensemble: Ensemble | None = None) -> np.ndarray:
        """Positions `(frame, N, d)` in the system's unit of length, float64."""
        return self.read(ensemble or self.ensemble, "position")

    def weights(self, ensemble: Ensemble | None = None) -> np.ndarray:
        """Normalised importance weights `(frame,)`; equal ones for an ensemble that was sampled as it is."""
        return normalised_weights(self._log_weights(ensemble or self.ensemble))

    def _log_weights(self, ensemble: Ensemble) -> np.ndarray:
        if "log_weight" in self.store.names(ensemble):
            return self.read(ensemble, "log_weight")
        return np.zeros(len(self.read(ensemble, "energy")))

    def resampled(self, ensemble: Ensemble, n: int) -> np.ndarray:
        """Indices `(n,)` of frames drawn by weight, systematically; the same for the same run and n."""
        stream = numpy_stream(self.workflow.seed, "resample", n)
        return resample(self._log_weights(ensemble), n, stream)

    def _selected(self, ensemble: Ensemble, resample: int | None) -> tuple[Iterator[np.ndarray], dict[str, np.ndarray]]:
        """Positions in blocks, and per-frame columns that travel with them."""
        columns = {"energy": self.read(ensemble, "energy")}
        if resample is not None:
            if 24 * resample * self.system.n_particles * self.system.dim > total_memory():
                raise InputError(
                    f"--resample: {resample} frames are more than this machine's memory holds; ask for fewer"
                )
            chosen = self.resampled(ensemble, resample)
            return self._blocks(ensemble, chosen), {"energy": columns["energy"][chosen]}
        if "log_weight" in self.store.names(ensemble):
            columns["weight"] = self.weights(ensemble)
        return self._blocks(ensemble, np.arange(len(columns["energy"]))), columns

    def _blocks(self, ensemble: Ensemble, chosen: np.ndarray) -> Iterator[np.ndarray]:
        """Positions of frames whose numbers rise, as many at a time as make BLOCK_BYTES."""
        size, first = max(1, BLOCK_BYTES // (8 * self.system.n_particles * self.system.dim)), 0
        for block in self.store.blocks(ensemble, "position", size):
            low, high = np.searchsorted(chosen, [first, first + len(block)])
            yield block[chosen[low:high] - first]
            first += len(block)

    def to_ase(self, ensemble: Ensemble | None = None, resample: int | None = None) -> "list[ase.Atoms]":
        """Configurations as ASE atoms, 1 σ as 1 Å, 2D systems at z = 0; `info` holds energy and weight.

        Args:
            ensemble: `reference`, `generated` or `production`; default what the run is about.
            resample: draw this many unweighted frames by their weights instead of returning all with weights.
        """
        blocks, columns = self._selected(ensemble or self.ensemble, resample)
        from particlegen.io import objects

        return objects.to_ase(self.system, np.concatenate(list(blocks)), columns, self.elements)

    def to_mdtraj(self, ensemble: Ensemble | None = None, resample: int | None = None) -> "mdtraj.Trajectory":
        """Configurations as an MDTraj trajectory, 1 σ as 0.1 nm; arguments as `to_ase`, weights from `weights`."""
        blocks, _ = self._selected(ensemble or self.ensemble, resample)
        from particlegen.io import objects

        return objects.to_mdtraj(self.system, np.concatenate(list(blocks)), self.elements)

    def export(
        self, output: str | Path, to: str, ensemble: Ensemble | None = None, resample: int | None = None
    ) -> list[str]:
        """Write configurations (`extxyz`, `traj`, `mdtraj-h5`, `dcd`, `xtc`), however many, in bounded memory.

        Returns:
            Sentences: which files, in which units and precision.

        Raises:
            InputError: the file exists, or the run has nothing to export yet.
        """
        blocks, columns = self._selected(ensemble or self.ensemble, resample)
        from particlegen.io import export as files

        return files.export(Path(output), to, self.system, blocks, columns, self.elements)


def as_estimate(entry: Any) -> Estimate:
    """A quantity of `results.json`; null is NaN.

    Raises:
        InputError: it is none.
    """
    try:
        value, stderr = (float("nan") if entry[key] is None else float(entry[key]) for key in ("value", "stderr"))
        return Estimate(value, stderr, entry["unit"], entry["method"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"results.json: {str(entry)[:80]!r} is no quantity; restore the file") from error
