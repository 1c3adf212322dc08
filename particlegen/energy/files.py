"""Energies of the structures in a file, under a system card."""

import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from particlegen.energy.build import SystemSettings, build_system
from particlegen.energy.pair import TorchPairEnergy
from particlegen.io.structures import Structure, iter_structures
from particlegen.settings import InputError

__all__ = ["energy_of_file"]

_FRAMES_PER_BATCH = 4096


def energy_of_file(
    card: str | SystemSettings, path: Path | str, format: str | None = None, relative_to: Path | None = None
) -> list[dict[str, Any]]:
    """Energy of every frame of a structure file, as JSON-serialisable mappings.

    N, box and species come from the file; potential and image rule from the card.

    Args:
        card: name or path of a system card, or settings that override its potential or image rule.
        path: structure file, see `iter_structures`.
        format: an ASE format by name, see `iter_structures`.
        relative_to: folder that a card's path is relative to.

    Returns:
        One mapping per frame with `energy` and `energy_per_particle` in the card's unit of energy, `n_particles`,
        and `virial` = −Σ r U'(r). Where a number is infinite or undefined (coincident particles), it is None and
        `reason` says why.

    Raises:
        InputError: the card or the file is wrong, or they do not fit each other; names the key, or file and frame.
    """
    settings = SystemSettings(card=card) if isinstance(card, str) else card
    results: list[dict[str, Any]] = []
    for _, group in groupby(iter_structures(path, format), key=_signature):
        for batch in _batches(group):
            try:
                built = build_system(settings, relative_to, structure=batch[0])
            except InputError as error:
                raise InputError(f"{path}: frame {len(results) + 1}: {error}") from error
            positions = torch.from_numpy(np.stack([frame.positions for frame in batch]))
            result = TorchPairEnergy(built.system, built.potential).evaluate(positions, ("energy", "virial"))
            virial = result.virial if result.virial is not None else result.energy
            for energy, w in zip(result.energy.tolist(), virial.tolist(), strict=True):
                results.append(_row(energy, w, built.system.n_particles))
    return results


def _signature(frame: Structure) -> tuple[Any, ...]:
    return frame.species, frame.lengths, None if frame.diameters is None else frame.diameters.tobytes()


def _batches(frames: Iterator[Structure]) -> Iterator[list[Structure]]:
    batch: list[Structure] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == _FRAMES_PER_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _row(energy: float, virial: float, n: int) -> dict[str, Any]:
    if not math.isfinite(energy):
        reason = "two particles coincide" if energy == math.inf else "the energy is not a number"
        return {"energy": None, "energy_per_particle": None, "n_particles": n, "virial": None, "reason": reason}
    return {"energy": energy, "energy_per_particle": energy / n, "n_particles": n, "virial": virial}
