"""What the answer rests on: energies of the engine and of learned potentials, labels, how the learning went."""

from typing import Any

import numpy as np

from particlegen.workflow.isomers.job import ADAPTATION, CORRECTION, MINIMA, PRODUCTION, VIBRATIONS, IsomerJob
from particlegen.workflow.isomers.labels import taken
from particlegen.workflow.isomers.production import AUDIT, DRAWS, MIXTURE
from particlegen.workflow.spent import as_dicts, count

__all__ = ["energy_calls", "learning_summary"]


def energy_calls(job: IsomerJob) -> dict[str, Any]:
    """Energies that the answer rests on; the same whether or not the run was interrupted."""
    drawn = job.store.read(DRAWS, "energy")
    sampled = float(np.isfinite(drawn).sum() + job.store.read(DRAWS, "failed").sum())
    for stage in (MIXTURE, AUDIT, VIBRATIONS):
        saved = job.load(stage)
        sampled += float(saved.metadata["calls"]) if saved else 0.0
    for stage in (ADAPTATION, PRODUCTION, CORRECTION):
        saved = job.load(stage)
        sampled += sum(float(note["calls"]) for note in saved.metadata.values()) if saved else 0.0
    minima = job.load(MINIMA)
    labels = float(minima.metadata["calls"]) if minima else 0.0
    if job.workflow.learned is None:
        return as_dicts({job.provider.name: count(labels + sampled, "calls")})
    for stage in (ADAPTATION, CORRECTION):
        saved = job.load(stage)
        labels += sum(float(note["labels"]) for note in saved.metadata.values()) if saved else 0.0
    found = {job.provider.name: labels, "learned": sampled}
    if job.baseline is not None:
        # Once with every call of the learned potential, and once for each label in every round that learns.
        found[job.baseline.name] = sampled + sum(note["baseline_calls"] for note in job.adapted.metadata.values())
    return as_dicts({name: count(calls, "calls") for name, calls in found.items()})


def learning_summary(job: IsomerJob) -> dict[str, Any]:
    """What the report shows of the learning: errors on new labels by round, labels by stage, the parity plot."""
    saved, minima = job.load(CORRECTION), job.load(MINIMA)
    if saved is None or minima is None:
        return {}
    names = [isomer.name for isomer in job.built.isomers]
    adapted, inherited = job.adapted.metadata, job.inherited
    taken_over = [] if inherited is None else [len(taken(name, inherited.tensors)["energies"]) for name in names]
    return {
        "rounds": {name: adapted[name]["rounds"] for name in names},
        "left_out_rmse": {name: adapted[name]["left_out_rmse"] for name in names},
        "labels": {
            "minima": minima.metadata["calls"],
            "adaptation": sum(adapted[name]["labels"] for name in names),
            "correction": sum(saved.metadata[name]["labels"] for name in names),
            **({"inherited": sum(taken_over)} if taken_over else {}),
        },
        "delayed_acceptance": {name: saved.metadata[name].get("delayed") for name in names},
        "parity": {
            name: {key: saved.tensors[f"{name}.{key}"].tolist() for key in ("exact", "surrogate", "deviation")}
            for name in names
        },
    }
