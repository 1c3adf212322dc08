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
from particlegen.workflow.isomers.production import CHAINS, DRAWS
from particlegen.workflow.isomers.run import IsomerRun

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
    owner, chain = run.read(CHAINS, "isomer"), run.read(CHAINS, "chain")
    energy, log_q = run.read(CHAINS, "energy"), run.read(CHAINS, "log_q")
    drawn_by, drawn_energy = run.read(DRAWS, "isomer"), run.read(DRAWS, "energy")
    log_weight = run.read(DRAWS, "log_weight")
    energies, drawn, works = {}, {}, {}
    for number, name in enumerate(names):
        # Blocks are stored one after the other, each by chain; a stable sort gives each chain in the order of time.
        rows = np.flatnonzero(owner == number)
        rows = rows[np.argsort(chain[rows], kind="stable")].reshape(run.workflow.chains.count, -1)
        mine = drawn_by == number
        energies[name], drawn[name] = energy[rows], (drawn_energy[mine], log_weight[mine])
        works[name] = work_distributions(log_weight[mine], -beta * energy[rows] - log_q[rows])
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
        energies=energies,
        drawn=drawn,
        works=works,
    )
    atomic.write_text(run.folder.report_file, render_isomers(data))
    return run.folder.report_file
