"""Differences of the isomers' free energies, by every way there is, with their error budget."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from particlegen import estimate
from particlegen.estimate import ErrorBudget, Estimate
from particlegen.workflow.isomers.job import CORRECTION, IsomerJob
from particlegen.workflow.isomers.production import AUDIT, MIXTURE
from particlegen.workflow.isomers.quantities import IsomerQuantities, plus
from particlegen.workflow.spent import as_dicts

__all__ = ["free_energy_difference"]


def free_energy_difference(job: IsomerJob, isomers: Sequence[IsomerQuantities], b: int, a: int) -> dict[str, Any]:
    """F_b − F_a in the unit of energy, by every way there is, with its error budget."""
    first, second = isomers[a], isomers[b]
    ways = {"flow": estimate.difference(second.flow.estimate, first.flow.estimate)}
    mixture, audit = job.load(MIXTURE), job.load(AUDIT)
    if mixture is not None:
        labels, bias = mixture.tensors["labels"].numpy(), mixture.metadata["log_bias"]
        ways["mixture"] = estimate.label_populations(labels, len(isomers), bias).estimate(b, a)
    uncorrected = estimate.difference(second.bar.estimate, first.bar.estimate)
    shift = Estimate(0.0, 0.0, "kT", "none: the engine itself was sampled")
    corrections = [each.correction.estimate for each in (second, first) if each.correction is not None]
    if len(corrections) == 2:
        shift = estimate.difference(*corrections)
        # The other ways know the learned potential as well, so the same correction applies.
        ways = {name: plus(way, shift) for name, way in ways.items()} | {"uncorrected": uncorrected}
        if first.two_sided is not None and second.two_sided is not None:
            two = estimate.difference(second.two_sided.estimate, first.two_sided.estimate)
            ways["delayed_acceptance"] = plus(uncorrected, two)
    counts = np.zeros((0, 0), np.int64) if audit is None else audit.tensors["counts"].numpy()
    budget = ErrorBudget(
        statistical=estimate.error_of(uncorrected),
        surrogate=estimate.error_of(shift),
        basin=estimate.basin_term(counts, [each.bar.value for each in isomers], b, a, [each.name for each in isomers]),
        scf=_scf(job, (first.name, second.name)),
    ).scaled(first.kt, first.unit)
    main = plus(uncorrected, shift) if corrections else uncorrected
    scaled = {name: way.scaled(first.kt, first.unit) for name, way in ways.items()}
    main, copies = main.scaled(first.kt, first.unit), second.log_copies - first.log_copies
    per_copy = Estimate(
        main.value + first.kt * copies, main.stderr, main.unit, f"{main.method}; one labelled copy each"
    )
    harmonic = Estimate(second.harmonic().value - first.harmonic().value, 0.0, first.unit, "harmonic superposition")
    others = {"per_labelled_basin": per_copy, "harmonic": harmonic, **scaled}
    if job.built.system.units == "metal":
        value = main.value + second.quantum_correction() - first.quantum_correction()
        method = f"{main.method}; quantum correction of the harmonic vibrations, zero-point energy included"
        others["quantum"] = Estimate(value, main.stderr, main.unit, method)
    return main.as_dict() | as_dicts(others) | {"budget": budget.as_dict()}


def _scf(job: IsomerJob, names: Sequence[str]) -> Estimate:
    """Noise of the engine's energies, in kT: σ over orientations of the grid as an error of each label and, to second
    order, as a shift of the exponential average."""
    saved, beta = job.load(CORRECTION), job.built.state.beta
    scatter = [saved.metadata[name].get("scatter") for name in names] if saved else []
    if not scatter or None in scatter:
        return Estimate(0.0, 0.0, "kT", "none: the engine's energies are smooth to rounding")
    sigmas = [beta * float(value) for value in scatter]
    n = job.workflow.correction.labels
    size = math.sqrt(sum(sigma**2 / n + (sigma**2 / 2) ** 2 for sigma in sigmas))
    return Estimate(size, float("nan"), "kT", "scatter of the energy over orientations of the integration grid")
