"""Workflows: the YAML schema, the stages, the runner, and runs opened again."""

from particlegen.workflow.executors import ParslExecutor, ProcessExecutor, open_executor
from particlegen.workflow.job import Interrupted
from particlegen.workflow.network_card import save_network
from particlegen.workflow.opened import Run, StageStatus, open_run
from particlegen.workflow.planning import Plan, PlannedStage, plan
from particlegen.workflow.resources import Resources, load_resources, resources_schema
from particlegen.workflow.runner import resume, run
from particlegen.workflow.schema import Workflow, load_workflow, workflow_schema
from particlegen.workflow.stage_training import network_cards

__all__ = [
    "Interrupted",
    "ParslExecutor",
    "Plan",
    "PlannedStage",
    "ProcessExecutor",
    "Resources",
    "Run",
    "StageStatus",
    "Workflow",
    "load_resources",
    "load_workflow",
    "network_cards",
    "open_executor",
    "open_run",
    "plan",
    "resources_schema",
    "resume",
    "run",
    "save_network",
    "workflow_schema",
]
