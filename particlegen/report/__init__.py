"""Plots and the self-contained HTML report."""

from particlegen.report.advice import Advice, advise, quantity, unit_of
from particlegen.report.page import ReportData, format_quantity, render

__all__ = ["Advice", "ReportData", "advise", "format_quantity", "quantity", "render", "unit_of"]
