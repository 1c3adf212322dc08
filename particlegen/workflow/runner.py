"""The runner: stages in order, each going on from what is on disk; the only place that decides when to persist."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from particlegen.events import EventSink, ignore
from particlegen.io import atomic
from particlegen.machine import keep_freed_memory
from particlegen.settings import InputError, RunError
from particlegen.workflow.base import WorkflowBase
from particlegen.workflow.executors import check_executor, open_executor
from particlegen.workflow.folder import Journal, RunFolder, free_run_folder, next_run_folder
from particlegen.workflow.job import StopSignal, stop_on_signals
from particlegen.workflow.kind import Kind, Provenance
from particlegen.workflow.kinds import KINDS, open_run
from particlegen.workflow.manifest import build_manifest, check_manifest
from particlegen.workflow.opened import Run
from particlegen.workflow.plans import Need, Outline
from particlegen.workflow.resources import Resources, load_resources
from particlegen.workflow.room import check_disk, check_memory, memory_needs
from particlegen.workflow.schema import canonical_yaml, load_run, load_workflow, overrides_of

__all__ = ["Prepared", "extend", "prepare", "prepare_machine", "resume", "run"]


@dataclass(frozen=True)
class Room:
    """What a workflow would do, and the memory that it takes on this machine."""

    outline: Outline
    memory: tuple[Need, ...]


@dataclass(frozen=True)
class Prepared:
    """A checked workflow and what its cards mean; nothing is written."""

    workflow: WorkflowBase
    kind: Kind
    built: Any
    relative_to: Path
    name: str

    def provenance(self) -> Provenance:
        """What a run of it depends on."""
        return self.kind.provenance(self.workflow, self.built, self.relative_to)

    def origin(self) -> Mapping[str, Any]:
        """The run that it goes on from; empty where it starts from nothing. Raises InputError, see `Kind.origin`."""
        return self.kind.origin(self.workflow, self.built, self.provenance(), self.relative_to)

    def place(self, out: str | Path | None) -> Path:
        """The folder of a fresh run. Raises InputError where none could be made."""
        path = Path(out) if out is not None else free_run_folder(self.name)
        RunFolder(path).check_vacant()
        return path

    def check_room(self, resources: Resources, device: torch.device, folder: Path | None = None) -> Room:
        """What a run takes and what there is; without a folder, the disk is not looked at.

        Raises:
            InputError: the machine has not the memory, or the folder's file system not the room.
        """
        outline = self.kind.outline(self.workflow, self.built)
        needs = memory_needs(outline, resources, self.kind.workers(self.workflow))
        check_memory(needs, self.workflow, device)
        if folder is not None:
            check_disk(outline.disk, self.workflow, folder)
        return Room(outline, needs)


def prepare(workflow: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | list[str] | None) -> Prepared:
    """Check a workflow.

    Raises:
        InputError: anything that can be known to be wrong before the first computation.
    """
    loaded, relative_to, name = load_workflow(workflow, overrides)
    kind = KINDS[loaded.kind]
    return Prepared(loaded, kind, kind.build(loaded, relative_to), relative_to, name)


def prepare_machine(resources: str | Path | Resources | None) -> tuple[Resources, torch.device]:
    """Checked resources, and the device that they name.

    Raises:
        InputError: a mistake in the file, a device that is not there, or an executor that is not installed.
    """
    machine = resources if isinstance(resources, Resources) else load_resources(Path(resources) if resources else None)
    if machine.executor is not None:
        check_executor(machine.executor)
    return machine, _device(machine)


def run(
    workflow: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    set: Mapping[str, Any] | list[str] | None = None,
    resources: str | Path | Resources | None = None,
    listener: EventSink = ignore,
) -> Run:
    """Run a workflow into a fresh folder.

    Args:
        workflow: a YAML file, the name of a catalogue workflow, or a mapping.
        out: the run folder, new or empty; default `runs/NAME-NNN`.
        set: values that replace those of the file, `{"training.minutes": 1}`.
        resources: a YAML file or `Resources`: device, threads, executor.
        listener: hears events, e.g. to show progress.

    Returns:
        The finished run; `run.converged` says whether the stated criteria were met.

    Raises:
        InputError: something in the input is wrong; no folder was made or changed.
        RunError: an engine failed or the disk is full; what was finished can be resumed.
        Interrupted: a signal came; what was finished can be resumed.
    """
    return _begin(prepare(workflow, set), out, resources, listener)


def extend(
    folder: str | Path,
    out: str | Path | None = None,
    set: Mapping[str, Any] | list[str] | None = None,
    resources: str | Path | Resources | None = None,
    listener: EventSink = ignore,
) -> Run:
    """Go on from a run into a fresh folder, with other settings: a temperature, more labels, a longer production.

    The workflow is that of the run with `set` applied and `start_from` naming the folder, which is only read. What is
    taken over is for the kind of workflow to say; every estimate comes from new sampling.

    Args:
        folder: of a run whose adaptation is finished.
        out, set, resources, listener: as `run`.

    Raises:
        InputError: no run there, its kind of workflow cannot be extended, or `set` changes what has to stay the same.
        RunError, Interrupted: as `run`.
    """
    opened = open_run(folder)
    if "start_from" not in type(opened.workflow).model_fields:
        raise InputError(f"{folder}: a run of kind {opened.workflow.kind!r} cannot be extended; start a new one")
    # The folder was given, so it may lie anywhere; one that does not lie beside the cards is named by its full path.
    there, base = opened.folder.path.resolve(), opened.relative_to.resolve()
    start_from = there.relative_to(base) if there.is_relative_to(base) else there
    given = {**overrides_of(set), "start_from": str(start_from)}
    workflow = load_run(opened.folder, given, base)
    kind = KINDS[workflow.kind]
    built = kind.build(workflow, opened.relative_to)
    name = str(opened.manifest["name"])
    return _begin(Prepared(workflow, kind, built, opened.relative_to, name), out, resources, listener)


def _begin(
    prepared: Prepared, out: str | Path | None, resources: str | Path | Resources | None, listener: EventSink
) -> Run:
    """Run into a fresh folder."""
    provenance, origin = prepared.provenance(), prepared.origin()
    machine, device = prepare_machine(resources)
    path = prepared.place(out)
    prepared.check_room(machine, device, path)
    manifest = build_manifest(prepared.workflow, provenance, origin, prepared.relative_to, prepared.name, str(device))
    with _failures_explained(path, begun=False):
        folder = RunFolder.create(path if out is not None else next_run_folder(prepared.name))
        journal = Journal(folder)
    with stop_on_signals() as stop, journal:
        with _failures_explained(folder.path, begun=False):
            if folder.workflow_file.exists():  # another process was faster
                raise folder.occupied()
            # The workflow comes last: with it this is a run. Without it, the same command begins here again.
            folder.write_json(folder.manifest_file, manifest)
            atomic.write_text(folder.workflow_file, canonical_yaml(prepared.workflow))
        with _failures_explained(folder.path):
            return _execute(folder, prepared, machine, device, listener, journal, stop)


def resume(folder: str | Path, resources: str | Path | Resources | None = None, listener: EventSink = ignore) -> Run:
    """Go on with an interrupted run; a finished one is returned as it is.

    Raises:
        InputError: no run there, its input changed since it began, or another process is running it.
        RunError, Interrupted: as `run`.
    """
    opened = open_run(folder)
    workflow, kind = opened.workflow, KINDS[opened.workflow.kind]
    built = kind.build(workflow, opened.relative_to)
    provenance = kind.provenance(workflow, built, opened.relative_to)
    check_manifest(opened.manifest, workflow, provenance, opened.folder.path)
    machine, device = prepare_machine(resources)
    prepared = Prepared(workflow, kind, built, opened.relative_to, str(opened.manifest["name"]))
    prepared.check_room(machine, device)
    with _failures_explained(opened.folder.path), stop_on_signals() as stop, Journal(opened.folder) as journal:
        opened.folder.remove_partials()
        return _execute(opened.folder, prepared, machine, device, listener, journal, stop, resumed=True)


def _execute(
    folder: RunFolder,
    prepared: Prepared,
    resources: Resources,
    device: torch.device,
    listener: EventSink,
    journal: Journal,
    stop: StopSignal,
    resumed: bool = False,
) -> Run:
    keep_freed_memory()
    if resources.threads is not None:
        torch.set_num_threads(resources.threads)
    kind, tasks = prepared.kind, resources.executor_for(prepared.kind.workers(prepared.workflow))
    with open_executor(tasks, folder.path / "workers") as executor:
        job = kind.job(
            workflow=prepared.workflow,
            folder=folder,
            built=prepared.built,
            device=device,
            journal=journal,
            stop=stop,
            listener=listener,
            executor=executor,
            limits=tasks.limits,
            slots=tasks.slots,
            checkpoint_seconds=resources.checkpoint_seconds,
            relative_to=prepared.relative_to,
            resumed=resumed,
        )
        for name, stage in kind.stages.items():
            job.check(name)
            stage(job)
    return kind.open(folder.path)


def _device(resources: Resources) -> torch.device:
    if resources.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(resources.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"key 'device': found {resources.device!r}, but this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device


@contextmanager
def _failures_explained(path: Path, begun: bool = True) -> Iterator[None]:
    """Failures of a run become sentences that say what to do, a full disk and a full memory too."""
    then = f"go on with: particlegen resume {path}" if begun else "nothing was begun: give the same command again"
    try:
        yield
    except RunError as error:
        if "particlegen resume" in str(error):
            raise
        raise RunError(f"{error}; {then}") from error
    except OSError as error:
        if error.errno in atomic.NO_SPACE:
            text = f"no space left while writing to {path}; free some, then {then}"
        else:
            text = f"{error.filename or path}: {error.strerror or error}; {then}"
        raise RunError(text) from error
    except ArithmeticError as error:
        raise RunError(f"{error}; {then}") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise RunError(f"out of memory ({error}); lower generation.chunk and training.batch in a new run") from error
