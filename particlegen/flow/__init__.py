"""Flows: samples with log-density, from a trained velocity field or from coupling layers."""

from particlegen.flow.coupling import CouplingSettings, IsomerFlow
from particlegen.flow.coupling_training import FlowTraining, train_flow
from particlegen.flow.ode import Flow, FlowSamples, GenerationSettings, ODEFlow

__all__ = [
    "CouplingSettings",
    "Flow",
    "FlowSamples",
    "FlowTraining",
    "GenerationSettings",
    "IsomerFlow",
    "ODEFlow",
    "train_flow",
]
