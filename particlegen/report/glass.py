"""The page of a glass: numbers beside the reference, figures of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from particlegen.report import glass_figures as figures
from particlegen.report.page import card, card_row, document, figure_block, grid, quantity_table
from particlegen.report.quantities import entry_of

__all__ = ["GlassReport", "render_glass"]

ROWS = (
    ("reference.energy_per_particle", "Energy per particle, reference Monte Carlo"),
    ("reweighted.energy_per_particle", "Energy per particle, reweighted"),
    ("reference.heat_capacity_per_particle", "Heat capacity per particle, reference"),
    ("reweighted.heat_capacity_per_particle", "Heat capacity per particle, reweighted"),
    ("free_energy.excess", "Free energy, excess over the ideal gas"),
    ("free_energy.excess_bar", "The same by BAR with held-out frames"),
    ("free_energy.total", "Free energy, total"),
    ("generated.n_samples", "Generated samples"),
    ("generated.ess_per_sample", "Effective sample size per sample"),
    ("generated.forward_ess", "Forward ESS on held-out frames"),
    ("generated.pareto_k", "Pareto k of the weights"),
    ("generated.discard_fraction", "Discard fraction of raw samples"),
    ("generated.stuck", "Share of trajectories that the solver gave up"),
    ("generated.failed", "Share of samples that the engine gave no energy"),
    ("generated.log_q_error", "Error of log q by the solver"),
    ("reference.r_hat", "R-hat of the reference chains"),
    ("reference.statistical_inefficiency", "Statistical inefficiency of the reference"),
)


@dataclass(frozen=True)
class GlassReport:
    """What the page of a glass shows.

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


def render_glass(data: GlassReport) -> str:
    """The report as one HTML document that needs no network."""
    sections = (("Pictures", _figures(data)), ("Numbers", quantity_table(data.results, ROWS)))
    return document(data.title, data.results, data.manifest, data.workflow_yaml, _headline(data), sections)


def _headline(data: GlassReport) -> str:
    cards = []
    for key, label in (
        ("reweighted.energy_per_particle", "energy per particle"),
        ("free_energy.excess", "excess free energy"),
        ("generated.ess_per_sample", "ESS per sample"),
        ("generated.pareto_k", "Pareto k"),
    ):
        entry = entry_of(data.results, key)
        if entry is not None:
            cards.append(card(label, entry))
    return card_row(cards)


def _figures(data: GlassReport) -> str:
    shown = {"reference": data.reference_positions, "generated, drawn by weight": data.generated_positions}
    shown = {title: frames for title, frames in shown.items() if len(frames)}
    n = len(data.species)
    parts = []
    if shown:
        drawn = figures.configurations(shown, data.lengths, data.species, data.diameters)
        caption = "Configurations in the periodic box, one colour per species."
        parts.append(figure_block(drawn, "Configurations of reference and generated particles", caption))
    plots = []
    if len(data.generated_energy):
        plots.append(
            figure_block(
                figures.energies(data.reference_energy, data.generated_energy, data.log_weight, n, data.energy_unit),
                "Histogram of energies",
                "Raw samples of the flow, the same reweighted to the Boltzmann law, and the reference.",
            )
        )
        caption = "Spread of the importance weights: the narrower, the better."
        plots.append(figure_block(figures.weights(data.log_weight), "Histogram of log weights", caption))
        caption = "The closer to the diagonal, the more samples count."
        plots.append(figure_block(figures.weight_share(data.log_weight), "Share of weight by sample", caption))
    if len(data.curve.get("step", ())) > 1:
        plots.append(
            figure_block(figures.training_curve(data.curve), "Training curve", "Loss while the network trained.")
        )
    parts.append(grid(plots))
    observables = data.results.get("observables", {})
    for name, x_name, x_label, y_label, caption in (
        ("rdf", "r", "r", "g(r)", "Partial radial distribution functions."),
        ("structure_factor", "q", "q", "S(q)", "Partial structure factors."),
    ):
        if name in observables:
            drawn = figures.pair_curves(observables[name], x_name, x_label, y_label)
            parts.append(figure_block(drawn, caption.rstrip("."), caption))
    return "".join(parts)
