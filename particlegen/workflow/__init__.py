"""Workflows: the YAML schema, the stages, the runner, and runs opened again."""

from particlegen.workflow.job import Interrupted
from particlegen.workflow.network_card import save_network
from particlegen.workflow.opened import Run, StageStatus, open_run
from particlegen.workflow.planning import Plan, PlannedStage, plan
from particlegen.workflow.runner import resume, run
from particlegen.workflow.schema import Resources, Workflow, load_workflow, workflow_schema
from particlegen.workflow.stage_training import network_cards

__all__ = [
    "Interrupted",
    "Plan",
    "PlannedStage",
    "Resources",
    "Run",
    "StageStatus",
    "Workflow",
    "load_workflow",
    "network_cards",
    "open_run",
    "plan",
    "resume",
    "run",
    "save_network",
    "workflow_schema",
]
