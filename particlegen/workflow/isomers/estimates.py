"""Estimates stage: from stored arrays to `results.json`."""

import math
from typing import Any

from particlegen.events import Event
from particlegen.workflow.isomers.accounts import energy_calls, learning_summary
from particlegen.workflow.isomers.check import check_calls, checked_difference, checks
from particlegen.workflow.isomers.criteria import missed_criteria
from particlegen.workflow.isomers.differences import free_energy_difference
from particlegen.workflow.isomers.job import IsomerJob
from particlegen.workflow.isomers.observables import observable_curves
from particlegen.workflow.isomers.production import CHAINS, DRAWS
from particlegen.workflow.isomers.quantities import IsomerQuantities
from particlegen.workflow.isomers.spectra import excitation_calls, spectra
from particlegen.workflow.isomers.states import stored_states
from particlegen.workflow.isomers.vibrations import vibrational_densities
from particlegen.workflow.results import results_head
from particlegen.workflow.spent import with_calls

__all__ = ["STAGE", "run_estimates"]

STAGE = "estimates"


def run_estimates(job: IsomerJob) -> None:
    """Write `results.json`, once, and consolidate the segments into `data.h5`."""
    if job.folder.results_file.is_file():
        return
    job.emit(Event("started", STAGE, "free energies, error budget, observables"))
    for ensemble in (CHAINS, DRAWS):
        job.store.consolidate(ensemble, job.built.system)
    names = [isomer.name for isomer in job.built.isomers]
    states = stored_states(job.store, len(names), job.workflow.chains.count)
    isomers = [IsomerQuantities(job, number, mine) for number, mine in enumerate(states)]
    differences = {f"{names[b]}-{names[0]}": free_energy_difference(job, isomers, b, 0) for b in range(1, len(names))}
    for b, found in enumerate(differences.values(), start=1):
        if (checked := checked_difference(job, found, b, 0)) is not None:
            found["check"] = checked.as_dict()
    observables = observable_curves(names, states, [isomer.labelled for isomer in isomers])
    results = results_head(job, STAGE, missed_criteria(job, isomers, differences), engine=job.provider.name)
    results |= {
        "isomers": {isomer.name: isomer.as_dict() for isomer in isomers},
        "delta_free_energy": differences,
        "energy_calls": with_calls(energy_calls(job), check_calls(job) | excitation_calls(job)),
        "observables": observables,
        "rounds": {name: [_finite(entry) for entry in job.adapted.metadata[name]["history"]] for name in names},
    }
    if job.origin:
        results["start_from"] = dict(job.origin)
    if job.workflow.learned is not None:
        results["learned"] = learning_summary(job)
    asked = {"vibrations": vibrational_densities(job), "spectra": spectra(job), "check": checks(job)}
    results |= {key: found for key, found in asked.items() if found}
    job.folder.write_json(job.folder.results_file, results)


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN: it becomes null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry.items()
    }
