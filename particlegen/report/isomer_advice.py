"""What to do where a number of a run on isomers is poor."""

from collections.abc import Mapping
from typing import Any

from particlegen.report.quantities import Advice, distance, quantity

__all__ = ["isomer_advice"]

REMEDIES = {
    "statistical": "raise production.samples and production.draws",
    "surrogate": "raise learned.rounds or learned.per_round, or correction.labels",
    "basin": "raise production.quenches; if quenches do end elsewhere, lower the temperature",
    "scf": "converge the engine more tightly",
}
"""What makes a part of an error budget smaller."""


def isomer_advice(results: Mapping[str, Any]) -> list[Advice]:
    """A judgement of every diagnostic of the isomers and of their differences; empty for other kinds of workflow."""
    found: list[Advice] = []
    for name in results.get("isomers", {}):
        prefix = f"isomers.{name}"
        found += [*_chains(results, prefix), *_moves(results, prefix), *_weights(results, prefix)]
    for name in results.get("delta_free_energy", {}):
        found += [*_budget(results, name), *_agreement(results, name)]
    return found


def _chains(results: Mapping[str, Any], prefix: str) -> list[Advice]:
    key = f"{prefix}.r_hat"
    r_hat = quantity(results, key)
    if r_hat is None:
        return []
    if r_hat[0] < 1.01:
        return [Advice("good", key, "The chains agree with each other.")]
    text = (
        "The chains do not agree yet, so neither their averages nor BAR are settled. Raise adaptation.rounds first: "
        "global moves mix what local ones do not; then production.samples."
    )
    return [Advice("poor" if r_hat[0] > 1.05 else "fair", key, text)]


def _moves(results: Mapping[str, Any], prefix: str) -> list[Advice]:
    found = []
    key = f"{prefix}.acceptance"
    accepted = quantity(results, key)
    if accepted is not None:
        if accepted[0] >= 0.1:
            found.append(Advice("good", key, "Global moves by the flow are accepted often."))
        else:
            text = "Few global moves are accepted: train the flow for longer (flow.training.steps, adaptation.rounds)."
            found.append(Advice("poor" if accepted[0] < 0.02 else "fair", key, text))
    key = f"{prefix}.acceptance_local"
    accepted = quantity(results, key)
    if accepted is not None and accepted[0] < 0.3:
        text = "Few local moves are accepted: lower chains.leaps, or raise chains.warm_up so that the step is tuned."
        found.append(Advice("poor" if accepted[0] < 0.05 else "fair", key, text))
    key = f"{prefix}.left_basin"
    left = quantity(results, key)
    if left is not None and left[0] > 0.1:
        text = (
            "Many local moves end outside the isomer's basin: at this temperature it is hardly an isomer, and its free "
            "energy depends on where the basin is said to end. Lower system.temperature."
        )
        found.append(Advice("poor" if left[0] > 0.3 else "fair", key, text))
    return found


def _weights(results: Mapping[str, Any], prefix: str) -> list[Advice]:
    found = []
    key = f"{prefix}.overlap"
    overlap = quantity(results, key)
    if overlap is not None:
        if overlap[0] < 0.1:
            text = "Draws of the flow and states of the chains share little work: BAR rests on few. Train longer."
            found.append(Advice("poor" if overlap[0] < 0.03 else "fair", key, text))
        else:
            found.append(Advice("good", key, "Flow and chains overlap: BAR is safe."))
    key = f"{prefix}.ess_per_sample"
    ess = quantity(results, key)
    if ess is not None:
        if ess[0] < 0.05:
            text = "The flow hits the isomer rarely: train it for longer, or take more layers (flow.layers)."
            found.append(Advice("poor" if ess[0] < 0.005 else "fair", key, text))
        else:
            found.append(Advice("good", key, "Enough draws of the flow count."))
    key = f"{prefix}.pareto_k"
    if "pareto_k" in _isomer(results, prefix):
        pareto = quantity(results, key)
        if pareto is None or pareto[0] > 0.7:  # none: too few finite weights to fit a tail
            text = (
                "The largest weights dominate: the free energy by weights alone is not to be trusted, and no larger "
                "number of draws cures it. Train the flow for longer. BAR stands as long as the overlap is good."
            )
            found.append(Advice("poor", key, text))
        elif pareto[0] > 0.5:
            text = "The variance of the weights may be infinite: the error bar of the weights alone is optimistic."
            found.append(Advice("fair", key, text))
        else:
            found.append(Advice("good", key, "The tail of the weights is light."))
    return found


def _isomer(results: Mapping[str, Any], prefix: str) -> Mapping[str, Any]:
    return results["isomers"][prefix.removeprefix("isomers.")]


def _budget(results: Mapping[str, Any], name: str) -> list[Advice]:
    """Whether the sign is known, and which part of the error to work on."""
    prefix = f"delta_free_energy.{name}"
    key = f"{prefix}.budget.half_width"
    value, half = quantity(results, prefix), quantity(results, key)
    if value is None or half is None:
        return []
    sizes = {part: found[0] for part in REMEDIES if (found := quantity(results, f"{prefix}.budget.{part}"))}
    largest = max(sizes, key=lambda part: sizes[part], default=None)
    remedy = f"The largest part of the error is {largest!r}: {REMEDIES[largest]}." if largest else ""
    if half[0] >= abs(value[0]):
        text = f"The interval holds 0: which isomer is the more stable is not known. {remedy}"
        return [Advice("fair", key, text)]
    return [Advice("good", key, f"The sign of the difference is known. {remedy}")]


def _agreement(results: Mapping[str, Any], name: str) -> list[Advice]:
    found, prefix = [], f"delta_free_energy.{name}"
    for way, title in (("flow", "weights of the flows"), ("mixture", "chains that move between isomers")):
        key = f"{prefix}.{way}"
        apart = distance(results, prefix, key)
        if apart is None:
            continue
        text = f"The difference by {title} lies {apart:.1f} standard errors from BAR."
        if apart > 3:
            more = " They answer the same question: look at R-hat, overlap and Pareto k of both isomers."
            found.append(Advice("poor", key, text + more))
        else:
            found.append(Advice("good", key, text))
    return found
