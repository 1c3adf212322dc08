"""Flows: samples with log-density from a trained velocity field."""

from particlegen.flow.ode import Flow, FlowSamples, GenerationSettings, ODEFlow

__all__ = ["Flow", "FlowSamples", "GenerationSettings", "ODEFlow"]
