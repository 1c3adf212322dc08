"""What all figures have in common: style, colours, and how they get into the page."""

import base64
import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

__all__ = ["COLOURS", "SERIES_COLOURS", "as_image", "new_figure", "styled"]

COLOURS = {"reference": "#44546a", "raw": "#d98e04", "reweighted": "#0b7a75"}
"""One colour per ensemble, the same in every figure; told apart by colour-blind readers too."""

SERIES_COLOURS = ("#3b6fb6", "#d1495b", "#edae49", "#66a182", "#8d6a9f")
"""Of species, or of isomers, by index."""

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "particlegen",
    # Names come from files: a $ in them is a character, no formula, and nothing is handed to TeX.
    "text.parse_math": False,
    "text.usetex": False,
}


def as_image(figure: Figure, alt: str) -> str:
    """The figure as an `<img>` with its SVG inside; the alternative text must be free of quotes and markup."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": "particlegen"})
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{alt}" src="data:image/svg+xml;base64,{encoded}">'


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """The figure in this report's style, whatever the user's own matplotlib settings are."""

    @functools.wraps(draw)
    def in_style(*arguments: Any, **options: Any) -> Figure:
        with rc_context(STYLE):
            return draw(*arguments, **options)

    return in_style


def new_figure(columns: int = 1, width: float = 4.6, height: float = 3.1, **options: Any) -> tuple[Figure, np.ndarray]:
    """A row of panels, each `width` × `height` inches."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, **options)[0]
    return figure, axes
