"""The contract of Markov kernels."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from particlegen.energy.provider import Counted, EnergyProvider, EnergyResult, Ledger, Wrapper
from particlegen.geometry import Positions
from particlegen.sampling import Info, Kernel
from particlegen.testing.clauses import close, require

__all__ = ["check_kernel"]


def check_kernel(
    build: Callable[[EnergyProvider], Kernel[Any]],
    provider: EnergyProvider,
    positions: Positions,
    *,
    steps: int = 20,
    rtol: float = 1e-9,
    seed: int = 0,
) -> None:
    """Holds a kernel to the contract of `Kernel`; that it leaves its target invariant is for a test of its own.

    Checked: the state is made of tensors with one row per chain, positions centred, all float64; the input, the state
    and the generator's seed decide a step to the byte, and the state given is left untouched; energies, forces (where
    they are known) and labels are those of the positions, which the target allows; a chain that accepts nothing stays
    where it is; counts fit each other and the engine's ledger; and with an engine that has no energy for anything
    nothing is accepted, and all that was proposed is counted as failed or outside.

    Args:
        build: makes the kernel around an engine (that of the exact target, for delayed acceptance).
        provider: the engine.
        positions: `(chain, N, dim)` float64, at least two chains, where some proposals are accepted within `steps`.
        steps: number of steps taken.
        rtol: relative tolerance of energies and forces found anew.
        seed: of the steps.

    Raises:
        ContractViolation: names the clause.
    """
    ledger, engine = Ledger(), _Breakable(provider)
    kernel = build(Counted(engine, ledger, "check"))
    require(isinstance(kernel, Kernel), "it lacks one of: name, target, reversible, init, step")
    require(len(positions) >= 2 and positions.dtype == torch.float64, "give the check two float64 configurations")
    before = positions.clone()
    state = start = kernel.init(positions)
    require(torch.equal(before, positions), "init changes the positions it is given")
    centre = positions.mean(1, keepdim=True)
    close(state.positions, positions - centre, rtol, "init moves the chains other than to their centroids")
    generator, accepted = torch.Generator().manual_seed(seed), 0
    for _ in range(steps):
        kept, chance = _tensors(state), generator.get_state()
        ledger.take("check")
        new, info = kernel.step(state, generator)
        calls = ledger.total_calls(provider.name)
        require(info.calls == calls, f"a step says {info.calls} calls, the ledger counts {calls}")
        require(_same(_tensors(state), kept), "step changes the state it is given")
        again, _ = kernel.step(state, torch.Generator().set_state(chance))
        require(_same(_tensors(new), _tensors(again)), "the same state and generator give another step")
        _check_step(kernel, state, new, info, rtol)
        accepted += int(info.accepted.sum())
        state = new
    require(accepted > 0, f"nothing was accepted in {steps} steps; give the check a kernel that moves")
    other, _ = kernel.step(start, torch.Generator().manual_seed(seed + 1))
    first, _ = kernel.step(start, torch.Generator().manual_seed(seed))
    require(not torch.equal(other.positions, first.positions), "another seed gives the same step")
    engine.broken = True
    for _ in range(steps):
        new, info = kernel.step(state, generator)
        require(torch.equal(new.positions, state.positions), "a chain moves to where there is no energy")
        missing = info.proposed - info.failed - info.left_basin
        require(not bool(missing.any()), "proposals without an energy are not counted as failed")


class _Breakable(Wrapper):
    """The provider, or failures alone once it is broken."""

    broken, differentiable = False, False

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        return self._provider.evaluate(positions * torch.nan if self.broken else positions, want)


def _tensors(state: Any) -> dict[str, Tensor]:
    return {each.name: getattr(state, each.name).clone() for each in fields(state)}


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name].nan_to_num(), b[name].nan_to_num()) for name in a)


def _check_step(kernel: Kernel[Any], old: Any, new: Any, info: Info, rtol: float) -> None:
    chains = len(old.positions)
    for name, array in _tensors(new).items():
        require(len(array) == chains, f"{name} of the state does not have one row per chain")
        require(array.dtype in (torch.float64, torch.int64), f"{name} of the state is {array.dtype}")
    for name in ("proposed", "accepted", "left_basin", "failed"):
        array = getattr(info, name)
        fits = array.dtype == torch.int64 and array.shape == (chains,) and bool((array >= 0).all())
        require(fits, f"{name} is not one count, int64, per chain")
    decided = info.accepted + info.left_basin + info.failed
    require(bool((decided <= info.proposed).all()), "more is accepted, outside or failed than was proposed")
    stayed = info.accepted == 0
    require(torch.equal(new.positions[stayed], old.positions[stayed]), "a chain moves and accepts nothing")
    x = new.positions
    close(x.mean(1), torch.zeros_like(x[:, 0]), rtol, "positions are not at their centroids")
    require(bool(kernel.target.inside(x, new.labels).all()), "a chain is outside its isomer's basin")
    energies, forces, _ = kernel.target.evaluate(x)
    close(new.energies, energies, rtol, "energies are not those of the positions")
    known = getattr(new, "forces", torch.full_like(x, torch.nan))
    close(torch.where(known.isnan(), forces, known), forces, rtol, "forces are not those of the positions")
