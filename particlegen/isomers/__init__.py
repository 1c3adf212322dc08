"""Isomers of small clusters: point groups, coordinates with an exact Jacobian, basins, harmonic free energies."""

from particlegen.isomers.basins import Basins
from particlegen.isomers.cards import BuiltCluster, ClusterCard, ClusterSettings, build_cluster, load_cluster_card
from particlegen.isomers.files import cluster_energy_of_file
from particlegen.isomers.frame import EckartFrame
from particlegen.isomers.harmonic import HarmonicIsomer, hessian, optimise
from particlegen.isomers.symmetry import Symmetry, point_group

__all__ = [
    "Basins",
    "BuiltCluster",
    "ClusterCard",
    "ClusterSettings",
    "EckartFrame",
    "HarmonicIsomer",
    "Symmetry",
    "build_cluster",
    "cluster_energy_of_file",
    "hessian",
    "load_cluster_card",
    "optimise",
    "point_group",
]
