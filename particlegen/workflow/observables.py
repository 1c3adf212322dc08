"""Curves for results and report: partial g(r) and S(q) of reference, raw and reweighted samples."""

from typing import Any

import numpy as np

from particlegen import estimate
from particlegen.workflow.job import Job

__all__ = ["observable_curves"]

MOST_FRAMES = 2000
"""Frames of each ensemble that a curve is averaged over; more change nothing that can be seen."""


def observable_curves(job: Job) -> dict[str, Any]:
    return {}
