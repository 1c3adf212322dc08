"""The runner: stages in order, each going on from what is on disk; the only place that decides when to persist."""

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from particlegen.energy import BuiltSystem, LabelStore, build_system
from particlegen.events import EventSink, ignore
from particlegen.io import atomic
from particlegen.machine import keep_freed_memory
from particlegen.settings import InputError, RunError
from particlegen.workflow.engines import check_engine, open_provider
from particlegen.workflow.executors import check_executor, open_executor
from particlegen.workflow.folder import Journal, RunFolder, next_run_folder
from particlegen.workflow.job import Job, stop_on_signals
from particlegen.workflow.manifest import build_manifest, check_manifest
from particlegen.workflow.opened import Run
from particlegen.workflow.resources import Resources, load_resources
from particlegen.workflow.schema import Workflow, canonical_yaml, load_workflow
from particlegen.workflow.stage_estimates import run_estimates
from particlegen.workflow.stage_generation import run_generation
from particlegen.workflow.stage_reference import run_reference
from particlegen.workflow.stage_report import run_report
from particlegen.workflow.stage_training import given_weights, load_pretrained, run_training

__all__ = ["STAGES", "prepare", "prepare_machine", "resume", "run"]

FEWEST_FRAMES = 8
"""Frames per chain below which equilibration cannot be diagnosed."""

STAGES: dict[str, Callable[[Job], None]] = {
    "reference": run_reference,
    "training": run_training,
    "generation": run_generation,
    "estimates": run_estimates,
    "report": run_report,
}


def prepare(
    workflow: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | list[str] | None
) -> tuple[Workflow, BuiltSystem, Path, str]:
    """A checked workflow, its system, the folder of its cards and its name; nothing is written.

    Raises:
        InputError: anything that can be known to be wrong before the first computation.
    """
    loaded, relative_to, name = load_workflow(workflow, overrides)
    built = build_system(loaded.system, relative_to=relative_to)
    if not built.system.geometry.periodic:
        raise InputError(
            f"key 'system.card': {built.system.name!r} lives in free space; kind: glass needs a periodic box"
        )
    if loaded.reference.frames_per_chain < FEWEST_FRAMES:
        raise InputError(
            f"key 'reference.frames': found {loaded.reference.frames} for {loaded.reference.chains} chains; "
            f"at least {FEWEST_FRAMES} frames per chain are needed to compare them"
        )
    check_engine(loaded, built, relative_to)
    given = given_weights(loaded.training)
    if given is not None:
        load_pretrained(given, loaded.network, built, relative_to)
    return loaded, built, relative_to, name


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
    loaded, built, relative_to, name = prepare(workflow, set)
    machine, device = prepare_machine(resources)
    with _failures_explained(Path(out) if out is not None else Path("runs")):
        folder = RunFolder.create(Path(out) if out is not None else next_run_folder(name))
        try:
            atomic.write_text(folder.workflow_file, canonical_yaml(loaded))
            folder.write_json(folder.manifest_file, build_manifest(loaded, built, relative_to, name, str(device)))
        except BaseException:
            # A folder without both is no run: leave it empty, so that the same command works once there is space.
            folder.workflow_file.unlink(missing_ok=True)
            raise
    return _execute(folder, loaded, built, relative_to, machine, device, listener)


def resume(folder: str | Path, resources: str | Path | Resources | None = None, listener: EventSink = ignore) -> Run:
    """Go on with an interrupted run; a finished one is returned as it is.

    Raises:
        InputError: no run there, its input changed since it began, or another process is running it.
        RunError, Interrupted: as `run`.
    """
    opened = Run(folder)
    check_manifest(opened.manifest, opened.workflow, opened.built, opened.relative_to, opened.folder.path)
    machine, device = prepare_machine(resources)
    return _execute(opened.folder, opened.workflow, opened.built, opened.relative_to, machine, device, listener)


def _execute(
    folder: RunFolder,
    workflow: Workflow,
    built: BuiltSystem,
    relative_to: Path,
    resources: Resources,
    device: torch.device,
    listener: EventSink,
) -> Run:
    keep_freed_memory()
    if resources.threads is not None:
        torch.set_num_threads(resources.threads)
    tasks = resources.executor_for(workflow.reference.workers)
    with (
        _failures_explained(folder.path),
        Journal(folder) as journal,
        stop_on_signals() as stop,
        open_executor(tasks, folder.path / "workers") as executor,
    ):
        job = Job(
            workflow=workflow,
            folder=folder,
            built=built,
            provider=open_provider(workflow, built, relative_to, device, executor, tasks.limits, listener),
            labels=LabelStore(folder.labels_file) if workflow.energy.keep_labels else None,
            label_chunk=workflow.energy.chunk * tasks.slots,
            device=device,
            journal=journal,
            stop=stop,
            listener=listener,
            executor=executor,
            limits=tasks.limits,
            relative_to=relative_to,
        )
        for name, stage in STAGES.items():
            job.check(name)
            stage(job)
    return Run(folder.path)


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
def _failures_explained(path: Path) -> Iterator[None]:
    """A full disk and a full memory become sentences that say what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"no space left while writing to {path}; free some, then: particlegen resume {path}"
        else:
            text = f"{error.filename or path}: {error.strerror or error}; then: particlegen resume {path}"
        raise RunError(text) from error
    except ArithmeticError as error:
        raise RunError(f"{error}") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise RunError(f"out of memory ({error}); lower generation.chunk and training.batch in a new run") from error
