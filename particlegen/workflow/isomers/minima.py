"""Minima stage: every isomer optimised with the target engine, its point group found, its Hessian by differences."""

import torch

from particlegen.energy import Counted, Ledger
from particlegen.events import Event
from particlegen.isomers import Basins, EckartFrame, hessian, optimise
from particlegen.settings import InputError
from particlegen.units import energy_unit
from particlegen.workflow.isomers.job import MINIMA, TOLERANCE, IsomerJob
from particlegen.workflow.isomers.labels import Recorded, label_tensors

__all__ = ["run_minima"]

LARGEST_FORCE = {"lj": 1e-6, "metal": 5e-3}
"""On a particle of an optimised structure; in eV/Å what density-functional engines can reach."""

HESSIAN_STEP = {"lj": 1e-3, "metal": 0.02}
"""Of the differences of forces: far above the noise of forces, far below thermal displacements."""


def run_minima(job: IsomerJob) -> None:
    """Find what is still missing; each isomer is on disk before the next begins.

    Raises:
        InputError: an isomer relaxes into the basin of another, or is a saddle.
        RunError: the engine fails.
    """
    isomers, units = job.built.isomers, job.built.system.units
    saved = job.load(MINIMA)
    done = saved.step if saved else 0
    if done == len(isomers):
        return
    tensors = dict(saved.tensors) if saved else {}
    energies: list[float] = list(saved.metadata["energies"]) if saved else []
    labels: list[str] = list(saved.metadata["point_groups"]) if saved else []
    calls, ledger = float(saved.metadata["calls"]) if saved else 0.0, Ledger()
    provider = Counted(job.energies(MINIMA), ledger, MINIMA)
    job.emit(Event("started", MINIMA, f"optimise {len(isomers)} isomers with {provider.name}"))
    for number, isomer in enumerate(isomers[done:], start=done):
        recorded = Recorded(provider)
        x, energy = optimise(recorded, isomer.structure, LARGEST_FORCE[units])
        found = int(job.built.basins.assign(x[None])[0])
        if found != number:
            where = isomers[found].name if 0 <= found < len(isomers) else "none of those asked for"
            raise InputError(
                f"isomer {isomer.name}: with {provider.name} it relaxes into the basin of {where}; it is no minimum of "
                "this engine: give another structure, or leave it out of system.isomers"
            )
        frame = EckartFrame(x, job.built.system.species, TOLERANCE[units])
        harmonic = hessian(recorded, frame, energy, HESSIAN_STEP[units], isomer.name)
        tensors |= {f"{isomer.name}.structure": x, f"{isomer.name}.curvatures": harmonic.curvatures}
        tensors[f"{isomer.name}.modes"] = harmonic.modes
        if job.workflow.learned is not None:
            tensors |= label_tensors(isomer.name, recorded.labels)
        energies.append(energy)
        labels.append(frame.symmetry.label)
        notes = {"energies": energies, "point_groups": labels, "calls": calls + ledger.total_calls(provider.name)}
        job.save(MINIMA, number + 1, tensors, notes)
        said = f"{isomer.name}: {labels[-1]}, {energy:.6f} {energy_unit(units)}"
        job.emit(Event("progress", MINIMA, said, {"done": number + 1, "total": len(isomers)}))
        job.check(MINIMA)
    _check_apart(job, torch.stack([tensors[f"{isomer.name}.structure"] for isomer in isomers]))
    job.emit(Event("finished", MINIMA, ", ".join(f"{i.name} {g}" for i, g in zip(isomers, labels, strict=True))))


def _check_apart(job: IsomerJob, structures: torch.Tensor) -> None:
    try:
        Basins(structures, job.built.system.species)
    except ValueError as error:
        raise InputError(f"system {job.built.system.name!r}: after optimisation, {error}") from error
