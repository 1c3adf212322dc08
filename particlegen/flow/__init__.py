"""Flows: samples with log-density, from a trained velocity field, with noise or without, or from coupling layers."""

from particlegen.flow.contract import Flow, FlowSamples
from particlegen.flow.coupling import CouplingSettings, IsomerFlow
from particlegen.flow.coupling_training import FlowTraining, train_flow
from particlegen.flow.ode import ODEFlow
from particlegen.flow.path import PathFlow
from particlegen.flow.settings import GenerationSettings, PathSettings

__all__ = [
    "CouplingSettings",
    "Flow",
    "FlowSamples",
    "FlowTraining",
    "GenerationSettings",
    "IsomerFlow",
    "ODEFlow",
    "PathFlow",
    "PathSettings",
    "train_flow",
]
