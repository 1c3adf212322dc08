"""Flows: samples with log-density from a trained velocity field."""

from particlegen.flow.ode import FlowSamples, GenerationSettings, ODEFlow

__all__ = ["FlowSamples", "GenerationSettings", "ODEFlow"]
