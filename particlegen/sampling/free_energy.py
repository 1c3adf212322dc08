"""Absolute free energies of the reference ensemble, by two independent routes from the ideal gas.

F = −ln⟨e^{−βU}⟩ over uniform positions, in kT. The ideal gas is β = 0. Near it a core r^−12 in d dimensions makes
⟨U⟩_β diverge as β^{−(1−d/12)}, so both routes walk along s with β ∝ s^{12/d}: in s the integrand stays finite, and
equal steps of s overlap about equally.
"""

import math
from concurrent.futures import Executor

import numpy as np

from particlegen.energy.formulas import PairPotential
from particlegen.estimate.convergence import mean_with_correlation, statistical_inefficiency
from particlegen.estimate.result import Estimate
from particlegen.events import EventSink, ignore
from particlegen.sampling.equilibration import energies_by_chain
from particlegen.sampling.kernels import full_energies
from particlegen.sampling.model import build_model, pack
from particlegen.sampling.reference import sample_reference
from particlegen.sampling.settings import ReferenceSettings
from particlegen.settings import InputError
from particlegen.streams import numpy_stream
from particlegen.system import ParticleSystem, ThermodynamicState

__all__ = ["free_energy_by_integration", "free_energy_by_tempering", "uniform_energies"]

_CORE_POWER = 12


def _path_power(system: ParticleSystem) -> float:
    if not math.isfinite(system.geometry.volume):
        raise InputError(f"system {system.name!r}: an absolute free energy needs a finite volume; set a radius")
    return _CORE_POWER / system.dim


def uniform_energies(system: ParticleSystem, potential: PairPotential, frames: int, seed: int) -> np.ndarray:
    """Energies `(frame,)` of independent uniform configurations (the ideal gas); overlaps give huge values."""
    model = build_model(system, potential)
    rng = numpy_stream(seed, "free_energy.uniform")
    energies = []
    for begin in range(0, frames, 1000):
        shape = (min(1000, frames - begin), system.n_particles, system.dim)
        if system.geometry.periodic:
            positions = rng.random(shape) * np.asarray(system.torus.lengths)
        else:
            direction = rng.normal(size=shape)
            direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
            positions = model.radius2**0.5 * rng.random((*shape[:2], 1)) ** (1.0 / system.dim) * direction
        energies.append(full_energies(model, pack(model, positions)))
    return np.concatenate(energies)


def free_energy_by_tempering(
    system: ParticleSystem,
    potential: PairPotential,
    state: ThermodynamicState,
    settings: ReferenceSettings,
    seed: int,
    rungs: int = 20,
    executor: Executor | None = None,
    events: EventSink = ignore,
) -> Estimate:
    """`free_energy.excess` by MBAR over a tempering ladder that ends in exact uniform samples at β = 0.

    Frames of each temperature are thinned to independent ones before MBAR, whose error estimate assumes that.

    Args:
        system, potential, state: what to evaluate.
        settings: chains, frames and sweeps; the sampler is `tempering` and the ladder set here, whatever they say.
        rungs: number of temperatures, from the state's upwards.

    Returns:
        F in kT.

    Raises:
        InputError: infinite volume.

    Source: Shirts & Chodera 2008, equations 11 and 12.
    """
    # pymbar takes seconds to import, which everything that only samples would pay.
    from pymbar import MBAR

    power = _path_power(system)
    temperatures = tuple(state.temperature * (rungs / k) ** power for k in range(rungs, 0, -1))
    ladder = settings.model_copy(update={"sampler": "tempering", "temperatures": temperatures})
    blocks = [
        (block.ladder_energies, block.chain)
        for block in sample_reference(system, potential, state, ladder, seed, executor, events)
    ]
    energies, chain = np.concatenate([e for e, _ in blocks]), np.concatenate([c for _, c in blocks])
    samples = [uniform_energies(system, potential, len(energies), seed)]
    for k in range(rungs):
        of_chain = energies_by_chain(energies[:, rungs - 1 - k], chain)
        samples.append(of_chain[:, :: math.ceil(statistical_inefficiency(of_chain))].ravel())
    betas = np.array([0.0, *(state.beta * (k / rungs) ** power for k in range(1, rungs + 1))])
    pooled = np.concatenate(samples)
    mbar = MBAR(betas[:, None] * pooled[None, :], np.array([len(u) for u in samples]), initialize="BAR")
    result = mbar.compute_free_energy_differences()
    method = f"MBAR over {rungs} temperatures and the ideal gas, {len(pooled)} independent frames"
    return Estimate(float(result["Delta_f"][0, -1]), float(result["dDelta_f"][0, -1]), "kT", method)


def free_energy_by_integration(
    system: ParticleSystem,
    potential: PairPotential,
    state: ThermodynamicState,
    settings: ReferenceSettings,
    seed: int,
    nodes: int = 12,
    executor: Executor | None = None,
    events: EventSink = ignore,
) -> Estimate:
    """`free_energy.excess` by thermodynamic integration from the ideal gas, F = ∫₀^β ⟨U⟩_b db.

    With b = β s^p, p = 12/d, the integrand p β s^{p−1} ⟨U⟩ is smooth on [0, 1]; Gauss–Legendre nodes, an independent
    run of `settings` at each (their sampler; `tempering` is replaced by `swap` or `displacement` runs of the caller's).

    Args:
        system, potential, state: what to evaluate.
        settings: of the run at each node; `sampler` is `displacement` or `swap`.
        nodes: number of nodes.

    Returns:
        F in kT; the error is the sampling error of the nodes, not that of the quadrature (compare two `nodes`).

    Raises:
        InputError: infinite volume, or `sampler: tempering`.
    """
    if settings.sampler == "tempering":
        raise InputError("reference.sampler: integration runs each temperature by itself; use displacement or swap")
    power = _path_power(system)
    points, weights = np.polynomial.legendre.leggauss(nodes)
    value, variance = 0.0, 0.0
    for node, (s, weight) in enumerate(zip((points + 1.0) / 2.0, weights / 2.0, strict=True)):
        at_node = ThermodynamicState(state.temperature / s**power, state.units)
        blocks = [
            (block.energies, block.chain)
            for block in sample_reference(system, potential, at_node, settings, seed + node, executor, events)
        ]
        energies = energies_by_chain(np.concatenate([e for e, _ in blocks]), np.concatenate([c for _, c in blocks]))
        mean = mean_with_correlation(energies)
        scale = weight * power * state.beta * s ** (power - 1.0)
        value += scale * mean.value
        variance += (scale * mean.stderr) ** 2
    method = f"thermodynamic integration from the ideal gas, {nodes} Gauss-Legendre nodes"
    return Estimate(value, math.sqrt(variance), "kT", method)
