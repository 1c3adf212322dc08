"""Torus graph networks: velocity fields with the symmetries of a particle system."""

from particlegen.networks.features import TorusFeatures, as_features, as_rows, smooth_displacement
from particlegen.networks.hollow import HollowNetwork
from particlegen.networks.settings import NetworkSettings, VelocityNetwork, build_network
from particlegen.networks.standard import StandardNetwork

__all__ = [
    "HollowNetwork",
    "NetworkSettings",
    "StandardNetwork",
    "TorusFeatures",
    "VelocityNetwork",
    "as_features",
    "as_rows",
    "build_network",
    "smooth_displacement",
]
