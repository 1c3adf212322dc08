"""The workflow file: read and checked by its kind, and the same file back in canonical form."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import models_json_schema

from particlegen import catalogue
from particlegen.settings import InputError
from particlegen.validation import near_matches, parse_section
from particlegen.workflow.base import WorkflowBase
from particlegen.workflow.glass.schema import GlassWorkflow
from particlegen.workflow.isomers.schema import IsomerWorkflow
from particlegen.workflow.overrides import apply_overrides, parse_override

__all__ = ["SCHEMAS", "canonical_yaml", "load_workflow", "workflow_schema"]

SCHEMAS: dict[str, type[WorkflowBase]] = {"glass": GlassWorkflow, "isomers": IsomerWorkflow}
"""The kinds of workflow."""


def load_workflow(
    workflow: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | list[str] | None = None
) -> tuple[WorkflowBase, Path, str]:
    """A checked workflow, the folder that its relative paths start from, and its name.

    Args:
        workflow: a YAML file, the name of a catalogue workflow, or the parsed content.
        overrides: `{"training.minutes": 1}` or `["training.minutes=1"]`, applied before the check.

    Raises:
        InputError: no such file, unsafe or malformed YAML, unknown keys, wrong values; every mistake is listed.
    """
    if isinstance(workflow, Mapping):
        data, folder, name, source = dict(workflow), Path.cwd(), "workflow", "workflow"
    else:
        if Path(workflow).suffix in (".yaml", ".yml") or Path(workflow).exists():
            path = Path(workflow)
            data, name = catalogue.parse_yaml(path), path.stem
        else:
            card = catalogue.load("workflows", str(workflow))
            data, path, name = card.data, card.path, card.name
        folder, source = path.parent, path.name
    if isinstance(overrides, list):
        overrides = dict(parse_override(text) for text in overrides)
    data = apply_overrides(data, overrides or {})
    kind = data.get("kind")
    if kind is None:
        raise InputError(f"{source}: key 'kind' is missing: add it, one of {', '.join(SCHEMAS)}")
    if not isinstance(kind, str) or kind not in SCHEMAS:
        raise InputError(f"{source}: key 'kind': found {kind!r}; {near_matches(str(kind), list(SCHEMAS))}")
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "workflow"
    return parse_section(SCHEMAS[kind], data, source), folder, safe


def canonical_yaml(workflow: WorkflowBase) -> str:
    """The workflow as YAML with every default filled in; it loads back to an equal workflow."""
    return yaml.safe_dump(workflow.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def workflow_schema() -> dict[str, Any]:
    """JSON schema of a workflow file, for editors."""
    _, schema = models_json_schema([(model, "validation") for model in SCHEMAS.values()], title="particlegen workflow")
    return schema | {"oneOf": [{"$ref": f"#/$defs/{model.__name__}"} for model in SCHEMAS.values()]}
