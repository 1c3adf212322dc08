"""Curves for results and report: partial g(r) and S(q) of reference, raw and reweighted samples."""

from typing import Any

from particlegen.workflow.job import Job

__all__ = ["observable_curves"]


def observable_curves(job: Job) -> dict[str, Any]:
    return {}
