"""What the stages of a glass workflow are handed."""

from dataclasses import dataclass, field

from particlegen.energy import BuiltSystem, Cached, EnergyProvider, LabelStore
from particlegen.workflow.glass.engines import open_provider
from particlegen.workflow.glass.schema import GlassWorkflow
from particlegen.workflow.job import Job

__all__ = ["GlassJob"]


@dataclass(kw_only=True)
class GlassJob(Job):
    """A session of a glass workflow, with the engine that answers energies and the store of its labels, if any."""

    workflow: GlassWorkflow
    built: BuiltSystem
    provider: EnergyProvider = field(init=False)
    labels: LabelStore | None = field(init=False)

    def __post_init__(self) -> None:
        self.provider = open_provider(
            self.workflow, self.built, self.relative_to, self.device, self.executor, self.limits, self.listener
        )
        self.labels = LabelStore(self.folder.labels_file) if self.workflow.energy.keep_labels else None

    def energies(self, stage: str) -> EnergyProvider:
        """The engine, counted for a stage, its answers kept if the workflow says so."""
        counted = self.counted(self.provider, stage)
        if self.labels is None:
            return counted
        return Cached(counted, self.labels, chunk=self.workflow.energy.chunk * self.slots)
