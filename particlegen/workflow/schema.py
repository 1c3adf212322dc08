"""The workflow file: each room's section, assembled and checked, and the same file back in canonical form."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Discriminator, Field, Tag, field_validator

from particlegen import catalogue
from particlegen.energy import SystemSettings
from particlegen.flow import GenerationSettings
from particlegen.interpolant import InterpolantSettings
from particlegen.networks import NetworkSettings
from particlegen.sampling import ReferenceSettings
from particlegen.settings import InputError, Section
from particlegen.training import TrainingSettings
from particlegen.validation import parse_section
from particlegen.workflow.overrides import apply_overrides, parse_override

__all__ = [
    "EnergySettings",
    "EstimateSettings",
    "NetworkTraining",
    "PretrainedSettings",
    "StopSettings",
    "Workflow",
    "canonical_yaml",
    "load_workflow",
    "workflow_schema",
]


class PretrainedSettings(Section):
    """`training: {pretrained: NAME}`: weights that were trained before, instead of training.

    Args:
        pretrained: a network card of the catalogue, or a relative path to a user's own card (ends in `.yaml`).
    """

    pretrained: str = Field(min_length=1)


class NetworkTraining(TrainingSettings):
    """`training`, when something is trained: the settings of the loop, and where it starts.

    Args:
        start_from: weights to go on from instead of random ones, named like `pretrained`: a longer training, more data,
            or another temperature of the same system.
    """

    start_from: str | None = Field(default=None, min_length=1)


class EnergySettings(Section):
    """Which engine answers energies: of the reference's trajectories and of generated samples.

    Args:
        engine: an engine card of `potentials/`, or the path of your own; null for the pair potential of the system's
            card by torch. An engine that is named is sampled by `reference.sampler: hmc`.
        chunk: configurations per task of the executor; few for costly engines, many for fast ones.
        keep_labels: whether every answer is kept in the run's `labels.db` and never paid for again.
    """

    engine: str | None = Field(default=None, min_length=1)
    chunk: int = Field(default=16, ge=1)
    keep_labels: bool = False


class EstimateSettings(Section):
    """What is estimated from the weighted samples.

    Args:
        observables: averages beside the diagnostics.
        free_energy: absolute free energy from the mean weight.
        held_out: share of the reference frames, the last ones, that training never sees; forward ESS comes from them.
        held_out_frames: at most this many of them are scored.
    """

    observables: tuple[Literal["energy", "heat_capacity", "rdf", "structure_factor"], ...] = (
        "energy",
        "heat_capacity",
        "rdf",
    )
    free_energy: bool = True
    held_out: float = Field(default=0.1, ge=0.0, le=0.5)
    held_out_frames: int = Field(default=500, ge=2)


class StopSettings(Section):
    """What a finished run has to reach; below it the exit code is 4.

    Args:
        r_hat: largest rank-normalised split R-hat of the reference chains.
        pareto_k: largest Pareto k of the importance weights; null to accept any.
        ess_per_sample: smallest effective sample size per sample; null to accept any.
    """

    r_hat: float | None = Field(default=1.01, gt=1.0)
    pareto_k: float | None = Field(default=0.7, gt=0.0)
    ess_per_sample: float | None = Field(default=None, gt=0.0, le=1.0)


def _training_kind(value: Any) -> str:
    if isinstance(value, PretrainedSettings) or (isinstance(value, Mapping) and "pretrained" in value):
        return "pretrained"
    return "training"


TrainingSection = Annotated[
    Annotated[NetworkTraining, Tag("training")] | Annotated[PretrainedSettings, Tag("pretrained")],
    Discriminator(_training_kind),
]


class Workflow(Section):
    """A glass workflow: reference → training → generation → estimates → report."""

    version: Literal[1]
    kind: Literal["glass"]
    seed: int = Field(default=0, ge=0, lt=2**63)
    system: SystemSettings
    energy: EnergySettings = EnergySettings()
    reference: ReferenceSettings
    network: NetworkSettings = NetworkSettings()
    interpolant: InterpolantSettings = InterpolantSettings()
    training: TrainingSection
    generation: GenerationSettings = GenerationSettings()
    estimates: EstimateSettings = EstimateSettings()
    stop: StopSettings = StopSettings()

    @field_validator("version", "seed", mode="before")
    @classmethod
    def _plain_integer(cls, value: Any) -> Any:
        """`version: true` and `seed: "7"` are slips, not numbers."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("expected an integer")
        return value


def load_workflow(
    workflow: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | list[str] | None = None
) -> tuple[Workflow, Path, str]:
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
    if data.get("kind") not in (None, "glass"):
        raise InputError(f"{source}: key 'kind': found {data['kind']!r}; this version runs kind: glass")
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "workflow"
    return parse_section(Workflow, data, source), folder, safe


def canonical_yaml(workflow: Workflow) -> str:
    """The workflow as YAML with every default filled in; it loads back to an equal workflow."""
    return yaml.safe_dump(workflow.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def workflow_schema() -> dict[str, Any]:
    """JSON schema of a workflow file, for editors."""
    return Workflow.model_json_schema()
