"""Curves for results and report: partial g(r) and S(q) of reference, raw and reweighted samples."""

import itertools
from typing import Any

import numpy as np

from particlegen.estimate import Curve, rdf, structure_factor
from particlegen.workflow.glass.job import GlassJob

__all__ = ["observable_curves"]

REFERENCE_FRAMES, SAMPLES = 2_000, 10_000
"""Most frames of each ensemble that a curve is averaged over; more would not show."""

BINS = 50

KINDS = {"rdf": (rdf, "r"), "structure_factor": (structure_factor, "q")}
"""Observable → (function of `estimate`, name of its abscissa)."""


def observable_curves(job: GlassJob) -> dict[str, Any]:
    """`{"rdf": {"r": [...], "partials": {"A-A": {"reference": [...], "reference_stderr": [...], ...}}}}`."""
    asked = [name for name in job.workflow.estimates.observables if name in KINDS]
    if not asked:
        return {}
    ensembles = _ensembles(job)
    system = job.built.system
    present = [index for index, count in enumerate(system.composition) if count]
    found: dict[str, Any] = {}
    for name in asked:
        curve_of, axis = KINDS[name]
        block: dict[str, Any] = {"partials": {}}
        for pair in itertools.combinations_with_replacement(present, 2):
            if pair[0] == pair[1] and system.composition[pair[0]] < 2:
                continue
            curves: dict[str, list[float | None]] = {}
            for ensemble, (positions, log_w) in ensembles.items():
                curve: Curve = curve_of(positions, system.torus.lengths, system.species, pair, log_w, BINS)
                block[axis] = _plain(curve.x)
                curves[ensemble], curves[f"{ensemble}_stderr"] = _plain(curve.value), _plain(curve.stderr)
            block["partials"]["-".join(system.species_names[s] for s in pair)] = curves
        if block["partials"]:
            found[name] = block
    return found


def _ensembles(job: GlassJob) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Positions and log weights by ensemble; reference frames spread over the whole run, samples from the start."""
    n = job.store.length("reference")
    reference = job.store.read("reference", "position")[:: max(1, n // REFERENCE_FRAMES)]
    samples = job.store.read("generated", "position", 0, SAMPLES)
    log_w = job.store.read("generated", "log_weight", 0, SAMPLES)
    whole = np.isfinite(samples).all(axis=(1, 2))
    samples, log_w = samples[whole], log_w[whole]
    return {"reference": (reference, None), "raw": (samples, None), "reweighted": (samples, log_w)}


def _plain(values: np.ndarray) -> list[float | None]:
    """A JSON list: JSON knows no NaN."""
    return [float(value) if np.isfinite(value) else None for value in values]
