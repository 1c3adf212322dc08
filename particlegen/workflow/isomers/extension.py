"""A run that goes on from another one: what has to be the same, and what is taken over before the adaptation.

Minima, labels, flows and chains are taken over; they shape what is proposed and what is learned, and no estimate. Every
estimate comes from a production of its own, whose random streams are told apart from those of the other run by a
generation: a run that starts from nothing has generation 0, one that goes on from it has 1, and so on. So a seed that
stays the same repeats none of the other run's random numbers.
"""

import hashlib
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from particlegen.energy import EnergyProvider, LabelStore
from particlegen.energy.distributed import made
from particlegen.energy.fingerprint import settings_hash, settings_of
from particlegen.events import Event
from particlegen.io.checkpoint import Checkpoint
from particlegen.isomers import BuiltCluster
from particlegen.settings import InputError
from particlegen.workflow.engines import engine_recipe
from particlegen.workflow.folder import RunFolder
from particlegen.workflow.isomers.adaptation import adaptation_finished
from particlegen.workflow.isomers.job import ADAPTATION, INHERITED, MINIMA, IsomerJob, engine_card
from particlegen.workflow.isomers.labels import taken
from particlegen.workflow.isomers.run import IsomerRun
from particlegen.workflow.isomers.schema import IsomerWorkflow
from particlegen.workflow.kind import Provenance
from particlegen.workflow.schema import load_run

__all__ = ["origin", "run_inheritance"]

ARCHITECTURE = ("kind", "layers", "hidden", "bins")
"""Keys of `flow` that have to be the same for the weights to fit."""

PAGE = 500
"""Labels that are copied at a time."""


def origin(workflow: IsomerWorkflow, built: BuiltCluster, provenance: Provenance, relative_to: Path) -> dict[str, Any]:
    """Where a run starts from, for its manifest: folder, digests of workflow and results, seed, generation.

    Empty for a run that starts from nothing.

    Raises:
        InputError: no run on isomers there, its adaptation is not finished, or system or engine are not the same.
    """
    if workflow.start_from is None:
        return {}
    old = _opened(workflow.start_from, relative_to)
    _check_same(old, workflow, provenance)
    names, theirs = ([isomer.name for isomer in cluster.isomers] for cluster in (built, old.built))
    if names != theirs:
        raise InputError(
            f"key 'start_from': {old.folder.path} has other isomers: {', '.join(names)} here and {', '.join(theirs)} "
            "there; name the same in the same order (system.isomers), or leave out 'start_from'"
        )
    adapted = _finished(old)
    if workflow.learned is not None:
        unknown = [isomer.name for isomer in built.isomers if not taken(isomer.name, adapted.tensors)]
        if unknown:
            raise InputError(
                f"key 'start_from': {old.folder.path} learned no potential, so there are no labels of "
                f"{', '.join(unknown)} to take over; leave out 'learned', or 'start_from'"
            )
        name, folder = engine_card(workflow, built, relative_to)
        _check_settings(old, made(engine_recipe(built.system, name, None, folder)))
    return _identity(old)


def run_inheritance(job: IsomerJob) -> None:
    """Take over what the run that is started from has; once, and only by reading there.

    Raises:
        InputError: that run has changed since this one was begun.
    """
    if job.workflow.start_from is None or job.load(INHERITED) is not None:
        return
    old = _opened(job.workflow.start_from, job.relative_to)
    isomers, path = job.built.isomers, old.folder.path
    adapted, minima = _finished(old), old.checkpoint(MINIMA)
    if _identity(old) != job.origin or minima is None:
        raise InputError(f"{path}: changed since {job.folder.path} was begun from it; restore it, or start anew")
    job.emit(Event("started", INHERITED, f"minima, labels, flows and chains of {path}"))
    answers = _copied_labels(job, old)
    job.save(MINIMA, minima.step, minima.tensors, minima.metadata | {"calls": 0.0})
    job.emit(Event("progress", MINIMA, f"as in {path}", {"done": len(isomers), "total": len(isomers)}))
    fitting = all(getattr(job.workflow.flow, key) == getattr(old.workflow.flow, key) for key in ARCHITECTURE)
    # The harmonic law widens with the root of the temperature; anharmonicity is left to the training.
    widening = (job.built.state.temperature / old.built.state.temperature) ** 0.5
    tensors: dict[str, Tensor] = {}
    notes: dict[str, Any] = {}
    for isomer in isomers:
        name = isomer.name
        tensors[f"{name}.chains"] = adapted.tensors[f"{name}.chains"]
        if job.workflow.learned is not None:
            tensors |= {f"{name}.labels.{key}": value for key, value in taken(name, adapted.tensors).items()}
        if fitting:
            tensors |= {key: value for key, value in adapted.tensors.items() if key.startswith(f"{name}.flow.")}
            tensors[f"{name}.flow.axes"] = widening * tensors[f"{name}.flow.axes"]
        step = float(adapted.metadata[name]["step"])
        notes[name] = {"calls": 0, "labels": 0, "rounds": [], "history": [], "step": step}
    job.save(INHERITED, 1, tensors, notes)
    said = f"{answers} stored answers" + ("" if fitting else "; no flows, whose settings are others")
    job.emit(Event("finished", INHERITED, said))


def _opened(start_from: str, relative_to: Path) -> IsomerRun:
    path = Path(relative_to) / start_from
    try:
        kind = load_run(RunFolder.open(path)).kind
    except InputError as error:
        raise InputError(f"key 'start_from': {error}") from error
    if kind != "isomers":
        raise InputError(f"key 'start_from': {path} is a run of kind {kind!r}; give one of kind 'isomers'")
    return IsomerRun(path)


def _finished(old: IsomerRun) -> Checkpoint:
    """What the adaptation ended with."""
    adapted, minima = old.checkpoint(ADAPTATION), old.checkpoint(MINIMA)
    if adapted is None or minima is None or not adaptation_finished(old.workflow, adapted, old.built.isomers):
        done, most = adapted.step if adapted else 0, old.workflow.adaptation.rounds * len(old.built.isomers)
        raise InputError(
            f"key 'start_from': the adaptation of {old.folder.path} is not finished: {done} of {most} "
            f"rounds of isomers are there; finish it first: particlegen resume {old.folder.path}"
        )
    return adapted


def _check_same(old: IsomerRun, workflow: IsomerWorkflow, provenance: Provenance) -> None:
    """System and engine of both runs; temperature and everything else may differ."""
    path, manifest = old.folder.path, old.manifest
    if manifest.get("system_hash") != provenance.system_hash:
        mine, theirs = workflow.system, old.workflow.system
        said = [
            f"system.{key} is {getattr(mine, key)!r} here and {getattr(theirs, key)!r} there"
            for key in ("card", "radius")
            if getattr(mine, key) != getattr(theirs, key)
        ]
        raise InputError(
            f"key 'start_from': {path} has another system: "
            f"{'; '.join(said) or 'structures, radius or reach of its card have changed'}; its minima cannot be taken "
            "over: make the system the same, or leave out 'start_from'"
        )
    mine, theirs = _own(workflow, provenance.engines), _own(old.workflow, manifest.get("engines", {}))
    if mine != theirs:
        mine_said, theirs_said = (
            ", ".join(f"{name} ({digest[:12]})" for name, digest in engines.items()) or "none"
            for engines in (mine, theirs)
        )
        raise InputError(
            f"key 'start_from': {path} has another engine: {mine_said} here and {theirs_said} there, by name and "
            "digest of the card; its labels and minima cannot be taken over: name the same engine, or leave out "
            "'start_from'"
        )


def _own(workflow: IsomerWorkflow, engines: Mapping[str, str]) -> dict[str, str]:
    """Digests of the engines that a run samples and learns, by card; what checks the answer may be another."""
    other = workflow.check.engine if workflow.check is not None else None
    return {name: digest for name, digest in engines.items() if name != other}


def _check_settings(old: IsomerRun, engine: EnergyProvider) -> None:
    """The labels that are taken over were made with what this engine is now, its version too."""
    if not old.folder.labels_file.is_file():
        return
    known, mine = LabelStore(old.folder.labels_file, create=False).summaries(), settings_of(engine)
    if not known or settings_hash(mine) in {summary.settings_hash for summary in known}:
        return
    theirs = known[-1].settings
    keys = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
    said = "; ".join(f"{key} is {mine.get(key)!r} here and {theirs.get(key)!r} there" for key in keys)
    raise InputError(
        f"key 'start_from': the labels of {old.folder.path} are of other settings of the engine: {said}; install what "
        "made them, or leave out 'start_from'"
    )


def _copied_labels(job: IsomerJob, old: IsomerRun) -> int:
    """Answers of the same settings, into this run's store; how many."""
    if job.labels is None or not old.folder.labels_file.is_file():
        return 0
    key, count = job.labels.add_settings(settings_of(job.provider)), 0
    found = LabelStore(old.folder.labels_file, create=False).labels(key)
    while page := list(islice(found, PAGE)):
        job.labels.put(page)
        count += len(page)
    return count


def _identity(old: IsomerRun) -> dict[str, Any]:
    results, before = old.folder.results_file, old.manifest.get("start_from", {})
    return {
        "folder": old.folder.path.resolve().name,
        "workflow_sha256": old.manifest.get("workflow_sha256"),
        "results_sha256": hashlib.sha256(results.read_bytes()).hexdigest() if results.is_file() else None,
        "seed": old.workflow.seed,
        "generation": 1 + int(before.get("generation", 0)),
    }
