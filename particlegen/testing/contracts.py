"""Contracts of energy providers, velocity networks and flows."""

from collections.abc import Iterator

import torch
from torch import Tensor

from particlegen.energy.provider import EnergyProvider, EnergyResult
from particlegen.flow import Flow
from particlegen.geometry import FlatTorus, Positions
from particlegen.networks import VelocityNetwork
from particlegen.system import ParticleSystem
from particlegen.testing.clauses import ContractViolation
from particlegen.testing.clauses import close as _close
from particlegen.testing.clauses import require as _require

__all__ = ["check_energy_provider", "check_flow", "check_velocity_network"]


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
    and leaves its neighbours alone); an empty batch; the input is left untouched; order of the batch, exchange of like
    particles, translation and lattice vectors; forces against central differences and, where `differentiable`, against
    autograd; the virial of free-space systems against Σ x·F.

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
    exchanged = positions[:, _exchange(provider.system, generator)], "the exchange of like particles"
    for moved, clause in [exchanged, *_equivalent(provider.system, positions, generator)]:
        _close(provider.evaluate(moved).energy, result.energy, rtol, f"the energy changes under {clause}")
    order = torch.randperm(len(positions), generator=generator)
    shuffled = provider.evaluate(positions[order]).energy
    _close(shuffled, result.energy[order], rtol, "an item's energy depends on its place in the batch")
    single = provider.evaluate(positions.float())
    _require(single.energy.dtype == torch.float64, "float32 positions give an energy that is not float64")
    _check_failure(provider, positions, result, rtol)
    _require(provider.evaluate(positions[:0]).energy.shape == (0,), "no configurations are not an empty result")
    for wrong in (positions[:, :-1], positions[..., :-1]):
        _require(_raises(provider, wrong, ("energy",)), f"positions of shape {tuple(wrong.shape)} are accepted")
    _require(_raises(provider, positions, ("energy", "no_such_quantity")), "unknown quantities in `want` are accepted")
    if result.forces is not None:
        _check_forces(provider, positions, result.forces, force_rtol, step, generator)
        if result.virial is not None and not provider.system.geometry.periodic:
            expected = (positions.to(result.forces) * result.forces).sum((1, 2))
            _close(result.virial, expected, rtol, "the virial is not the sum of x·F")


def check_velocity_network(
    network: VelocityNetwork, system: ParticleSystem, *, batch: int = 2, rtol: float | None = None, seed: int = 0
) -> None:
    """Holds a velocity network to the contract of `VelocityNetwork` at uniform configurations and random times.

    Checked: shapes, dtype, finite values, the input left untouched; velocities of `forward` and `with_divergence`
    alike; the divergence against the trace of the Jacobian by autograd; items of a batch independent of each other;
    exchange of like particles, lattice vectors, translation and the box's point group; and, for float64 parameters,
    that nothing jumps, neither velocity nor derivative, where a particle passes through another's antipode. (In float32
    rounding hides a jump of the derivative.)

    Args:
        network: the implementation; its parameters' dtype and device are used.
        system: particles on a torus, at least two.
        batch: configurations tried, at least two.
        rtol: relative tolerance of what holds exactly in real arithmetic; default 1e-10 in float64, 1e-4 in float32.
        seed: of the random choices made here.

    Raises:
        ContractViolation: names the clause.
    """
    _require(isinstance(network, VelocityNetwork), "it lacks one of: forward, with_divergence, parameters")
    parameter = next(iter(network.parameters()))
    rtol = rtol or (1e-10 if parameter.dtype == torch.float64 else 1e-4)
    generator = torch.Generator().manual_seed(seed)
    x = system.torus.uniform((batch, system.n_particles), generator).to(parameter)
    t = torch.rand(batch, generator=generator).to(parameter)
    before = x.clone()
    with torch.no_grad():
        v, divergence = network.with_divergence(t, x)
        forward = network.forward(t, x)
    _require(torch.equal(before, x), "the positions given are changed")
    for name, array, shape in (("velocity", v, tuple(x.shape)), ("divergence", divergence, (batch,))):
        _require(tuple(array.shape) == shape, f"{name} has shape {tuple(array.shape)}, expected {shape}")
        _require(array.dtype == x.dtype, f"{name} is {array.dtype}, expected {x.dtype}")
        _require(bool(array.isfinite().all()), f"{name} is not finite")
    _close(forward, v, rtol, "forward and with_divergence disagree about the velocity")
    jacobian = torch.autograd.functional.jacobian(lambda y: network.forward(t, y).sum(0), x)
    trace = torch.einsum("iabia->b", torch.as_tensor(jacobian))
    _close(divergence, trace, rtol, "the divergence is not the trace of the Jacobian")
    with torch.no_grad():
        single = torch.cat([network.forward(t[k : k + 1], x[k : k + 1]) for k in reversed(range(batch))])
        _close(single.flip(0), v, rtol, "an item's velocity depends on the rest of the batch")
        for moved, order, matrix, clause in _moved(system, x, generator):
            turned = network.forward(t, moved)
            _close(turned, torch.einsum("ij,bnj->bni", matrix, v[:, order]), rtol, f"the velocity breaks {clause}")
        if x.dtype == torch.float64:
            _check_antipode(network, system, t[:1], x[:1])


def _moved(
    system: ParticleSystem, x: Tensor, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor, str]]:
    """Positions moved by a symmetry, the order of particles and the matrix that act on the velocity, and its name."""
    identity, stay = torch.eye(system.dim).to(x), torch.arange(system.n_particles)
    for moved, clause in _equivalent(system, x, generator):
        yield moved, stay, identity, clause
    order = _exchange(system, generator)
    yield x[:, order], order, identity, "the exchange of like particles"
    for matrix in system.torus.point_group().to(x):
        yield torch.einsum("ij,bnj->bni", matrix, x), stay, matrix, "the box's point group"


def _check_antipode(network: VelocityNetwork, system: ParticleSystem, t: Tensor, x: Tensor) -> None:
    """Differences across |Δ| = L/2 along each axis: for a smooth field they shrink as h and h² with the step h."""
    half = x.new_tensor(system.torus.lengths) / 2
    for axis, length in enumerate(system.torus.lengths):
        for opposite in (False, True):  # anywhere on the cut locus, and at the antipode itself
            start = x.clone()
            start[:, 0] = torch.where(torch.arange(system.dim).to(x.device) == axis, x[:, 1] + half, x[:, 0])
            if opposite:
                start[:, 0] = x[:, 1] + half
            sizes = []
            for h in (1e-4 * length, 1e-5 * length):
                offset = torch.zeros_like(x)
                offset[:, 0, axis] = h
                before, here, after = (network.forward(t, start + k * offset) for k in (-1, 0, 1))
                sizes.append([(after - before).abs().max(), (after - 2 * here + before).abs().max() / h])
            scale = 1.0 + float(network.forward(t, start).abs().max())
            for order, name in enumerate(("velocity", "derivative of the velocity")):
                floor = 1e-14 * scale / (1e-5 * length) ** order
                smooth = bool(sizes[1][order] < 0.3 * sizes[0][order] + floor)
                _require(smooth, f"the {name} jumps at a particle's antipode along axis {axis}")


def check_flow(flow: Flow, *, samples: int = 16, factor: float = 5.0, atol: float = 1e-3, seed: int = 0) -> None:
    """Holds a flow to the contract of `Flow`.

    Checked: shapes, float64, positions in the box if there is one; log q finite, or +∞ for samples without a weight;
    errors that are finite and not negative; the generator decides the samples alone, to the byte; `log_prob` of samples
    agrees with their `log_q` within the errors stated; log-densities independent of the batch and of lattice vectors,
    in free space of position and orientation; the input left untouched; no samples when none are asked for.

    Args:
        flow: the implementation, with exact likelihood (random probes differ between the two directions).
        samples: number of samples drawn.
        factor: how many times the stated errors (root mean square, both directions) the two log-densities may differ.
        atol: tolerance for rounding in the flow's own precision.
        seed: of the samples.

    Raises:
        ContractViolation: names the clause.
    """
    _require(isinstance(flow, Flow), "it lacks one of: system, sample, log_prob")
    system = flow.system
    first, again, other = (flow.sample(samples, torch.Generator().manual_seed(s)) for s in (seed, seed, seed + 1))
    x = first.positions
    shapes = {"positions": (samples, system.n_particles, system.dim), "log_q": (samples,), "log_q_error": (samples,)}
    for name, shape in shapes.items():
        array = getattr(first, name)
        _require(tuple(array.shape) == shape, f"{name} has shape {tuple(array.shape)}, expected {shape}")
        _require(array.dtype == torch.float64, f"{name} is {array.dtype}, expected float64")
        finite = array.isfinite() | (array == torch.inf) if name == "log_q" else array.isfinite()
        _require(bool(finite.all()), f"{name} is not finite")
        _require(torch.equal(array, getattr(again, name)), f"the same generator gives other {name}")
    _require(not torch.equal(x, other.positions), "another seed gives the same positions")
    _require(bool((first.log_q_error >= 0).all()), "an error of log q is negative")
    weighs = first.log_q.isfinite()
    _require(bool(weighs.any()), "no sample has a weight")
    x = x[weighs]
    before = x.clone()
    log_q, error = flow.log_prob(x)
    _require(torch.equal(before, x), "log_prob changes the positions it is given")
    off = (log_q - first.log_q[weighs]).square().mean().sqrt()
    allowed = factor * (error.square() + first.log_q_error[weighs].square()).mean().sqrt() + atol
    _require(bool(off <= allowed), f"log_prob and sample differ by {float(off):.2g}, allowed are {float(allowed):.2g}")
    if isinstance(system.geometry, FlatTorus):
        lengths = x.new_tensor(system.geometry.lengths)
        _require(bool(((x >= 0) & (x < lengths)).all()), "positions lie outside the box")
        moved = ((x + lengths * torch.tensor([1.0, -2.0, 1.0])[: system.dim].to(x), "lattice vectors"),)
    else:
        spin = torch.randn(system.dim, system.dim, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
        turn = torch.linalg.qr(spin).Q
        moved = ((x + x.new_tensor([1.0, -2.0, 1.0])[: system.dim], "position"), (x @ turn, "orientation"))
    alike = ((x.flip(0), log_q.flip(0), "the order of the batch"), (x[:1], log_q[:1], "the size of the batch"))
    for given, expected, clause in (*alike, *((given, log_q, clause) for given, clause in moved)):
        found = flow.log_prob(given)[0]
        _require(bool(((found - expected).abs() <= atol).all()), f"log_prob depends on {clause}")
    _require(flow.sample(0, torch.Generator()).log_q.shape == (0,), "zero samples are not an empty result")


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


def _exchange(system: ParticleSystem, generator: torch.Generator) -> Tensor:
    """A random order of the particles that keeps every species and diameter in its place."""
    diameters = system.diameters or (0.0,) * system.n_particles
    kinds = list(zip(system.species, diameters, strict=True))
    order = torch.arange(system.n_particles)
    for kind in sorted(set(kinds)):
        members = torch.tensor([k for k, other in enumerate(kinds) if other == kind])
        order[members] = members[torch.randperm(len(members), generator=generator)]
    return order


def _equivalent(system: ParticleSystem, positions: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, str]]:
    """The same configurations displaced as a whole or by lattice vectors, and the operation that made them."""
    if isinstance(system.geometry, FlatTorus):
        lengths = positions.new_tensor(system.geometry.lengths)
        jumps = torch.randint(-2, 3, positions.shape, generator=generator).to(positions)
        yield positions + jumps * lengths, "lattice vectors"
        shift = torch.rand(1, 1, system.dim, generator=generator, dtype=positions.dtype).to(positions)
        yield system.geometry.wrap(positions + shift * lengths), "translation"


def _raises(provider: EnergyProvider, positions: Tensor, want: tuple[str, ...]) -> bool:
    try:
        provider.evaluate(positions, want)
    except (TypeError, ValueError):
        return True
    return False
