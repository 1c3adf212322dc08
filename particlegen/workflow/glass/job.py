"""What the stages of a glass workflow are handed."""

from dataclasses import dataclass

from particlegen.energy import BuiltSystem, LabelStore
from particlegen.workflow.glass.engines import open_provider
from particlegen.workflow.glass.schema import GlassWorkflow
from particlegen.workflow.job import Job

__all__ = ["GlassJob"]


@dataclass(kw_only=True)
class GlassJob(Job):
    """A session of a glass workflow, with the engine that its workflow names."""

    workflow: GlassWorkflow
    built: BuiltSystem

    def __post_init__(self) -> None:
        self.provider = open_provider(
            self.workflow, self.built, self.relative_to, self.device, self.executor, self.limits, self.listener
        )
        self.labels = LabelStore(self.folder.labels_file) if self.workflow.energy.keep_labels else None
