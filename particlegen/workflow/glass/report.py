"""Report stage: gathers a run's arrays for the HTML page."""

from pathlib import Path
from typing import Any

import numpy as np

from particlegen.events import Event
from particlegen.io import atomic
from particlegen.report import GlassReport, render_glass
from particlegen.units import energy_unit
from particlegen.workflow.glass.job import GlassJob
from particlegen.workflow.glass.run import GlassRun

__all__ = ["STAGE", "run_report", "write_report"]

STAGE = "report"
DRAWN = 5
"""Configurations drawn of each ensemble."""


def run_report(job: GlassJob) -> None:
    """Write `report.html`, once."""
    if job.folder.report_file.is_file():
        return
    job.emit(Event("started", STAGE, "plots and tables"))
    path = write_report(GlassRun(job.folder.path))
    job.emit(Event("finished", STAGE, str(path)))


def write_report(run: GlassRun) -> Path:
    """Write `report.html` from what the run folder holds and return its path."""
    system = run.built.system
    n = run.store.length("reference")
    frames = np.linspace(0, n - 1, min(DRAWN, n)).astype(int)
    drawn = run.resampled("generated", DRAWN)
    data = GlassReport(
        title=str(run.manifest.get("name", run.folder.path.name)),
        results=run.results,
        manifest=run.manifest,
        workflow_yaml=run.folder.workflow_file.read_text(encoding="utf-8"),
        lengths=system.torus.lengths,
        species=np.asarray(system.species),
        diameters=np.diagonal(run.built.potential.pair_sigma(system)),
        reference_positions=np.concatenate([run.store.read("reference", "position", i, i + 1) for i in frames]),
        generated_positions=np.concatenate([run.store.read("generated", "position", i, i + 1) for i in drawn]),
        reference_energy=run.read("reference", "energy"),
        generated_energy=run.read("generated", "energy"),
        log_weight=run.read("generated", "log_weight"),
        curve=_training_curve(run),
        energy_unit=energy_unit(system.units),
    )
    atomic.write_text(run.folder.report_file, render_glass(data))
    return run.folder.report_file


def _training_curve(run: GlassRun) -> dict[str, list[float]]:
    """Losses by step; where a resumed session repeated a step, its line counts."""
    by_step: dict[float, tuple[float, float]] = {}
    for fields in run.folder.progress("training"):
        by_step[fields["done"]] = (_number(fields.get("loss")), _number(fields.get("validation_loss")))
    steps = sorted(by_step)
    return {
        "step": steps,
        "loss": [by_step[step][0] for step in steps],
        "validation_loss": [by_step[step][1] for step in steps],
    }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
