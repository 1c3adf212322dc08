"""A glass workflow as the runner sees it: checks, provenance, plan."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from particlegen import catalogue
from particlegen.energy import BuiltSystem, build_system
from particlegen.energy.engine_cards import engine_digest
from particlegen.settings import InputError
from particlegen.workflow.glass.citations import citations
from particlegen.workflow.glass.engines import check_engine
from particlegen.workflow.glass.estimates import run_estimates
from particlegen.workflow.glass.generation import run_generation
from particlegen.workflow.glass.job import GlassJob
from particlegen.workflow.glass.plan import outline
from particlegen.workflow.glass.reference import run_reference
from particlegen.workflow.glass.report import run_report
from particlegen.workflow.glass.run import GlassRun
from particlegen.workflow.glass.schema import GlassWorkflow
from particlegen.workflow.glass.training import (
    given_weights,
    load_pretrained,
    pretrained_card,
    run_training,
    system_hash,
)
from particlegen.workflow.kind import Provenance
from particlegen.workflow.plans import Outline

__all__ = ["FEWEST_FRAMES", "GLASS"]

FEWEST_FRAMES = 8
"""Frames per chain below which equilibration cannot be diagnosed."""


class _Glass:
    """`kind: glass`."""

    stages: Mapping[str, Callable[[Any], None]] = {
        "reference": run_reference,
        "training": run_training,
        "generation": run_generation,
        "estimates": run_estimates,
        "report": run_report,
    }
    job = GlassJob
    open = GlassRun

    def build(self, workflow: GlassWorkflow, relative_to: Path) -> BuiltSystem:
        """The system of the workflow, once its engine, its frames and its given weights are checked."""
        built = build_system(workflow.system, relative_to=relative_to)
        if not built.system.geometry.periodic:
            raise InputError(
                f"key 'system.card': {built.system.name!r} lives in free space; kind: glass needs a periodic box"
            )
        if workflow.reference.frames_per_chain < FEWEST_FRAMES:
            raise InputError(
                f"key 'reference.frames': found {workflow.reference.frames} for {workflow.reference.chains} chains; "
                f"at least {FEWEST_FRAMES} frames per chain are needed to compare them"
            )
        check_engine(workflow, built, relative_to)
        given = given_weights(workflow.training)
        if given is not None:
            load_pretrained(given, workflow, built, relative_to)
        return built

    def provenance(self, workflow: GlassWorkflow, built: BuiltSystem, relative_to: Path) -> Provenance:
        name, given = workflow.energy.engine, given_weights(workflow.training)
        named = [] if name is None else [catalogue.load("potentials", name, relative_to)]
        named += [] if given is None else [pretrained_card(given, relative_to)[0]]
        engines = {} if name is None else {name: engine_digest(name, relative_to)}
        return Provenance(system_hash(built), (built.card, *named), engines, citations(workflow, built, named))

    def origin(
        self, workflow: GlassWorkflow, built: BuiltSystem, provenance: Provenance, relative_to: Path
    ) -> Mapping[str, Any]:
        return {}

    def workers(self, workflow: GlassWorkflow) -> int:
        return workflow.reference.workers

    def outline(self, workflow: GlassWorkflow, built: BuiltSystem) -> Outline:
        return outline(workflow, built)


GLASS = _Glass()
