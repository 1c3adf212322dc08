"""Figures of a glass, each a pure function from arrays to a matplotlib figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from particlegen.estimate import energy_histogram
from particlegen.report.drawing import COLOURS, SERIES_COLOURS, new_figure, styled

__all__ = [
    "configurations",
    "energies",
    "pair_curves",
    "training_curve",
    "weight_share",
    "weights",
]


def _draw(axis: Axes, x: np.ndarray, lengths: Sequence[float], species: np.ndarray, radii: np.ndarray) -> None:
    """One configuration with its periodic images; in three dimensions seen along z, deeper particles paler."""
    order = np.argsort(x[:, 2]) if x.shape[1] > 2 else np.arange(len(x))
    discs, faces, alphas = [], [], []
    for i in order:
        depth = 0.35 + 0.65 * x[i, 2] / lengths[2] if x.shape[1] > 2 else 0.92
        for a in (-1, 0, 1):
            for b in (-1, 0, 1):
                cx, cy, r = x[i, 0] + a * lengths[0], x[i, 1] + b * lengths[1], radii[i]
                if -r < cx < lengths[0] + r and -r < cy < lengths[1] + r:
                    discs.append(Circle((cx, cy), r))
                    faces.append(SERIES_COLOURS[species[i] % len(SERIES_COLOURS)])
                    alphas.append(depth)
    collection = PatchCollection(discs, facecolors=faces, edgecolors="white", linewidths=0.6, alpha=alphas)
    axis.add_collection(collection)
    box = Rectangle((0, 0), lengths[0], lengths[1], fill=False, edgecolor="#333333", linewidth=1.0)
    axis.add_patch(box)
    collection.set_clip_path(box)
    axis.set(xlim=(-0.02 * lengths[0], 1.02 * lengths[0]), ylim=(-0.02 * lengths[1], 1.02 * lengths[1]), aspect="equal")
    axis.axis("off")


@styled
def configurations(
    positions: Mapping[str, np.ndarray], lengths: Sequence[float], species: np.ndarray, diameters: np.ndarray
) -> Figure:
    """Discs in the box, one row per ensemble; `positions[title]` is `(frame, N, d)` with the same number of frames."""
    rows, columns = len(positions), max(len(frames) for frames in positions.values())
    figure = Figure(figsize=(2.1 * columns, 2.35 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, (title, frames) in zip(axes, positions.items(), strict=True):
        for axis in row:
            axis.axis("off")
        for number, (axis, x) in enumerate(zip(row, frames, strict=False)):
            _draw(axis, x, lengths, species, 0.5 * diameters)
            if number == 0:
                axis.set_title(title)
    return figure


@styled
def energies(reference: np.ndarray, generated: np.ndarray, log_weight: np.ndarray, n: int, unit: str) -> Figure:
    """Energy per particle: reference, raw and reweighted, over the range that the reference visits."""
    figure, (axis,) = new_figure()
    shown = energy_histogram(generated / n, log_weight, reference / n, bins=45)
    for kind in ("reference", "raw", "reweighted"):
        filled = kind == "reference"
        style = {"fill": filled, "alpha": 0.25 if filled else 1.0, "lw": 1.6}
        axis.stairs(shown.curves[kind].value, shown.edges, color=COLOURS[kind], label=kind, **style)
    beyond = shown.outside["raw"]
    note = f"  ({beyond:.1%} of raw samples lie beyond)" if beyond > 0.001 else ""
    axis.set(xlabel=f"energy per particle ({unit})", ylabel="density", title=f"Energies{note}")
    axis.legend(loc="upper right")
    return figure


@styled
def pair_curves(block: Mapping[str, Any], x_name: str, x_label: str, y_label: str) -> Figure:
    """Partial g(r) or S(q) of reference, raw and reweighted samples; the band is one standard error."""
    partials = block["partials"]
    figure, axes = new_figure(columns=len(partials), width=3.2, height=2.7, sharey=True)
    x = np.asarray(block[x_name], dtype=float)
    for axis, (pair, curves) in zip(axes, partials.items(), strict=True):
        for kind in ("reference", "raw", "reweighted"):
            if kind not in curves:
                continue
            y = np.asarray(curves[kind], dtype=float)
            style = {"lw": 3.2, "alpha": 0.35} if kind == "reference" else {"lw": 1.3}
            axis.plot(x, y, color=COLOURS[kind], label=kind, ls="--" if kind == "raw" else "-", **style)
            error = curves.get(f"{kind}_stderr")
            if error is not None and kind == "reweighted":
                error = np.asarray(error, dtype=float)
                axis.fill_between(x, y - error, y + error, color=COLOURS[kind], alpha=0.2, lw=0)
        axis.set(title=pair, xlabel=x_label)
    axes[0].set_ylabel(y_label)
    axes[0].legend()
    return figure


@styled
def weights(log_weight: np.ndarray) -> Figure:
    """Histogram of ln(w / mean w); lighter weights than e^-15 of the mean stand in the first bin."""
    figure, (axis,) = new_figure()
    finite = log_weight[np.isfinite(log_weight)]
    largest = finite.max()
    log_mean = largest + np.log(np.exp(finite - largest).sum() / len(log_weight))
    axis.hist(np.clip(finite - log_mean, -15.0, None), bins=50, color=COLOURS["reweighted"], alpha=0.8)
    axis.axvline(0.0, color="#999999", ls=":")
    axis.set(xlabel="ln (weight / mean weight)", ylabel="samples", title="Weights")
    return figure


@styled
def weight_share(log_weight: np.ndarray) -> Figure:
    """The share of the total weight that the heaviest samples carry, beside equal weights."""
    figure, (axis,) = new_figure()
    finite = log_weight[np.isfinite(log_weight)]
    ordered = np.sort(np.exp(finite - finite.max()))[::-1]
    share = np.cumsum(ordered) / ordered.sum()
    fraction = np.arange(1, len(share) + 1) / len(share)
    axis.plot(fraction, share, color=COLOURS["reweighted"], label="this run")
    axis.plot([0, 1], [0, 1], color="#999999", ls=":", label="equal weights")
    axis.set(xlabel="share of samples, heaviest first", ylabel="share of weight", title="Who carries the weight")
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(loc="lower right")
    return figure


@styled
def training_curve(curve: Mapping[str, Sequence[float]]) -> Figure:
    """Training and validation loss against the optimiser step."""
    figure, (axis,) = new_figure()
    step, loss = np.asarray(curve["step"]), np.asarray(curve["loss"], dtype=float)
    axis.plot(step, loss, color=COLOURS["raw"], lw=1.0, alpha=0.8, label="training")
    validation = np.asarray(curve["validation_loss"], dtype=float)
    good = np.isfinite(validation)
    if good.any():
        few = {"marker": "o", "ms": 4} if good.sum() < 20 else {}
        axis.plot(step[good], validation[good], color=COLOURS["reweighted"], lw=1.6, label="validation", **few)
    finite = loss[np.isfinite(loss)]
    if len(finite) > 10:
        axis.set_ylim(
            0.97 * min(finite.min(), np.nanmin(validation) if good.any() else np.inf), np.quantile(finite, 0.97)
        )
    axis.set(xlabel="step", ylabel="loss", title="Training")
    axis.legend()
    return figure
