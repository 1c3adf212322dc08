"""The self-contained HTML page: numbers with error bars, figures, and what to do where a number is poor."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from particlegen.report import figures
from particlegen.report.advice import Advice, advise, quantity
from particlegen.report.style import PAGE_STYLE

__all__ = ["ReportData", "format_quantity", "render"]

ROWS = (
    ("reference.energy_per_particle", "Energy per particle, reference Monte Carlo"),
    ("reweighted.energy_per_particle", "Energy per particle, reweighted"),
    ("reference.heat_capacity_per_particle", "Heat capacity per particle, reference"),
    ("reweighted.heat_capacity_per_particle", "Heat capacity per particle, reweighted"),
    ("free_energy.excess", "Free energy, excess over the ideal gas"),
    ("free_energy.total", "Free energy, total"),
    ("generated.n_samples", "Generated samples"),
    ("generated.ess_per_sample", "Effective sample size per sample"),
    ("generated.forward_ess", "Forward ESS on held-out frames"),
    ("generated.pareto_k", "Pareto k of the weights"),
    ("generated.discard_fraction", "Discard fraction of raw samples"),
    ("generated.stuck", "Share of trajectories that the solver gave up"),
    ("generated.log_q_error", "Error of log q by the solver"),
    ("reference.r_hat", "R-hat of the reference chains"),
    ("reference.statistical_inefficiency", "Statistical inefficiency of the reference"),
)


@dataclass(frozen=True)
class ReportData:
    """What the page shows.

    Args:
        title: the run's name.
        results: content of `results.json`.
        manifest: content of `manifest.json`.
        workflow_yaml: the canonical workflow.
        lengths: box lengths.
        species: species index per particle.
        diameters: diameter per particle as drawn.
        reference_positions: a few reference frames `(frame, N, d)`.
        generated_positions: a few generated samples drawn by weight `(frame, N, d)`.
        reference_energy: `(frame,)`.
        generated_energy: `(sample,)`.
        log_weight: `(sample,)`, up to a constant.
        curve: `step`, `loss` and `validation_loss` of the training; empty when weights were pretrained.
        energy_unit: unit of the energies.
    """

    title: str
    results: Mapping[str, Any]
    manifest: Mapping[str, Any]
    workflow_yaml: str
    lengths: Sequence[float]
    species: np.ndarray
    diameters: np.ndarray
    reference_positions: np.ndarray
    generated_positions: np.ndarray
    reference_energy: np.ndarray
    generated_energy: np.ndarray
    log_weight: np.ndarray
    curve: Mapping[str, Sequence[float]] = field(default_factory=dict)
    energy_unit: str = "epsilon"


def format_quantity(value: float, stderr: float) -> str:
    """Value and error bar, rounded to two digits of the error.

    >>> format_quantity(0.333812, 0.00041)
    '0.33381 ± 0.00041'
    >>> format_quantity(2000.0, 0.0)
    '2,000'
    """
    if not math.isfinite(stderr) or stderr <= 0:
        return f"{value:,.0f}" if value == round(value) and abs(value) >= 1 else f"{value:.4g}"
    digits = 1 - math.floor(math.log10(stderr))
    if digits > 0:
        return f"{value:.{digits}f} ± {stderr:.{digits}f}"
    return f"{round(value, digits):.0f} ± {round(stderr, digits):.0f}"


def _subtitle(system: Mapping[str, Any]) -> str:
    """The system in one line."""
    parts = []
    for key, value in system.items():
        if isinstance(value, Mapping):
            value = " ".join(f"{name}{count}" for name, count in value.items())
        elif isinstance(value, list | tuple):
            value = " × ".join(f"{length:.5g}" for length in value)
        parts.append(str(value) if key == "name" else f"{key.replace('_', ' ')} {value}")
    return " · ".join(parts)


def _headline(data: ReportData) -> str:
    cards = []
    for key, label in (
        ("reweighted.energy_per_particle", "energy per particle"),
        ("free_energy.excess", "excess free energy"),
        ("generated.ess_per_sample", "ESS per sample"),
        ("generated.pareto_k", "Pareto k"),
    ):
        found = quantity(data.results, key)
        if found is None:
            continue
        unit = _at(data.results, key).get("unit", "")
        number, _, error = format_quantity(*found).partition(" ± ")
        small = f"± {error} {unit}" if error else unit
        cards.append(
            f'<div class="card"><span class="label">{escape(label)}</span><span class="big">{escape(number)}</span>'
            f'<span class="small">{escape(small)}&nbsp;</span></div>'
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _at(results: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    here: Any = results
    for part in key.split("."):
        here = here[part]
    return here


def _table(data: ReportData, judgements: Sequence[Advice]) -> str:
    levels = {item.key: item.level for item in judgements}
    rows = []
    for key, label in ROWS:
        found = quantity(data.results, key)
        if found is None:
            continue
        entry = _at(data.results, key)
        level = levels.get(key)
        mark = f'<span class="mark {level}">{level}</span>' if level else ""
        rows.append(
            f'<tr><td>{escape(label)}<br><code>{escape(key)}</code></td><td class="number">'
            f"{escape(format_quantity(*found))}</td><td>{escape(str(entry.get('unit', '')))}</td>"
            f"<td>{escape(str(entry.get('method', '')))}</td><td>{mark}</td></tr>"
        )
    head = "<tr><th>quantity</th><th>value ± standard error</th><th>unit</th><th>method</th><th></th></tr>"
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _advice(judgements: Sequence[Advice], reasons: Sequence[str]) -> str:
    items = [f'<li class="poor"><b>Not converged.</b> {escape(reason)}</li>' for reason in reasons]
    for item in judgements:
        items.append(
            f'<li class="{item.level}"><span class="mark {item.level}">{item.level}</span> '
            f"<code>{escape(item.key)}</code> {escape(item.text)}</li>"
        )
    return f'<ul class="advice">{"".join(items)}</ul>'


def _figure(figure: Any, alt: str, caption: str) -> str:
    return f"<figure>{figures.as_image(figure, alt)}<figcaption>{escape(caption)}</figcaption></figure>"


def _figures(data: ReportData) -> str:
    shown = {"reference": data.reference_positions, "generated, drawn by weight": data.generated_positions}
    shown = {title: frames for title, frames in shown.items() if len(frames)}
    n = len(data.species)
    parts = []
    if shown:
        drawn = figures.configurations(shown, data.lengths, data.species, data.diameters)
        caption = "Configurations in the periodic box, one colour per species."
        parts.append(_figure(drawn, "Configurations of reference and generated particles", caption))
    plots = []
    if len(data.generated_energy):
        plots.append(
            _figure(
                figures.energies(data.reference_energy, data.generated_energy, data.log_weight, n, data.energy_unit),
                "Histogram of energies",
                "Raw samples of the flow, the same reweighted to the Boltzmann law, and the reference.",
            )
        )
        caption = "Spread of the importance weights: the narrower, the better."
        plots.append(_figure(figures.weights(data.log_weight), "Histogram of log weights", caption))
        caption = "The closer to the diagonal, the more samples count."
        plots.append(_figure(figures.weight_share(data.log_weight), "Share of weight by sample", caption))
    if len(data.curve.get("step", ())) > 1:
        plots.append(_figure(figures.training_curve(data.curve), "Training curve", "Loss while the network trained."))
    parts.append(f'<div class="grid">{"".join(plots)}</div>')
    observables = data.results.get("observables", {})
    for name, x_name, x_label, y_label, caption in (
        ("rdf", "r", "r", "g(r)", "Partial radial distribution functions."),
        ("structure_factor", "q", "q", "S(q)", "Partial structure factors."),
    ):
        if name in observables:
            drawn = figures.pair_curves(observables[name], x_name, x_label, y_label)
            parts.append(_figure(drawn, caption.rstrip("."), caption))
    return "".join(parts)


def _shown(value: Any) -> str:
    return escape(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _details(data: ReportData) -> str:
    rows = "".join(
        f"<tr><td>{escape(str(key))}</td><td>{_shown(value)}</td></tr>"
        for key, value in data.manifest.items()
        if key != "citations"
    )
    citations = "".join(f"<li>{escape(str(text))}</li>" for text in data.manifest.get("citations", ()))
    return (
        "<details><summary>The workflow, with defaults filled in</summary>"
        f"<pre>{escape(data.workflow_yaml)}</pre></details>"
        f'<details><summary>Versions, seeds, hashes</summary><div class="scroll"><table>{rows}</table></div></details>'
        f"<details open><summary>Please cite</summary><ul>{citations}</ul></details>"
    )


def render(data: ReportData) -> str:
    """The report as one HTML document that needs no network: figures are inside, no scripts, every string escaped."""
    judgements = advise(data.results)
    reasons = [str(reason) for reason in data.results.get("status", {}).get("reasons", ())]
    subtitle = _subtitle(data.results.get("system", {}))
    verdict = "poor" if reasons or any(item.level == "poor" for item in judgements) else "good"
    said = "needs attention" if verdict == "poor" else "all diagnostics in order"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(data.title)} · particlegen</title>
<style>{PAGE_STYLE}</style>
</head>
<body>
<header>
<p class="brand">particlegen report</p>
<h1>{escape(data.title)} <span class="mark {verdict}">{said}</span></h1>
<p class="sub">{escape(subtitle)}</p>
</header>
<main>
{_headline(data)}
<section><h2>What to make of it</h2>{_advice(judgements, reasons)}</section>
<section><h2>Pictures</h2>{_figures(data)}</section>
<section><h2>Numbers</h2>{_table(data, judgements)}</section>
<section><h2>How it was made</h2>{_details(data)}</section>
</main>
</body>
</html>
"""
