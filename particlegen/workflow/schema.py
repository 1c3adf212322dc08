"""The workflow file: read and checked by its kind, and the same file back in canonical form."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import models_json_schema

from particlegen import catalogue
from particlegen.settings import InputError
from particlegen.validation import near_matches, parse_section
from particlegen.workflow.base import WorkflowBase
from particlegen.workflow.folder import RunFolder, plain_name
from particlegen.workflow.glass.schema import GlassWorkflow
from particlegen.workflow.isomers.schema import IsomerWorkflow
from particlegen.workflow.overrides import apply_overrides, parse_override
from particlegen.workflow.paths import settled

__all__ = ["SCHEMAS", "canonical_yaml", "load_run", "load_workflow", "overrides_of", "workflow_schema"]

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
        InputError: no such file, unsafe or malformed YAML, a path of the file that leads outside of its folder, unknown
            keys, wrong values; every mistake is listed.
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
    chosen = overrides_of(overrides)
    given = None if isinstance(workflow, Mapping) else chosen
    data = settled(apply_overrides(data, chosen), given, folder, source)
    return _checked(data, source), folder, plain_name(name)


def load_run(
    folder: RunFolder, given: Mapping[str, Any] | None = None, relative_to: Path | None = None
) -> WorkflowBase:
    """The workflow of a run; what it names by path is checked by `Run.relative_to`.

    Args:
        folder: the run.
        given: overrides; their paths start from `relative_to` and may lead anywhere.

    Raises:
        InputError: as `load_workflow`.
    """
    data = apply_overrides(catalogue.parse_yaml(folder.workflow_file), given or {})
    if relative_to is not None:
        data = settled(data, None, relative_to, folder.workflow_file.name)
    return _checked(data, folder.workflow_file.name)


def overrides_of(overrides: Mapping[str, Any] | list[str] | None) -> Mapping[str, Any]:
    """Overrides by dotted key, from `KEY=VALUE` too. Raises InputError for a text that is none."""
    return dict(parse_override(text) for text in overrides) if isinstance(overrides, list) else overrides or {}


def _checked(data: Mapping[str, Any], source: str) -> WorkflowBase:
    kind = data.get("kind")
    if kind is None:
        raise InputError(f"{source}: key 'kind' is missing: add it, one of {', '.join(SCHEMAS)}")
    if not isinstance(kind, str) or kind not in SCHEMAS:
        raise InputError(f"{source}: key 'kind': found {kind!r}; {near_matches(str(kind), list(SCHEMAS))}")
    return parse_section(SCHEMAS[kind], data, source)


def canonical_yaml(workflow: WorkflowBase) -> str:
    """The workflow as YAML with every default filled in; it loads back to an equal workflow."""
    return yaml.safe_dump(workflow.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def workflow_schema() -> dict[str, Any]:
    """JSON schema of a workflow file, for editors."""
    _, schema = models_json_schema([(model, "validation") for model in SCHEMAS.values()], title="particlegen workflow")
    return schema | {"oneOf": [{"$ref": f"#/$defs/{model.__name__}"} for model in SCHEMAS.values()]}
