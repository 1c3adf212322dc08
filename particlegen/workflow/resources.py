"""The resources file: what a machine offers to a run. It changes how long a run takes, not what is computed."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from particlegen import catalogue
from particlegen.settings import Section
from particlegen.tasks import TaskLimits
from particlegen.validation import parse_section

__all__ = [
    "BlockSettings",
    "InlineSettings",
    "LocalNodes",
    "ParslSettings",
    "ProcessSettings",
    "Resources",
    "SlurmNodes",
    "load_resources",
    "resources_schema",
]

Seconds = Annotated[float, Field(gt=0.0)]


class InlineSettings(Section):
    """`kind: inline`: every task in the process of the run, one after the other, with its threads and without a limit.

    Args:
        retries: how often a task that raised is tried again.
    """

    kind: Literal["inline"] = "inline"
    retries: int = Field(default=2, ge=0)

    @property
    def limits(self) -> TaskLimits:
        return TaskLimits(self.retries)

    @property
    def slots(self) -> int:
        """Tasks that can run at a time."""
        return 1


class ProcessSettings(Section):
    """`kind: process`: worker processes on this machine; one that dies or hangs is replaced.

    Args:
        workers: processes.
        threads: threads of each.
        timeout: seconds that a task may take, after which its worker is ended; null for no limit.
        retries: how often a task is tried again after it raised, its worker died, or its time was up.
    """

    kind: Literal["process"]
    workers: int = Field(ge=1, le=1024)
    threads: int = Field(default=1, ge=1, le=1024)
    timeout: Seconds | None = None
    retries: int = Field(default=2, ge=0)

    @property
    def limits(self) -> TaskLimits:
        return TaskLimits(self.retries, self.timeout)

    @property
    def slots(self) -> int:
        """Tasks that can run at a time."""
        return self.workers


class LocalNodes(Section):
    """`kind: local`: a block is this machine."""

    kind: Literal["local"] = "local"


class SlurmNodes(Section):
    """`kind: slurm`: a block is a job of so many nodes.

    Args:
        walltime: of a job, `HH:MM:00`.
        nodes: per job.
        partition, account, qos, constraint: what `sbatch` calls them; left to the cluster where null.
        cores: to ask for per node; null leaves it to the cluster.
        memory: GB to ask for per node; null leaves it to the cluster.
        exclusive: whether nodes are not shared with other jobs.
        options: further `#SBATCH` lines.
        setup: shell lines that run on a node before its workers start (modules, environments).
    """

    kind: Literal["slurm"]
    walltime: str = Field(pattern=r"^\d{1,4}:[0-5]\d:00$")
    nodes: int = Field(default=1, ge=1)
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    cores: int | None = Field(default=None, ge=1)
    memory: int | None = Field(default=None, ge=1)
    exclusive: bool = True
    options: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()

    @field_validator("walltime", mode="before")
    @classmethod
    def _written_out(cls, value: Any) -> Any:
        """YAML reads 12:00:00 without quotes as a number of seconds."""
        if isinstance(value, int) and not isinstance(value, bool):
            return f"{value // 3600:02d}:{value // 60 % 60:02d}:{value % 60:02d}"
        return value

    @property
    def seconds(self) -> int:
        hours, minutes, _ = self.walltime.split(":")
        return 3600 * int(hours) + 60 * int(minutes)


class BlockSettings(Section):
    """How many blocks (jobs) there are; they come and go with the queue of tasks.

    Args:
        initial: asked for at the start.
        fewest, most: limits.
        parallelism: worker slots per waiting task that are asked for; 1 asks for one each, as far as `most` allows.
        idle: seconds after which a block without tasks is given back.
    """

    initial: int = Field(default=1, ge=0)
    fewest: int = Field(default=0, ge=0)
    most: int = Field(default=1, ge=1)
    parallelism: float = Field(default=1.0, gt=0.0, le=1.0)
    idle: Seconds = 120.0

    @model_validator(mode="after")
    def _ordered(self) -> "BlockSettings":
        if not self.fewest <= self.initial <= self.most:
            raise ValueError(
                f"expected fewest <= initial <= most, found {self.fewest}, {self.initial}, {self.most}; change one"
            )
        return self


class ParslSettings(Section):
    """`kind: parsl`: worker processes on the nodes of a cluster, by Parsl's high-throughput executor.

    Args:
        workers: processes per node.
        threads: threads of each.
        nodes: where the nodes come from.
        blocks: how many are asked for.
        timeout, retries: as of `kind: process`.
        heartbeat: seconds between looks at the workers: a dead one is noticed, and replaced, after at most so many.
    """

    kind: Literal["parsl"]
    workers: int = Field(ge=1, le=1024)
    threads: int = Field(default=1, ge=1, le=1024)
    nodes: Annotated[LocalNodes | SlurmNodes, Field(discriminator="kind")] = LocalNodes()
    blocks: BlockSettings = BlockSettings()
    timeout: Seconds | None = None
    retries: int = Field(default=2, ge=0)
    heartbeat: int = Field(default=10, ge=1, le=120)

    @model_validator(mode="after")
    def _fits(self) -> "ParslSettings":
        if isinstance(self.nodes, SlurmNodes):
            if self.nodes.cores is not None and self.workers * self.threads > self.nodes.cores:
                raise ValueError(
                    f"{self.workers} workers of {self.threads} threads need {self.workers * self.threads} cores, "
                    f"'nodes.cores' asks for {self.nodes.cores}; lower workers or threads"
                )
            if self.timeout is not None and self.timeout >= self.nodes.seconds:
                raise ValueError(
                    f"a task may take {self.timeout:g} s, a job ends after {self.nodes.seconds} s; lower 'timeout' or "
                    "raise 'nodes.walltime'"
                )
        return self

    @property
    def limits(self) -> TaskLimits:
        return TaskLimits(self.retries, self.timeout)

    @property
    def slots(self) -> int:
        """Tasks that can run at a time, with all blocks there."""
        nodes = self.nodes.nodes if isinstance(self.nodes, SlurmNodes) else 1
        return self.workers * nodes * self.blocks.most


ExecutorSection = Annotated[InlineSettings | ProcessSettings | ParslSettings, Field(discriminator="kind")]


class Resources(Section):
    """What a machine offers; it changes how long a run takes, not what is computed.

    Args:
        device: where networks run; `auto` takes a CUDA device if there is one.
        threads: threads of torch in the process of the run; null leaves torch's own choice.
        executor: who does the tasks; null: as many processes as `reference.workers` says.
        checkpoint_seconds: between two checkpoints of work that may be cut anywhere (training, quenches, log-densities
            of held-out frames): what a kill can cost of it. All else is on disk as soon as it is there.
    """

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: int | None = Field(default=None, ge=1, le=1024)
    executor: ExecutorSection | None = None
    checkpoint_seconds: float = Field(default=20.0, ge=0.0, le=86_400.0)

    def executor_for(self, workers: int) -> ExecutorSection:
        """`executor`, or the one that a workflow asks for with its own number of workers."""
        if self.executor is not None:
            return self.executor
        return InlineSettings() if workers == 1 else ProcessSettings(kind="process", workers=workers)


def load_resources(path: Path | None) -> Resources:
    """The resources file, or the defaults.

    Raises:
        InputError: no such file, malformed YAML, unknown keys, wrong values; every mistake is listed.
    """
    return Resources() if path is None else parse_section(Resources, catalogue.parse_yaml(path), path.name)


def resources_schema() -> dict[str, Any]:
    """JSON schema of a resources file, for editors."""
    return Resources.model_json_schema()
