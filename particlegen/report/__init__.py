"""Plots and the self-contained HTML report."""

from particlegen.report.advice import advise
from particlegen.report.glass import GlassReport, render_glass
from particlegen.report.isomers import IsomerReport, render_isomers
from particlegen.report.quantities import Advice, format_quantity, quantity, unit_of

__all__ = [
    "Advice",
    "GlassReport",
    "IsomerReport",
    "advise",
    "format_quantity",
    "quantity",
    "render_glass",
    "render_isomers",
    "unit_of",
]
