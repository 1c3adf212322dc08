"""The page of isomers: differences of free energies, what they may be wrong by, and why to believe them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from particlegen.estimate import Curve
from particlegen.report import isomer_figures as figures
from particlegen.report.advice import advise
from particlegen.report.page import card, card_row, document, figure_block, grid, mark, table
from particlegen.report.quantities import entry_of, format_quantity, quantity

__all__ = ["IsomerReport", "render_isomers"]

WAYS = (
    ("", "BAR of flow and chains"),
    ("flow", "weights of the flows"),
    ("mixture", "chains that move between isomers"),
    ("per_labelled_basin", "BAR, one labelled copy of each"),
    ("harmonic", "harmonic superposition"),
    ("check", "another engine, no part of the answer"),
    ("quantum", "BAR with the harmonic quantum correction"),
)

PARTS = (
    ("statistical", "sampling"),
    ("surrogate", "correction from the learned potential to the engine"),
    ("basin", "where an isomer ends"),
    ("scf", "numerical noise of the engine"),
)

ROWS = (
    ("free_energy", "Free energy by BAR"),
    ("free_energy_flow", "Free energy by weights of the flow"),
    ("free_energy_harmonic", "Free energy, harmonic"),
    ("energy_minimum", "Energy of the minimum"),
    ("zero_point_energy", "Zero-point energy, harmonic"),
    ("copies", "Labelled copies"),
    ("acceptance", "Global moves that move a chain"),
    ("acceptance_local", "Local moves accepted"),
    ("left_basin", "Local moves that left the basin"),
    ("r_hat", "R-hat, the largest"),
    ("ess_per_sample", "Effective sample size per draw"),
    ("pareto_k", "Pareto k of the weights"),
    ("overlap", "Overlap of flow and chains"),
    ("mean_energy", "Mean energy"),
    ("mean_gyration_radius", "Mean gyration radius"),
    ("mean_coordination", "Mean coordination"),
)


QUALITY = (
    ("resolution", "Width of a sharp line"),
    ("energy_drift", "Change of the energy along a trajectory"),
    ("left_basin", "Trajectories sent back at the basin's border"),
    ("reversals", "How often each"),
)


@dataclass(frozen=True)
class IsomerReport:
    """What the page of isomers shows.

    Args:
        title: the run's name.
        results: content of `results.json`. Where it holds `rounds` (free energies by round), `learned` (errors by
            round, parity), `vibrations` (by isomer: `frequency`, `density`, `stderr`, `harmonic`), `spectra` (by
            isomer: `energies`, `mean`, `stderr`, `zero_kelvin`) or `check` (by isomer, the shift to another engine),
            they get a section.
        manifest: content of `manifest.json`.
        workflow_yaml: the canonical workflow.
        kt: k_B T in the unit of energy.
        energy_unit, length_unit: for axes.
        species: species index per particle.
        species_names: by index.
        titles: what each isomer is, by name.
        structures: minimum `(N, 3)` of each isomer, by name.
        energies: of the chains, `(chain, step)`, by name.
        drawn: energies and log weights of the flow's draws, each `(draw,)`, by name.
        works: densities of the work over draws and over chain states, in kT, by name.
    """

    title: str
    results: Mapping[str, Any]
    manifest: Mapping[str, Any]
    workflow_yaml: str
    kt: float
    energy_unit: str
    length_unit: str
    species: np.ndarray
    species_names: Sequence[str]
    titles: Mapping[str, str]
    structures: Mapping[str, np.ndarray]
    energies: Mapping[str, np.ndarray]
    drawn: Mapping[str, tuple[np.ndarray, np.ndarray]]
    works: Mapping[str, tuple[Curve, Curve]]


def render_isomers(data: IsomerReport) -> str:
    """The report as one HTML document that needs no network."""
    levels = {item.key: item.level for item in advise(data.results)}
    sections = [
        ("The isomers", _structures(data)),
        ("Differences of free energies", _differences(data.results, levels)),
        ("What they may be wrong by", _budgets(data.results)),
        ("Isomer by isomer", _isomers(data.results, levels)),
        ("Why to believe it", _evidence(data)),
        ("What they look like in motion", _observables(data)),
    ]
    if "vibrations" in data.results:
        sections.append(("Vibrations", _vibrations(data.results["vibrations"])))
    if "rounds" in data.results:
        sections.append(("How it settled", _rounds(data)))
    if "spectra" in data.results:
        sections.append(("Spectra", _spectra(data.results["spectra"])))
    if "check" in data.results:
        sections.append(("What another engine says", _checks(data.results["check"])))
    return document(data.title, data.results, data.manifest, data.workflow_yaml, _headline(data), sections)


def _pair(name: str) -> str:
    """`b-a` as F(b) − F(a)."""
    b, _, a = name.partition("-")
    return f"F({b}) − F({a})"


def _headline(data: IsomerReport) -> str:
    cards = []
    for name, found in data.results.get("delta_free_energy", {}).items():
        if found["value"] is None:
            continue
        half = found["budget"]["half_width"]["value"]
        interval = dict(found) | {"stderr": half}
        cards.append(card(_pair(name), interval, f"(95 %) = {found['value'] / data.kt:.3g} kT"))
    for name in data.results.get("isomers", {}):
        accepted = entry_of(data.results, f"isomers.{name}.acceptance")
        if accepted is not None:
            cards.append(card(f"{name}: global moves accepted", accepted))
    return card_row(cards)


def _structures(data: IsomerReport) -> str:
    blocks = []
    for name, x in data.structures.items():
        found = data.results.get("isomers", {}).get(name, {})
        group, copies = found.get("point_group", ""), quantity(found, "copies")
        known = f"{group}, {copies[0]:,.0f} labelled copies" if copies else group
        title = data.titles.get(name, "")
        caption = f"{name}{f' ({title})' if title else ''}. Found: {known}. Two views, a quarter turn apart."
        blocks.append(figure_block(figures.structure(x, data.species, data.species_names), name, caption))
    return grid(blocks)


def _differences(results: Mapping[str, Any], levels: Mapping[str, str]) -> str:
    rows = []
    for name, found in results.get("delta_free_energy", {}).items():
        main = quantity(results, f"delta_free_energy.{name}")
        for way, title in WAYS:
            key = f"delta_free_energy.{name}.{way}".rstrip(".")
            entry, value = entry_of(results, key), quantity(results, key)
            if entry is None or value is None:
                continue
            away = _distance(value, main) if way in ("flow", "mixture") else ""
            shown = (
                _pair(name),
                title,
                format_quantity(*value),
                str(found["unit"]),
                away,
                str(entry.get("method", "")),
            )
            rows.append((*map(escape, shown), mark(levels.get(key))))
    head = ("difference", "by", "value ± standard error", "unit", "σ from BAR", "method", "")
    note = (
        "<p>All labelled copies of an isomer count, except where one copy of each is said. The harmonic value is no "
        "estimate of the others: its distance from them is the anharmonicity. All but the line with the quantum "
        "correction, where there is one, are of classical nuclei.</p>"
    )
    return table(head, rows, numbers=(2, 4)) + note


def _distance(value: tuple[float, float], main: tuple[float, float] | None) -> str:
    sigma = math.hypot(value[1], main[1]) if main else 0.0
    return f"{abs(value[0] - main[0]) / sigma:.1f}" if main and sigma > 0 else ""


def _budgets(results: Mapping[str, Any]) -> str:
    rows, bars = [], []
    for name, found in results.get("delta_free_energy", {}).items():
        unit, parts = str(found["unit"]), {}
        for part, title in (*PARTS, ("half_width", "half-width of the 95 % interval")):
            entry = entry_of(found["budget"], part)
            if entry is None:
                shown = (_pair(name), title, "not known", unit, "")
            else:
                parts[part] = float(entry["value"])
                shown = (_pair(name), title, f"{parts[part]:.2g}", unit, str(entry.get("method", "")))
            rows.append(tuple(map(escape, shown)))
        half = parts.pop("half_width", None)
        if half is not None and half > 0:
            total = sum(value**2 for value in parts.values()) ** 0.5
            drawn = figures.budget_bars(parts, total, unit, _pair(name))
            caption = "Parts are added as squares: the longest bar is the one to work on."
            bars.append(figure_block(drawn, f"Error budget of {name}", caption))
    head = ("difference", "part, one standard deviation", "size", "unit", "how")
    return table(head, rows, numbers=(2,)) + grid(bars)


def _isomers(results: Mapping[str, Any], levels: Mapping[str, str]) -> str:
    """One column per isomer; marks where a number is not good."""
    names = list(results.get("isomers", {}))
    rows = [("Point group", "", *(escape(str(results["isomers"][name].get("point_group", ""))) for name in names))]
    for key, title in ROWS:
        entries = [entry_of(results, f"isomers.{name}.{key}") for name in names]
        if all(entry is None for entry in entries):
            continue
        unit = next(str(entry.get("unit", "")) for entry in entries if entry is not None)
        cells = [_cell(results, f"isomers.{name}.{key}", levels) for name in names]
        rows.append((f"{escape(title)}<br><code>{escape(key)}</code>", escape(unit), *cells))
    return table(("quantity", "unit", *names), rows, numbers=range(2, 2 + len(names)))


def _cell(results: Mapping[str, Any], key: str, levels: Mapping[str, str]) -> str:
    found, level = quantity(results, key), levels.get(key)
    number = "–" if found is None else escape(_digits(*found))
    return number if level in (None, "good") else f"{number} {mark(level)}"


def _digits(value: float, stderr: float) -> str:
    """An exact number, such as the energy of a minimum, with the digits that it deserves."""
    return f"{value:.7g}" if stderr == 0 else format_quantity(value, stderr)


def _evidence(data: IsomerReport) -> str:
    blocks = []
    for name, (flow, chain) in data.works.items():
        found = quantity(data.results, f"isomers.{name}.free_energy")
        if found is None:
            continue
        drawn = figures.work(flow, chain, found[0] / data.kt, name)
        caption = "Work from the flow to the isomer. The curves have to cross at F; BAR is good where they overlap."
        blocks.append(figure_block(drawn, f"Work distributions of {name}", caption))
    for name, (energy, log_weight) in data.drawn.items():
        drawn = figures.energies(data.energies[name], energy, log_weight, data.energy_unit, name)
        caption = "Energies of the chains, of the flow, and of the flow reweighted: the last has to match the chains."
        blocks.append(figure_block(drawn, f"Energies of {name}", caption))
    drawn = figures.traces(data.energies, data.energy_unit)
    blocks.append(
        figure_block(drawn, "Energy traces", "A drift would mean that the chains were not in equilibrium at the start.")
    )
    return grid(blocks)


def _observables(data: IsomerReport) -> str:
    observables, blocks = data.results.get("observables", {}), []
    for key, title in (("distances", "Distances"), ("gyration_radius", "Gyration radius")):
        curves = {name: block[key] for name, block in observables.items() if key in block}
        if curves:
            drawn = figures.densities(curves, f"{title.lower()} ({data.length_unit})", title)
            blocks.append(figure_block(drawn, title, f"{title} in the chains; the bands are one standard error."))
    return grid(blocks)


def _spectra(spectra: Mapping[str, Any]) -> str:
    """Thermal spectra with the one of each minimum, and what they rest on."""
    drawn = figures.spectra(spectra)
    caption = "Lines with a band of one standard error: at temperature. Dashed: the minimum, at 0 K."
    rows = []
    for name, found in spectra.items():
        numbers = (found["complete_up_to"], found["effective"])
        end, effective = ("–" if value is None else f"{value:.2f}" for value in numbers)
        shown = (name, end, str(found["configurations"]), effective, str(found["failed"]), str(found["method"]))
        rows.append(tuple(map(escape, shown)))
    head = ("isomer", "complete up to (eV)", "configurations", "effective", "failed", "method")
    note = "<p>Above the energy of completeness some configuration would need more roots (spectra.states).</p>"
    return figure_block(drawn, "Absorption spectra", caption) + table(head, rows, numbers=(1, 2, 3, 4)) + note


def _checks(checks: Mapping[str, Any]) -> str:
    """The shift of each isomer's free energy to another engine; a common zero of energy is in all of them."""
    rows = []
    for name, found in checks.items():
        shift, k = quantity(checks, name), quantity(checks, f"{name}.pareto_k")
        value = "not known" if shift is None else format_quantity(*shift)
        counts = (str(found["labels"]), str(found["failed"]), "–" if k is None else f"{k[0]:.2f}")
        shown = (name, str(found["engine"]), value, str(found["unit"]), *counts, "; ".join(found["warnings"]))
        rows.append(tuple(map(escape, shown)))
    head = ("isomer", "engine", "F less that of the answer", "unit", "labels", "failed", "Pareto k", "warnings")
    note = "<p>Only the difference of two shifts has a meaning: engines count energies from zeros of their own.</p>"
    return table(head, rows, numbers=(2, 4, 5, 6)) + note


def _vibrations(found: Mapping[str, Any]) -> str:
    """The density of states, and what tells whether the trajectories are good."""
    unit = next(str(block["unit"]) for block in found.values())
    caption = (
        "Power spectra of the velocities; the bands are one standard error. Sticks are the harmonic frequencies of the "
        "minima: what is shifted or widened against them is anharmonic."
    )
    rows = []
    for key, title in QUALITY:
        entries = [entry_of(block, key) for block in found.values()]
        unit_here = next((str(entry.get("unit", "")) for entry in entries if entry is not None), "")
        values = [quantity(block, key) for block in found.values()]
        cells = ["–" if value is None else escape(format_quantity(*value)) for value in values]
        rows.append((f"{escape(title)}<br><code>{escape(key)}</code>", escape(unit_here), *cells))
    drawn = figure_block(figures.vibrations(found, unit), "Vibrational density of states", caption)
    return drawn + table(("quantity", "unit", *found), rows, numbers=range(2, 2 + len(found)))


def _rounds(data: IsomerReport) -> str:
    """How the answer settled, and where an engine was learned, how well."""
    blocks, learned = [], data.results.get("learned", {})
    rounds = data.results.get("rounds", {})
    if len(rounds) > 1:
        names = [key.partition("-")[0] for key in data.results["delta_free_energy"]]
        sampled = [entry.get("uncorrected", entry)["value"] for entry in data.results["delta_free_energy"].values()]
        drawn = figures.convergence(rounds, data.kt, dict(zip(names, sampled, strict=True)), data.energy_unit)
        said = "From the flow of each round, on what was sampled then; the line is production. No part of the answer."
        blocks.append(figure_block(drawn, "Difference by round", said))
    if any(learned.get("rounds", {}).values()):
        drawn = figures.learning(learned["rounds"], data.energy_unit)
        said = "Labels were chosen where the potential knew least, so typical states are predicted better than these."
        blocks.append(figure_block(drawn, "Error on new labels", said))
    if learned.get("parity"):
        drawn = figures.parity(learned["parity"], data.energy_unit)
        blocks.append(figure_block(drawn, "Parity", "States of production with fresh labels, used for the correction."))
    return grid(blocks)
