"""Energies of the structures in a file, under a system card."""

import math
from collections.abc import Callable, Iterator
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from particlegen.energy.build import SystemSettings, build_system
from particlegen.energy.engine_cards import open_engine
from particlegen.energy.pair import TorchPairEnergy
from particlegen.energy.provider import EnergyProvider
from particlegen.io.structures import Structure, iter_structures
from particlegen.settings import InputError

__all__ = ["energies_of_frames", "energy_of_file"]

_FRAMES_PER_BATCH = 4096


def energy_of_file(
    card: str | SystemSettings,
    path: Path | str,
    format: str | None = None,
    relative_to: Path | None = None,
    engine: str | None = None,
) -> list[dict[str, Any]]:
    """Energy of every frame of a structure file, as JSON-serialisable mappings.

    N, box and species come from the file; potential and image rule from the card. The engine is opened once for
    successive frames that are alike in species, diameters and box, and sees at most 4,096 of them at a time.

    Args:
        card: name or path of a system card, or settings that override its potential or image rule.
        path: structure file, see `iter_structures`.
        format: an ASE format by name, see `iter_structures`.
        relative_to: folder that a card's path is relative to.
        engine: name or path of an engine card; default torch, with the system card's pair potential.

    Returns:
        One mapping per frame with `energy` and `energy_per_particle` in the card's unit of energy, `n_particles`,
        and `virial` = −Σ r U'(r) (None where the engine has none). Where the energy is infinite or undefined
        (coincident particles), or the engine failed, it is None and `reason` says why.

    Raises:
        InputError: the card or the file is wrong, or they do not fit each other; names the key, or file and frame.
    """
    settings = SystemSettings(card=card) if isinstance(card, str) else card

    def opened(first: Structure) -> EnergyProvider:
        built = build_system(settings, relative_to, structure=first)
        if engine is None:
            return TorchPairEnergy(built.system, built.potential)
        return open_engine(built.system, engine, built.potential, relative_to)

    return energies_of_frames(opened, path, format)


def energies_of_frames(
    opened: Callable[[Structure], EnergyProvider], path: Path | str, format: str | None = None
) -> list[dict[str, Any]]:
    """Energy of every frame of a structure file, in the form of `energy_of_file`.

    Args:
        opened: the engine for successive frames that are alike, from the first of them.
        path, format: see `iter_structures`.

    Raises:
        InputError: names file and frame.
    """
    results: list[dict[str, Any]] = []
    for _, frames in groupby(iter_structures(path, format), key=_signature):
        first = next(frames)
        try:
            provider = opened(first)
        except InputError as error:
            raise InputError(f"{path}: frame {len(results) + 1}: {error}") from error
        for batch in _batches(chain([first], frames)):
            results += _rows(provider, batch)
    return results


def _signature(frame: Structure) -> tuple[Any, ...]:
    return frame.species, frame.lengths, None if frame.diameters is None else frame.diameters.tobytes()


def _batches(frames: Iterator[Structure]) -> Iterator[list[Structure]]:
    while batch := list(islice(frames, _FRAMES_PER_BATCH)):
        yield batch


def _rows(provider: EnergyProvider, batch: list[Structure]) -> list[dict[str, Any]]:
    positions = torch.from_numpy(np.stack([frame.positions for frame in batch]))
    virial = "virial" in getattr(provider, "quantities", ("virial",))
    result = provider.evaluate(positions, ("energy", "virial") if virial else ("energy",))
    virials = [None] * len(batch) if result.virial is None else result.virial.tolist()
    found = zip(result.energy.tolist(), virials, result.reasons, strict=True)
    return [_row(energy, w, provider.system.n_particles, reason) for energy, w, reason in found]


def _row(energy: float, virial: float | None, n: int, reason: str | None) -> dict[str, Any]:
    if not math.isfinite(energy):
        reason = "two particles coincide" if energy == math.inf else reason or "the energy is not a number"
        return {"energy": None, "energy_per_particle": None, "n_particles": n, "virial": None, "reason": reason}
    return {"energy": energy, "energy_per_particle": energy / n, "n_particles": n, "virial": virial}
