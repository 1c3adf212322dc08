"""Delayed acceptance: a surrogate makes many moves, the exact engine decides once."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from particlegen.geometry import Positions
from particlegen.sampling.kernel import Info, Kernel, State, accepts, start_chains, where
from particlegen.sampling.target import IsomerTarget

__all__ = ["DelayedAcceptance", "DelayedState", "delayed_log_ratio"]


@dataclass(frozen=True)
class DelayedState:
    """Chains of the exact target, with what the surrogate says there.

    Args:
        positions, labels, energies: as those of `State`, of the exact target.
        surrogate_energies, surrogate_forces: as its `energies` and `forces`, of the surrogate.
    """

    positions: Positions
    labels: Int64[Tensor, " chain"]
    energies: Float[Tensor, " chain"]
    surrogate_energies: Float[Tensor, " chain"]
    surrogate_forces: Positions

    @classmethod
    def at(cls, surrogate: State, energies: Tensor) -> "DelayedState":
        return cls(surrogate.positions, surrogate.labels, energies, surrogate.energies, surrogate.forces)

    @property
    def surrogate(self) -> State:
        return State(self.positions, self.labels, self.surrogate_energies, self.surrogate_forces)


def delayed_log_ratio(work: Float[Tensor, " chain"], proposed: Float[Tensor, " chain"]) -> Float[Tensor, " chain"]:
    """log of π(y) π_s(x)/[π(x) π_s(y)] from the works log π_s/π at x and at y."""
    return work - proposed


class DelayedAcceptance:
    """A block of a surrogate's steps proposes y, accepted with min(1, π(y) π_s(x)/[π(x) π_s(y)]).

    Exact for any surrogate that covers the target's support (Christen and Fox 2005), as long as the block is in
    detailed balance with π_s. A power of a reversible kernel is; a `Cycle` is if its order reads the same backwards,
    a `RandomScan` if all of its kernels are. A block that ends where it began needs no exact energy.

    Args:
        target: the exact one; its engine is asked for energies alone, for all chains in one batch.
        surrogate: a kernel of the surrogate's target, with the same basins.
        block: steps of it per exact decision.

    Raises:
        ValueError: a surrogate that is not reversible or of other isomers, or no steps.
    """

    name = "delayed_acceptance"
    reversible = True

    def __init__(self, target: IsomerTarget, surrogate: Kernel[State], block: int):
        if not surrogate.reversible:
            raise ValueError(
                f"the surrogate's kernel {surrogate.name!r} is not reversible: give a Cycle whose order reads the same "
                "backwards, or a RandomScan"
            )
        if surrogate.target.isomers != target.isomers or surrogate.target.basins != target.basins:
            raise ValueError("the surrogate's target has other isomers or basins than the exact one")
        if block < 1:
            raise ValueError(f"block: expected at least 1 step, found {block}")
        self.target, self._surrogate, self._block = target, surrogate, block

    def init(self, position: Positions) -> DelayedState:
        energies = start_chains(self.target, position).energies
        return DelayedState.at(self._surrogate.init(position), energies)

    def work(self, state: DelayedState) -> Float[Tensor, " chain"]:
        """log π_s/π at exact states up to a constant, β(U − U_s): the reverse works of BAR between the two targets."""
        return self.target.beta * state.energies - self._surrogate.target.beta * state.surrogate_energies

    def step(self, state: DelayedState, generator: torch.Generator) -> tuple[DelayedState, Info]:
        before = self.target.engine.calls
        reached, part = self._surrogate.step(state.surrogate, generator)
        for _ in range(self._block - 1):
            reached, info = self._surrogate.step(reached, generator)
            part += info
        moved = (reached.positions != state.positions).any(2).any(1)
        energies, outside, failed = state.energies.clone(), torch.zeros_like(moved), torch.zeros_like(moved)
        found = self.target.weigh(reached.positions[moved], reached.labels[moved])
        energies[moved], outside[moved], failed[moved] = found
        proposed = DelayedState.at(reached, energies)
        accepted = accepts(delayed_log_ratio(self.work(state), self.work(proposed)), generator)
        counts = (moved, accepted & moved, outside, failed)
        parts = {"surrogate": replace(part, parts={}), **{f"surrogate.{k}": v for k, v in part.parts.items()}}
        info = Info(*(count.long() for count in counts), calls=self.target.engine.calls - before, parts=parts)
        return where(accepted, proposed, state), info
