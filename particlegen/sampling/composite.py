"""Kernels made of kernels of one target: a fixed order, or one of them at random."""

from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from particlegen.geometry import Positions
from particlegen.sampling.kernel import Info, Kernel, State, choose
from particlegen.sampling.target import IsomerTarget

__all__ = ["Cycle", "RandomScan"]

_NAMES = tuple(each.name for each in fields(State))


def _shared_target(kernels: Sequence[Kernel[State]]) -> IsomerTarget:
    if not kernels or any(kernel.target is not kernels[0].target for kernel in kernels):
        raise ValueError("a composite needs at least one kernel, and all have to share one target object")
    return kernels[0].target


def _as_part(kernel: Kernel[State], info: Info) -> Info:
    """The counts of a step as those of a part; what that consists of stands beside it."""
    return replace(info, parts={kernel.name: replace(info, parts={}), **info.parts})


def _rows(state: State, rows: Tensor) -> State:
    return State(**{name: getattr(state, name)[rows] for name in _NAMES})


def _spread(info: Info, rows: Tensor, chains: int) -> Info:
    """Counts of some chains as counts of all, 0 for the others."""

    def spread(counts: Tensor) -> Tensor:
        return counts.new_zeros(chains).index_copy(0, rows, counts)

    counts = (info.proposed, info.accepted, info.left_basin, info.failed)
    parts = {name: _spread(part, rows, chains) for name, part in info.parts.items()}
    return Info(*(spread(each) for each in counts), calls=info.calls, parts=parts)


class Cycle:
    """Kernels one after the other, such as `Cycle((local,) * 10 + (flow,) + (local,) * 10)`.

    Each leaves the target invariant, so all together do. The whole is reversible if the order reads the same backwards
    and each kernel is, as (K₁K₂K₁)* = K₁*K₂*K₁*: what a block of delayed acceptance asks for.
    """

    name = "cycle"

    def __init__(self, kernels: Sequence[Kernel[State]]):
        self.kernels, self.target = tuple(kernels), _shared_target(kernels)

    @property
    def reversible(self) -> bool:
        return self.kernels == self.kernels[::-1] and all(kernel.reversible for kernel in self.kernels)

    def init(self, position: Positions) -> State:
        return self.kernels[0].init(position)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        infos = []
        for kernel in self.kernels:
            state, info = kernel.step(state, generator)
            infos.append(_as_part(kernel, info))
        return state, sum(infos[1:], infos[0])


class RandomScan:
    """One of the kernels per step, drawn with fixed weights for each chain by itself; reversible if all of them are.

    (One draw for all chains would leave them correlated: only averaged over the order is a block reversible.)

    Args:
        kernels: of one target.
        weights: positive, one for each, of any sum.
    """

    name = "random_scan"

    def __init__(self, kernels: Sequence[Kernel[State]], weights: Sequence[float]):
        self.kernels, self.target = tuple(kernels), _shared_target(kernels)
        if len(weights) != len(kernels) or not all(weight > 0 for weight in weights):
            raise ValueError(f"{len(kernels)} kernels need as many positive weights, found {tuple(weights)}")
        self.weights = torch.tensor([weight / sum(weights) for weight in weights], dtype=torch.float64)

    @property
    def reversible(self) -> bool:
        return all(kernel.reversible for kernel in self.kernels)

    def init(self, position: Positions) -> State:
        return self.kernels[0].init(position)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        chains = len(state.labels)
        option = choose(self.weights.expand(chains, -1), generator)
        states, infos, order = [], [], []
        for number, kernel in enumerate(self.kernels):
            rows = (option == number).nonzero()[:, 0]
            if len(rows):
                moved, info = kernel.step(_rows(state, rows), generator)
                states.append(moved)
                infos.append(_as_part(kernel, _spread(info, rows, chains)))
                order.append(rows)
        back = torch.cat(order).argsort()
        joined = {name: torch.cat([getattr(part, name) for part in states])[back] for name in _NAMES}
        return State(**joined), sum(infos[1:], infos[0])
