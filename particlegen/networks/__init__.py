"""Graph networks with the symmetries of particles: velocity fields on the torus, and energies of learned potentials."""

from particlegen.networks.features import TorusFeatures, as_features, as_rows, smooth_displacement
from particlegen.networks.hollow import HollowNetwork
from particlegen.networks.potential import PotentialNetwork, PotentialSettings, build_potential_network
from particlegen.networks.settings import (
    DenoisingNetwork,
    NetworkSettings,
    NetworkSize,
    VelocityNetwork,
    build_network,
    network_size,
)
from particlegen.networks.standard import StandardNetwork

__all__ = [
    "DenoisingNetwork",
    "HollowNetwork",
    "NetworkSettings",
    "NetworkSize",
    "PotentialNetwork",
    "PotentialSettings",
    "StandardNetwork",
    "TorusFeatures",
    "VelocityNetwork",
    "as_features",
    "as_rows",
    "build_network",
    "build_potential_network",
    "network_size",
    "smooth_displacement",
]
