"""What to do where a number is poor: thresholds and sentences, shared by the report and the command line."""

from collections.abc import Mapping
from typing import Any

from particlegen.report.isomer_advice import isomer_advice
from particlegen.report.quantities import Advice, distance, quantity

__all__ = ["advise"]


def advise(results: Mapping[str, Any]) -> list[Advice]:
    """A judgement of every diagnostic that `results.json` holds, the poor ones first."""
    found = [*_reference(results), *_weights(results), *_flow(results), *_agreement(results), *isomer_advice(results)]
    return sorted(found, key=lambda item: ("poor", "fair", "good").index(item.level))


def _reference(results: Mapping[str, Any]) -> list[Advice]:
    r_hat = quantity(results, "reference.r_hat")
    if r_hat is None:
        return []
    key = "reference.r_hat"
    if r_hat[0] < 1.01:
        return [Advice("good", key, "The reference chains agree with each other.")]
    text = (
        "The reference chains do not agree yet, so nothing that is compared with them is settled. Raise "
        "reference.equilibration_sweeps or reference.sweeps_between_frames, or use sampler: tempering."
    )
    return [Advice("poor" if r_hat[0] > 1.05 else "fair", key, text)]


def _weights(results: Mapping[str, Any]) -> list[Advice]:
    found = []
    ess, n = quantity(results, "generated.ess_per_sample"), quantity(results, "generated.n_samples")
    if ess is not None and n is not None:
        effective = ess[0] * n[0]
        said = f"{effective:,.0f} effective of {n[0]:,.0f} samples"
        key = "generated.ess_per_sample"
        if effective < 50:
            text = f"Only {said}: averages rest on a handful. Train longer (training.minutes) or generate more samples."
            found.append(Advice("poor", key, text))
        elif ess[0] < 0.05:
            text = f"{said}. Training longer helps more than sampling more; a warmer temperature is easier."
            found.append(Advice("fair", key, text))
        else:
            found.append(Advice("good", key, f"{said}."))
    if "pareto_k" in results.get("generated", {}):
        key = "generated.pareto_k"
        pareto = quantity(results, key)
        if pareto is None or pareto[0] >= 0.7:  # none: too few finite weights to fit a tail
            text = (
                "The largest weights dominate: reweighted averages and their error bars are not to be trusted. "
                "Train longer or widen the network; more samples alone do not cure it."
            )
            found.append(Advice("poor", key, text))
        elif pareto[0] >= 0.5:
            found.append(Advice("fair", key, "The variance of the weights may be infinite; error bars are optimistic."))
        else:
            found.append(Advice("good", key, "The tail of the weights is light."))
    return found


def _flow(results: Mapping[str, Any]) -> list[Advice]:
    found = []
    forward, ess = quantity(results, "generated.forward_ess"), quantity(results, "generated.ess_per_sample")
    if forward is not None and ess is not None:
        key = "generated.forward_ess"
        if forward[0] < 0.1 * ess[0]:
            text = (
                "Held-out reference frames are far less likely under the flow than its own samples suggest: modes are "
                "missing. Use more reference frames, and check that the reference itself is equilibrated."
            )
            found.append(Advice("poor", key, text))
        else:
            found.append(Advice("good", key, "Held-out reference frames are covered by the flow."))
    error = quantity(results, "generated.log_q_error")
    if error is not None:
        key = "generated.log_q_error"
        if error[0] > 0.1:
            text = "The solver's error reaches the weights: raise generation.steps, or use solver: dopri5."
            found.append(Advice("poor" if error[0] > 0.5 else "fair", key, text))
        else:
            found.append(Advice("good", key, "The solver's error is small beside the spread of the weights."))
    discard = quantity(results, "generated.discard_fraction")
    if discard is not None:
        key = "generated.discard_fraction"
        if discard[0] > 0.02:
            text = "Many raw samples have overlapping particles. Train longer, or raise network.width."
            found.append(Advice("poor" if discard[0] > 0.2 else "fair", key, text))
        else:
            found.append(Advice("good", key, "Almost all raw samples are physical."))
    return found


def _agreement(results: Mapping[str, Any]) -> list[Advice]:
    found = []
    for name, title in (("energy_per_particle", "energy"), ("heat_capacity_per_particle", "heat capacity")):
        key = f"reweighted.{name}"
        apart = distance(results, key, f"reference.{name}")
        if apart is None:
            continue
        text = f"The reweighted {title} lies {apart:.1f} standard errors from the reference."
        if apart > 3:
            more = " Look at the weights and at forward ESS; then double the reference and the training."
            found.append(Advice("poor", key, text + more))
        else:
            found.append(Advice("good", key, text))
    return found
