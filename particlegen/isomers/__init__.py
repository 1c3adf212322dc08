"""Isomers of small clusters: point groups, coordinates with an exact Jacobian, basins, harmonic free energies."""

from particlegen.isomers.basins import Basins
from particlegen.isomers.frame import EckartFrame
from particlegen.isomers.harmonic import HarmonicIsomer, hessian, optimise
from particlegen.isomers.symmetry import Symmetry, point_group

__all__ = ["Basins", "EckartFrame", "HarmonicIsomer", "Symmetry", "hessian", "optimise", "point_group"]
