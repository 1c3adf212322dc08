"""The head of `results.json`, which every kind of workflow writes alike."""

from collections.abc import Sequence
from typing import Any

from particlegen.events import Event
from particlegen.workflow.job import Job
from particlegen.workflow.spent import spent

__all__ = ["results_head"]


def results_head(job: Job, stage: str, reasons: Sequence[str], **about: Any) -> dict[str, Any]:
    """Tell what was missed and that the stage is over; then kind, status, system and what was spent.

    The journal's line comes before what was spent is read, so that the seconds of this stage are part of it.

    Args:
        job: of the run.
        stage: that ends here.
        reasons: stated criteria that the run did not reach, as sentences.
        about: of the system, what only this kind of workflow says.
    """
    for reason in reasons:
        job.emit(Event("warning", stage, reason))
    job.emit(Event("finished", stage, "converged" if not reasons else "a stated criterion was missed"))
    system, state = job.built.system, job.built.state
    return {
        "kind": job.workflow.kind,
        "status": {"converged": not reasons, "reasons": list(reasons)},
        "system": {
            "name": system.name,
            "particles": system.n_particles,
            "composition": dict(zip(system.species_names, system.composition, strict=True)),
            "temperature": state.temperature,
            "units": system.units,
            **about,
        },
        "spent": spent(job),
    }
