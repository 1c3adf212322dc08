"""`kind: glass`: the sections of a glass workflow, each owned by the room that consumes it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from particlegen.energy import SystemSettings
from particlegen.flow import GenerationSettings
from particlegen.interpolant import InterpolantSettings
from particlegen.networks import NetworkSettings
from particlegen.sampling import ReferenceSettings
from particlegen.settings import Section
from particlegen.training import TrainingSettings
from particlegen.workflow.base import WorkflowBase

__all__ = [
    "EnergySettings",
    "EstimateSettings",
    "GlassWorkflow",
    "NetworkTraining",
    "PretrainedSettings",
    "StopSettings",
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


class GlassWorkflow(WorkflowBase):
    """A glass workflow: reference → training → generation → estimates → report."""

    kind: Literal["glass"]
    system: SystemSettings
    energy: EnergySettings = EnergySettings()
    reference: ReferenceSettings
    network: NetworkSettings = NetworkSettings()
    interpolant: InterpolantSettings = InterpolantSettings()
    training: TrainingSection
    generation: GenerationSettings = GenerationSettings()
    estimates: EstimateSettings = EstimateSettings()
    stop: StopSettings = StopSettings()

    @model_validator(mode="after")
    def _noise_throughout(self) -> "GlassWorkflow":
        if self.network.denoiser and self.interpolant.noise == "none":
            raise ValueError(
                "'network.denoiser' learns the interpolant's noise, but 'interpolant.noise' is none: name a schedule"
            )
        if self.generation.likelihood == "path" and not self.network.denoiser:
            raise ValueError(
                "'generation.likelihood' path needs a network that knows the noise: set 'network.denoiser' to true and "
                "'interpolant.noise' to a schedule"
            )
        if (
            self.generation.likelihood == "path"
            and self.generation.path.kernel == "plain"
            and not self.generation.path.diffusion
        ):
            raise ValueError("'generation.path': plain kernels need a 'diffusion' above 0")
        return self
