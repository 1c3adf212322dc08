"""Report stage: gathers a run's arrays for the HTML page."""

from pathlib import Path

import numpy as np

from particlegen.estimate import work_distributions
from particlegen.events import Event
from particlegen.io import atomic
from particlegen.io.checkpoint import load_checkpoint
from particlegen.report import IsomerReport, render_isomers
from particlegen.settings import InputError
from particlegen.units import energy_unit, length_unit
from particlegen.workflow.isomers.job import MINIMA, IsomerJob
from particlegen.workflow.isomers.run import IsomerRun
from particlegen.workflow.isomers.states import stored_states

__all__ = ["STAGE", "run_report", "write_report"]

STAGE = "report"


def run_report(job: IsomerJob) -> None:
    """Write `report.html`, once."""
    if job.folder.report_file.is_file():
        return
    job.emit(Event("started", STAGE, "plots and tables"))
    path = write_report(IsomerRun(job.folder.path))
    job.emit(Event("finished", STAGE, str(path)))


def write_report(run: IsomerRun) -> Path:
    """Write `report.html` from what the run folder holds and return its path.

    Raises:
        InputError: the run is not finished, or the checkpoint of its minima is gone.
    """
    results, system, beta = run.results, run.system, run.built.state.beta
    names = [isomer.name for isomer in run.built.isomers]
    saved = load_checkpoint(run.folder.checkpoints, MINIMA)
    if saved is None:
        raise InputError(f"{run.folder.checkpoints}: the isomers' minima are not there; run the workflow again")
    states = dict(zip(names, stored_states(run.store, len(names), run.workflow.chains.count), strict=True))
    data = IsomerReport(
        title=str(run.manifest.get("name", run.folder.path.name)),
        results=results,
        manifest=run.manifest,
        workflow_yaml=run.folder.workflow_file.read_text(encoding="utf-8"),
        kt=1.0 / beta,
        energy_unit=energy_unit(system.units),
        length_unit=length_unit(system.units),
        species=np.asarray(system.species),
        species_names=system.species_names,
        titles={isomer.name: isomer.title for isomer in run.built.isomers},
        structures={name: saved.tensors[f"{name}.structure"].numpy() for name in names},
        energies={name: own.energy for name, own in states.items()},
        drawn={name: (own.drawn_energy, own.log_weight) for name, own in states.items()},
        works={
            name: work_distributions(own.log_weight, -beta * own.energy - own.log_q) for name, own in states.items()
        },
    )
    atomic.write_text(run.folder.report_file, render_isomers(data))
    return run.folder.report_file
