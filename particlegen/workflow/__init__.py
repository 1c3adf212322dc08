"""Workflows: the YAML schema, the stages, the runner, and runs opened again."""

from particlegen.workflow.base import WorkflowBase
from particlegen.workflow.executors import ParslExecutor, ProcessExecutor, open_executor
from particlegen.workflow.glass.network_card import save_network
from particlegen.workflow.glass.run import GlassRun
from particlegen.workflow.glass.schema import GlassWorkflow
from particlegen.workflow.glass.training import network_cards
from particlegen.workflow.job import Interrupted
from particlegen.workflow.kinds import open_run
from particlegen.workflow.opened import Run, StageStatus
from particlegen.workflow.planning import Plan, plan
from particlegen.workflow.plans import Need, PlannedStage
from particlegen.workflow.resources import Resources, load_resources, resources_schema
from particlegen.workflow.runner import extend, resume, run
from particlegen.workflow.schema import load_workflow, workflow_schema

__all__ = [
    "GlassRun",
    "GlassWorkflow",
    "Interrupted",
    "Need",
    "ParslExecutor",
    "Plan",
    "PlannedStage",
    "ProcessExecutor",
    "Resources",
    "Run",
    "StageStatus",
    "WorkflowBase",
    "extend",
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
