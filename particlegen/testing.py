"""Contract tests, shipped so that a plug-in's author can hold it to what the package relies on.

from particlegen.testing import check_energy_provider

def test_contract():
    check_energy_provider(MyEngine(system), positions)
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from particlegen.energy.provider import EnergyProvider, EnergyResult
from particlegen.geometry import FlatTorus, Positions

__all__ = ["ContractViolation", "check_energy_provider"]


class ContractViolation(AssertionError):
    """An implementation breaks a contract; the message says which clause and by how much."""


def check_energy_provider(
    provider: EnergyProvider,
    positions: Positions,
    *,
    quantities: tuple[str, ...] = ("forces", "virial"),
    rtol: float = 1e-9,
    force_rtol: float = 1e-5,
    step: float = 1e-5,
    seed: int = 0,
) -> None:
    """Holds an energy provider to the contract of `EnergyProvider` on given configurations.

    Checked: types, shapes, float64 and device; failure as data (a NaN item is flagged, has NaN energy and a reason,
    and leaves its neighbours alone); the input is left untouched; order of the batch, exchange of like particles,
    translation and lattice vectors; forces against central differences and, where `differentiable`, against autograd;
    the virial of free-space systems against Σ x·F.

    Args:
        provider: the implementation.
        positions: `(batch, particle, dim)` float64, at least two, at ordinary distances and energies.
        quantities: what the provider offers beyond the energy.
        rtol: relative tolerance of equalities that hold exactly in real arithmetic.
        force_rtol: relative tolerance of forces against differences.
        step: displacement of the central differences, in the unit of length.
        seed: of the random choices made here.

    Raises:
        ContractViolation: names the clause.
    """
    _require(isinstance(provider, EnergyProvider), "it lacks one of: name, system, differentiable, device, evaluate")
    _require(len(positions) >= 2 and positions.dtype == torch.float64, "give the check two float64 configurations")
    generator = torch.Generator().manual_seed(seed)
    before = positions.clone()
    result = provider.evaluate(positions, ("energy", *quantities))
    _require(torch.equal(before, positions), "evaluate changes the positions it is given")
    _require(bool(result.ok.all()), f"the configurations given to the check fail: {result.reasons}")
    _check_shapes(provider, positions, result, quantities)
    plain = provider.evaluate(positions)
    _require(plain.forces is None and plain.virial is None, "forces or virial are returned without being asked for")
    _close(plain.energy, result.energy, rtol, "the energy depends on what else is asked for")
    for moved, clause in _equivalent(provider, positions, generator):
        _close(provider.evaluate(moved).energy, result.energy, rtol, f"the energy changes under {clause}")
    order = torch.randperm(len(positions), generator=generator)
    shuffled = provider.evaluate(positions[order]).energy
    _close(shuffled, result.energy[order], rtol, "an item's energy depends on its place in the batch")
    single = provider.evaluate(positions.float())
    _require(single.energy.dtype == torch.float64, "float32 positions give an energy that is not float64")
    _check_failure(provider, positions, result, rtol)
    for wrong in (positions[:, :-1], positions[..., :-1]):
        _require(_raises(provider, wrong, ("energy",)), f"positions of shape {tuple(wrong.shape)} are accepted")
    _require(_raises(provider, positions, ("energy", "no_such_quantity")), "unknown quantities in `want` are accepted")
    if result.forces is not None:
        _check_forces(provider, positions, result.forces, force_rtol, step, generator)
        if result.virial is not None and not provider.system.geometry.periodic:
            expected = (positions.to(result.forces) * result.forces).sum((1, 2))
            _close(result.virial, expected, rtol, "the virial is not the sum of x·F")


def _check_shapes(
    provider: EnergyProvider, positions: Tensor, result: EnergyResult, quantities: tuple[str, ...]
) -> None:
    batch = (len(positions),)
    arrays: list[tuple[str, Tensor | None, tuple[int, ...]]] = [("energy", result.energy, batch)]
    if "forces" in quantities:
        arrays.append(("forces", result.forces, tuple(positions.shape)))
    if "virial" in quantities:
        arrays.append(("virial", result.virial, batch))
    for name, array, shape in arrays:
        if array is None:
            raise ContractViolation(f"{name} was asked for and is None")
        _require(tuple(array.shape) == shape, f"{name} has shape {tuple(array.shape)}, expected {shape}")
        _require(array.dtype == torch.float64, f"{name} is {array.dtype}, expected float64")
        _require(array.device.type == provider.device.type, f"{name} lies on {array.device}, not on {provider.device}")
    _require(result.ok.dtype == torch.bool and tuple(result.ok.shape) == batch, "ok is not one bool per item")
    _require(len(result.reasons) == len(positions), "reasons does not have one entry per item")


def _check_failure(provider: EnergyProvider, positions: Tensor, result: EnergyResult, rtol: float) -> None:
    broken = positions.clone()
    broken[0, 0, 0] = float("nan")
    failed = provider.evaluate(broken)
    _require(not bool(failed.ok[0]) and bool(failed.ok[1:].all()), "exactly the item with a NaN has to have ok False")
    _require(bool(failed.energy[0].isnan()), "a failed item has an energy that is not NaN")
    _require(bool(failed.reasons[0]) and not any(failed.reasons[1:]), "exactly the failed items have to give a reason")
    _close(failed.energy[1:], result.energy[1:], rtol, "a failed item changes the energy of others")


def _check_forces(
    provider: EnergyProvider, positions: Tensor, forces: Tensor, rtol: float, step: float, generator: torch.Generator
) -> None:
    _, n, dim = positions.shape
    for _ in range(6):
        k = int(torch.randint(n, (1,), generator=generator))
        axis = int(torch.randint(dim, (1,), generator=generator))
        ends = []
        for sign in (1.0, -1.0):
            moved = positions.clone()
            moved[:, k, axis] += sign * step
            ends.append(provider.evaluate(moved).energy)
        expected = -(ends[0] - ends[1]) / (2 * step)
        scale = forces.abs().amax((1, 2)) + ends[0].abs() * 1e-10 / step
        worst = ((forces[:, k, axis] - expected).abs() / scale).max()
        _require(bool(worst < rtol), f"forces differ from central differences by {float(worst):.2g} (relative)")
    if provider.differentiable:
        leaf = positions.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(provider.evaluate(leaf).energy.sum(), leaf)
        _close(-gradient.to(forces), forces, 1e-8, "forces are not minus the gradient that torch computes")


def _equivalent(
    provider: EnergyProvider, positions: Tensor, generator: torch.Generator
) -> Iterator[tuple[Tensor, str]]:
    """Configurations with the same energy, and the operation that made them."""
    system, geometry = provider.system, provider.system.geometry
    diameters = system.diameters or (0.0,) * system.n_particles
    kinds = list(zip(system.species, diameters, strict=True))
    order = torch.arange(system.n_particles)
    for kind in sorted(set(kinds)):
        members = torch.tensor([k for k, other in enumerate(kinds) if other == kind])
        order[members] = members[torch.randperm(len(members), generator=generator)]
    yield positions[:, order], "the exchange of like particles"
    if isinstance(geometry, FlatTorus):
        lengths = positions.new_tensor(geometry.lengths)
        jumps = torch.randint(-2, 3, positions.shape, generator=generator).to(positions)
        yield positions + jumps * lengths, "lattice vectors"
        shift = torch.rand(1, 1, system.dim, generator=generator, dtype=positions.dtype).to(positions)
        yield geometry.wrap(positions + shift * lengths), "translation"


def _raises(provider: EnergyProvider, positions: Tensor, want: tuple[str, ...]) -> bool:
    try:
        provider.evaluate(positions, want)
    except (TypeError, ValueError):
        return True
    return False


def _close(found: Tensor, expected: Tensor, rtol: float, clause: str) -> None:
    scale = expected.abs().max().clamp_min(1.0)
    worst = float(((found - expected).abs() / scale).max())
    _require(worst <= rtol, f"{clause} (by {worst:.2g}, relative)")


def _require(condition: bool, clause: str) -> None:
    if not condition:
        raise ContractViolation(clause)
