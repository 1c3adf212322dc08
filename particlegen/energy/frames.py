"""Engines that take one configuration at a time, made into batches; whatever such an engine raises becomes data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from particlegen.energy.provider import EnergyResult, check_request
from particlegen.geometry import Positions
from particlegen.system import ParticleSystem

__all__ = ["Frame", "evaluate_frames"]


@dataclass(frozen=True)
class Frame:
    """What an engine found for one configuration, in the system's units.

    Args:
        energy: U.
        forces: `(particle, dim)`, or None when not asked for.
        virial: W = −Σ r U'(r), or None when not asked for.
        iterations: of the self-consistency, where the engine tells.
    """

    energy: float
    forces: np.ndarray | None = None
    virial: float | None = None
    iterations: int | None = None


def evaluate_frames(
    system: ParticleSystem,
    positions: Positions,
    want: Sequence[str],
    offered: Sequence[str],
    engine: Callable[[np.ndarray, Sequence[str]], Frame],
) -> EnergyResult:
    """A batch, one configuration after the other.

    The engine gets positions `(particle, dim)` inside the box, float64. An item fails, with the reason, where the
    positions are not finite, where the engine raises, or where a number that was asked for is not finite. Outside the
    confining sphere of free space the energy is +inf, and the engine is not asked.

    Raises:
        ValueError: positions of another N or dimension, or a quantity in `want` that is not offered.
    """
    check_request(system, positions, want, offered)
    wrapped = system.geometry.wrap(positions.detach().to("cpu", torch.float64))
    x, inside = wrapped.numpy(), system.geometry.contains(wrapped).tolist()
    n = len(x)
    energy, virial, forces = np.full(n, np.nan), np.full(n, np.nan), np.full(x.shape, np.nan)
    reasons: list[str | None] = [None] * n
    iterations: list[int | None] = [None] * n
    for item, frame in enumerate(x):
        if not np.isfinite(frame).all():
            reasons[item] = "positions are not finite"
        elif not inside[item]:
            energy[item], virial[item], forces[item] = np.inf, np.inf, 0.0
        else:
            try:
                found = engine(frame, want)
                energy[item] = found.energy
                forces[item] = found.forces if found.forces is not None else 0.0
                virial[item] = found.virial if found.virial is not None else 0.0
                iterations[item] = found.iterations
            except Exception as error:
                reasons[item] = f"{type(error).__name__}: {error}"
            else:
                if not all(np.isfinite(array).all() for array in (energy[item], forces[item], virial[item])):
                    reasons[item] = "the energy, a force or the virial is not a finite number"
    ok = np.array([reason is None for reason in reasons], dtype=bool)
    energy[~ok], virial[~ok], forces[~ok] = np.nan, np.nan, np.nan
    return EnergyResult(
        energy=torch.from_numpy(energy),
        forces=torch.from_numpy(forces) if "forces" in want else None,
        virial=torch.from_numpy(virial) if "virial" in want else None,
        ok=torch.from_numpy(ok),
        reasons=tuple(reasons),
        iterations=tuple(iterations),
    )
