"""Interpolants between uniform particles and data: paths, schedules, couplings, losses."""

from particlegen.interpolant.losses import Coupling, InterpolantLoss, InterpolantSettings, geodesic_interpolant
from particlegen.interpolant.schedules import NOISE_SCHEDULES

__all__ = ["NOISE_SCHEDULES", "Coupling", "InterpolantLoss", "InterpolantSettings", "geodesic_interpolant"]
