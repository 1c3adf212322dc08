"""Which of the workflow's stated criteria a run missed."""

from collections.abc import Sequence
from typing import Any

from particlegen.estimate import ReweightedFreeEnergy
from particlegen.estimate.isomers import LEAST_ESS
from particlegen.workflow.isomers.job import IsomerJob
from particlegen.workflow.isomers.quantities import IsomerQuantities
from particlegen.workflow.opened import as_estimate

__all__ = ["missed_criteria"]


def _weights(key: str, limit: float | None, found: ReweightedFreeEnergy, whose: str) -> list[str]:
    """Whether a mean of weights can be trusted: by the tail of the weights, and by how many of them count."""
    if limit is None:
        return []
    missed = []
    if not found.pareto_k <= limit:
        missed.append(f"{key}: {found.pareto_k:.3g} of the weights of {whose}; {limit:g} was asked for")
    effective = found.ess_per_sample * found.samples
    if not effective >= LEAST_ESS:
        missed.append(
            f"{key}: {effective:.1f} effective samples among the weights of {whose}, too few to tell; at least "
            f"{LEAST_ESS:g} are needed"
        )
    return missed


def missed_criteria(
    job: IsomerJob, isomers: Sequence[IsomerQuantities], differences: dict[str, dict[str, Any]]
) -> list[str]:
    """Stated criteria that the run did not reach, as sentences."""
    stop, missed = job.workflow.stop, []
    for isomer in isomers:
        for key, value in isomer.r_hat.items():
            if stop.r_hat is not None and not value <= stop.r_hat:
                missed.append(f"stop.r_hat: {value:.4f} of {key}, isomer {isomer.name}; {stop.r_hat:g} was asked for")
        accepted = isomer.moved().value
        if stop.acceptance is not None and not accepted >= stop.acceptance:
            missed.append(
                f"stop.acceptance: {accepted:.3g} of the global moves, isomer {isomer.name}; {stop.acceptance:g} was "
                "asked for: train the flow for longer (flow.training.steps, adaptation.rounds)"
            )
        if isomer.correction is not None:
            missed += _weights(
                "stop.correction_pareto_k",
                stop.correction_pareto_k,
                isomer.correction.average,
                f"the correction, isomer {isomer.name}",
            )
            error = isomer.surrogate_errors["surrogate_rmse"].value
            if stop.surrogate_rmse is not None and not error <= stop.surrogate_rmse:
                missed.append(
                    f"stop.surrogate_rmse: {error:.4g}, isomer {isomer.name}; {stop.surrogate_rmse:g} was asked for: "
                    "more learned.rounds or learned.per_round"
                )
            if job.adapted.metadata[isomer.name].get("budget_ended"):
                missed.append(
                    f"energy.budget: it ended the learning of isomer {isomer.name} before its rounds were over"
                )
        missed += _weights("stop.pareto_k", stop.pareto_k, isomer.flow, f"the flow, isomer {isomer.name}")
        # The answer rests on BAR, so what is wrong with it counts whatever is asked for.
        missed += [f"isomer {isomer.name}: {text}" for text in isomer.bar.warnings]
    for name, found in differences.items():
        half = found["budget"]["half_width"]["value"]
        if stop.half_width is not None and not (half is not None and half <= stop.half_width):
            missed.append(f"stop.half_width: {half} {found['unit']} for {name}; {stop.half_width:g} was asked for")
        for way in ("flow", "mixture", "delayed_acceptance"):
            if stop.sigmas is None or way not in found or found["value"] is None:
                continue
            other = as_estimate(found[way])
            distance = as_estimate(found).distance(other.value, other.stderr)
            if not distance <= stop.sigmas:
                missed.append(
                    f"stop.sigmas: {name} by {way} is {distance:.1f} standard errors from BAR; {stop.sigmas:g} was "
                    "asked for"
                )
    return missed
