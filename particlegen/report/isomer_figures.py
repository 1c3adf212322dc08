"""Figures of isomers, each a pure function from arrays to a matplotlib figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from particlegen.estimate import Curve, energy_histogram
from particlegen.report.drawing import COLOURS, SERIES_COLOURS, new_figure, styled

__all__ = [
    "budget_bars",
    "convergence",
    "densities",
    "energies",
    "parity",
    "spectra",
    "structure",
    "traces",
    "vibrations",
    "work",
]

BOND = 1.3
"""Two particles are joined up to this many shortest distances."""

SHADES = ((1.0, 0.00, 0.0), (0.78, 0.18, 0.12), (0.50, 0.38, 0.28), (0.22, 0.62, 0.62))
"""Discs of a sphere: radius, shift towards the light in radii, share of white."""

POINTS = 400
"""At most so many points of a trace are drawn."""


STICK = 0.08
"""Height of a row of sticks below a density, as a share of the density's maximum."""


def _mixed(colour: Sequence[float], white: float) -> tuple[float, float, float]:
    red, green, blue = ((1.0 - white) * channel + white for channel in colour)
    return red, green, blue


def _turn(about: int, degrees: float) -> np.ndarray:
    """Rotation matrix about an axis of the coordinates."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [axis for axis in range(3) if axis != about]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


def _views(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two orientations, a quarter turn apart, turned so that no particle hides another in either."""
    centred = x - x.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    upright = centred @ axes[:, ::-1]  # widest across the page, flattest towards the reader
    pairs = np.triu_indices(len(x), 1)

    def apart(view: np.ndarray) -> float:
        return float(np.linalg.norm((view[:, None] - view[None])[pairs][:, :2], axis=1).min())

    choices = []
    for tilt in range(10, 45, 5):
        for turn in range(0, 90, 5):
            views = [upright @ (_turn(0, tilt) @ _turn(1, turn + more)).T for more in (0, 90)]
            choices.append((min(map(apart, views)), views))
    first, second = max(choices, key=lambda choice: choice[0])[1]
    return first, second


def _spheres(axis: Axes, x: np.ndarray, species: np.ndarray, bond: float) -> None:
    """Spheres and bonds seen along the third axis; what lies deeper is paler and drawn first."""
    radius, depth = 0.27 * bond, x[:, 2]
    span = max(float(np.ptp(depth)), 1e-9)
    fade = 0.55 * (depth.max() - depth) / span if span > 0.1 * bond else np.zeros(len(x))
    pairs = [(i, j) for i in range(len(x)) for j in range(i) if np.linalg.norm(x[i] - x[j]) < BOND * bond]
    parts = [(min(depth[i], depth[j]) - 1e-6, (i, j)) for i, j in pairs] + [(depth[i], (i,)) for i in range(len(x))]
    for _, who in sorted(parts):
        if len(who) == 2:
            i, j = who
            shade = _mixed(to_rgb("#5b6875"), max(fade[i], fade[j]))
            axis.plot(x[[i, j], 0], x[[i, j], 1], color=shade, lw=2.6, solid_capstyle="round", zorder=1)
            continue
        (i,) = who
        colour = to_rgb(SERIES_COLOURS[species[i] % len(SERIES_COLOURS)])
        for size, shift, white in SHADES:
            centre = (x[i, 0] - shift * radius, x[i, 1] + shift * radius)
            face = _mixed(_mixed(colour, white), fade[i])
            edge = _mixed((0.2, 0.2, 0.2), fade[i]) if size == 1.0 else "none"
            axis.add_patch(Circle(centre, size * radius, facecolor=face, edgecolor=edge, linewidth=0.6, zorder=1))


@styled
def structure(positions: np.ndarray, species: np.ndarray, species_names: Sequence[str]) -> Figure:
    """One isomer `(N, 3)` as spheres with bonds, in two orientations a quarter turn apart."""
    figure, axes = new_figure(columns=2, width=2.3, height=2.3)
    apart = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    bond = float(apart[apart > 0].min())
    reach = float(np.linalg.norm(positions - positions.mean(0), axis=1).max()) + 0.4 * bond
    for axis, x in zip(axes, _views(positions), strict=True):
        _spheres(axis, x, species, bond)
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axis.axis("off")
    if len(species_names) > 1:
        discs = [
            Line2D([], [], marker="o", ls="", color=SERIES_COLOURS[kind % len(SERIES_COLOURS)], label=name)
            for kind, name in enumerate(species_names)
        ]
        axes[0].legend(handles=discs, loc="upper left")
    return figure


@styled
def work(flow: Curve, chain: Curve, free_energy: float, title: str) -> Figure:
    """Distributions of the work over draws and over chain states, in kT, with F where they have to cross."""
    figure, (axis,) = new_figure(width=4.2, height=2.7)
    flow.plot(axis, color=COLOURS["raw"], lw=1.4)
    chain.plot(axis, color=COLOURS["reference"], lw=1.4)
    axis.axvline(free_energy, color=COLOURS["reweighted"], ls="--", lw=1.2, label="F by BAR")
    axis.set(title=title, ylim=(0.0, None))
    axis.legend()
    return figure


@styled
def energies(chain: np.ndarray, drawn: np.ndarray, log_weight: np.ndarray, unit: str, title: str) -> Figure:
    """Energies of the chains, and of the flow's draws, raw and reweighted, over the range that the chains visit."""
    figure, (axis,) = new_figure(width=4.2, height=2.7)
    shown = energy_histogram(drawn, log_weight, chain.ravel(), bins=45)
    for kind, label in (("reference", "chains"), ("raw", "flow"), ("reweighted", "flow, reweighted")):
        filled = kind == "reference"
        style = {"fill": filled, "alpha": 0.25 if filled else 1.0, "lw": 1.5}
        axis.stairs(shown.curves[kind].value, shown.edges, color=COLOURS[kind], label=label, **style)
    axis.set(xlabel=f"energy ({unit})", ylabel="density", title=title)
    axis.legend()
    return figure


@styled
def traces(energy: Mapping[str, np.ndarray], unit: str) -> Figure:
    """Mean over the chains `(chain, step)` of each isomer by step, with a band of one standard error."""
    figure, (axis,) = new_figure(width=4.6, height=2.9)
    for number, (name, values) in enumerate(energy.items()):
        steps = np.unique(np.linspace(0, values.shape[1] - 1, min(POINTS, values.shape[1])).astype(int))
        mean, error = values[:, steps].mean(0), values[:, steps].std(0, ddof=1) / np.sqrt(len(values))
        Curve(steps, mean, error, name, "sweep", f"energy ({unit})").plot(axis, color=_colour(number), lw=1.0)
    axis.set(title="Energies, mean over chains")
    axis.legend()
    return figure


@styled
def densities(curves: Mapping[str, Mapping[str, Sequence[float]]], x_label: str, title: str) -> Figure:
    """Densities of one observable, one curve per isomer; keys `value`, `density`, `stderr`."""
    figure, (axis,) = new_figure(width=4.6, height=2.9)
    for number, (name, block) in enumerate(curves.items()):
        x, y, error = (np.asarray(block[key], dtype=float) for key in ("value", "density", "stderr"))
        Curve(x, y, error, name, x_label, "density").plot(axis, color=_colour(number), lw=1.3)
    axis.set(title=title, ylim=(0.0, None))
    axis.legend()
    return figure


@styled
def vibrations(spectra: Mapping[str, Mapping[str, Any]], unit: str) -> Figure:
    """Densities of vibrational states of isomers; below them a row of sticks for each minimum's harmonic frequencies.

    Args:
        spectra: by isomer, `frequency`, `density`, `stderr` and `harmonic`.
        unit: of the frequencies.
    """
    figure, (axis,) = new_figure(width=7.0, height=3.4)
    top = max(float(np.max(block["density"])) for block in spectra.values())
    for number, (name, block) in enumerate(spectra.items()):
        x, y, error = (np.asarray(block[key], dtype=float) for key in ("frequency", "density", "stderr"))
        Curve(x, y, error, name, f"frequency ({unit})", "vibrations per unit of frequency").plot(
            axis, color=_colour(number), lw=1.2
        )
        low = -STICK * top * (number + 1)
        axis.vlines(block["harmonic"], low + 0.2 * STICK * top, low + STICK * top, color=_colour(number), lw=1.2)
    last = max(float(np.max(block["harmonic"])) for block in spectra.values())
    axis.set(title="Vibrational density of states", xlim=(0.0, 1.25 * last), ylim=(-STICK * top * len(spectra), None))
    axis.axhline(0.0, color="#999999", lw=0.8)
    axis.legend()
    return figure


@styled
def budget_bars(parts: Mapping[str, float], total: float, unit: str, title: str) -> Figure:
    """Each part of an error budget, and the root of the sum of their squares, as one standard deviation."""
    figure, (axis,) = new_figure(width=4.6, height=0.5 + 0.34 * (len(parts) + 1))
    names = [*parts, "all"]
    colours = [SERIES_COLOURS[0]] * len(parts) + [COLOURS["reference"]]
    axis.barh(names, [*parts.values(), total], color=colours, height=0.62)
    axis.invert_yaxis()
    axis.set(xlabel=f"one standard deviation ({unit})", title=title)
    return figure


@styled
def convergence(
    rounds: Mapping[str, Sequence[Mapping[str, Any]]], factor: float, final: Mapping[str, float | None], unit: str
) -> Figure:
    """Differences of free energies to the first isomer, round by round, against the labels that they have cost.

    Args:
        rounds: by isomer, `labels`, `free_energy` and `stderr` of each round in kT; where there are no labels the
            number of the round is drawn.
        factor: kT in the unit of energy.
        final: the differences of the run, by isomer, drawn as lines.
        unit: of energy.
    """
    figure, (axis,) = new_figure()
    first, *others = rounds
    learned = any(each["labels"] for each in rounds[first])
    for number, name in enumerate(others):
        pairs = list(zip(rounds[first], rounds[name], strict=True))
        x = [a["labels"] + b["labels"] if learned else k + 1 for k, (a, b) in enumerate(pairs)]
        y = [factor * (_known(b["free_energy"]) - _known(a["free_energy"])) for a, b in pairs]
        error = [factor * np.hypot(_known(a["stderr"]), _known(b["stderr"])) for a, b in pairs]
        axis.errorbar(x, y, yerr=error, color=_colour(number), marker="o", ms=4, lw=1.2, capsize=2, label=name)
        axis.axhline(_known(final[name]), color=_colour(number), ls=":")
    title = "Difference to the first isomer, as sampled"
    axis.set(xlabel="labels" if learned else "round", ylabel=f"F - F({first}) ({unit})", title=title)
    axis.legend()
    return figure


def _known(value: float | None) -> float:
    return float("nan") if value is None else float(value)


@styled
def learning(rounds: Mapping[str, Sequence[Mapping[str, Any]]], unit: str) -> Figure:
    """Error of the learned potentials on labels that they had not seen, against the labels of each isomer."""
    figure, (axis,) = new_figure()
    for number, (name, entries) in enumerate(rounds.items()):
        x, y = ([float(each[key]) for each in entries] for key in ("labels", "energy_rmse"))
        axis.plot(x, y, color=_colour(number), marker="o", ms=4, lw=1.2, label=name)
    axis.set(xlabel="labels", ylabel=f"error on new labels ({unit})", title="Learning", yscale="log")
    axis.legend()
    return figure


@styled
def parity(points: Mapping[str, Mapping[str, Sequence[float]]], unit: str) -> Figure:
    """Predictions of the learned potentials against fresh labels, each less the isomer's mean label."""
    figure, (axis,) = new_figure(width=3.6, height=3.2)
    ends = [0.0, 0.0]
    for number, (name, block) in enumerate(points.items()):
        x, y = np.asarray(block["exact"], dtype=float), np.asarray(block["surrogate"], dtype=float)
        rmse, mean = float(np.sqrt(np.mean((x - y) ** 2))), x.mean()
        axis.plot(x - mean, y - mean, ls="", marker=".", ms=4, color=_colour(number), label=f"{name}, RMSE {rmse:.2g}")
        ends = [min(ends[0], (x - mean).min()), max(ends[1], (x - mean).max())]
    axis.plot(ends, ends, color="#999999", ls=":")
    axis.set(xlabel=f"label less mean ({unit})", ylabel=f"prediction ({unit})", title="Learned potentials")
    axis.legend()
    return figure


@styled
def spectra(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Absorption spectra, one colour per isomer: the thermal mean with its band, and the minimum dashed.

    Args:
        found: by isomer, lists `energies`, `mean`, `stderr`, `zero_kelvin` over the energies in eV; null where there
            is nothing.
    """
    figure, (axis,) = new_figure(width=5.6)
    axis.set(xlabel="energy (eV)", ylabel="oscillator strength (1/eV)")
    for number, (name, block) in enumerate(found.items()):
        x, mean, error, cold = (
            None if block[key] is None else np.asarray(block[key], dtype=float)
            for key in ("energies", "mean", "stderr", "zero_kelvin")
        )
        if x is not None and mean is not None and error is not None:
            curve = Curve(x, mean, error, name, "energy (eV)", "oscillator strength (1/eV)")
            curve.plot(axis, color=_colour(number), lw=1.4)
        if x is not None and cold is not None:
            axis.plot(x, cold, color=_colour(number), ls="--", lw=1.0, label=f"{name}, 0 K")
    axis.set(title="Absorption", ylim=(0.0, None))
    if axis.lines:
        axis.legend()
    return figure


def _colour(number: int) -> str:
    return SERIES_COLOURS[number % len(SERIES_COLOURS)]
