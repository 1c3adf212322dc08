"""The contract of Markov kernels on chains of isomers, and the one way in which they make random choices."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from particlegen.geometry import Positions
from particlegen.sampling.acceptance import acceptance_probability
from particlegen.sampling.target import IsomerTarget, centred
from particlegen.settings import RunError

__all__ = ["Info", "Kernel", "State", "accepts", "choose", "start_chains", "where"]


@dataclass(frozen=True)
class State:
    """Where chains are and what is known there.

    Args:
        positions: `(chain, N, dim)`, each centred at its centroid.
        labels: `(chain,)` index of the isomer that the chain is in.
        energies: `(chain,)` of the kernel's target.
        forces: `(chain, N, dim)` without that on the centroid; NaN where no step has needed them yet.
    """

    positions: Positions
    labels: Int64[Tensor, " chain"]
    energies: Float[Tensor, " chain"]
    forces: Positions


@dataclass(frozen=True)
class Info:
    """What happened in a step; infos of successive steps add up.

    Args:
        proposed: `(chain,)` int64, like the next three: proposals that were decided about.
        accepted: those that the chain moved to.
        left_basin: those without a weight: outside the isomer's basin, the confining sphere or the flow's cell.
        failed: those for which the engine had no energy.
        calls: of the engine, over all chains.
        parts: of the kernels that this one is made of, by name. Those of a composite are all of its steps; those of
            a surrogate are not in the counts above.
    """

    proposed: Int64[Tensor, " chain"]
    accepted: Int64[Tensor, " chain"]
    left_basin: Int64[Tensor, " chain"]
    failed: Int64[Tensor, " chain"]
    calls: int
    parts: Mapping[str, "Info"] = field(default_factory=dict)

    def __add__(self, other: "Info") -> "Info":
        shared = {name: self.parts[name] + other.parts[name] for name in self.parts if name in other.parts}
        return Info(
            self.proposed + other.proposed,
            self.accepted + other.accepted,
            self.left_basin + other.left_basin,
            self.failed + other.failed,
            self.calls + other.calls,
            {**self.parts, **other.parts, **shared},
        )

    @property
    def acceptance(self) -> float:
        """Accepted share of the proposals of all chains; NaN without any."""
        proposed = int(self.proposed.sum())
        return int(self.accepted.sum()) / proposed if proposed else float("nan")


_S = TypeVar("_S")


@runtime_checkable
class Kernel(Protocol[_S]):
    """A move of all chains that leaves its target invariant.

    Pure: a step is decided by the state and the generator, and changes neither the state nor the kernel. All chains
    share the generator, keyed by seed, stage and chunk, so the result does not depend on workers. A proposal without an
    energy is rejected and counted.
    """

    @property
    def name(self) -> str: ...
    @property
    def target(self) -> IsomerTarget: ...
    @property
    def reversible(self) -> bool:
        """Whether it is in detailed balance with the target: what a block of delayed acceptance has to be."""
        ...

    def init(self, position: Positions) -> _S:
        """The state, a frozen dataclass of tensors, of chains at `(chain, N, dim)`.

        Raises:
            ValueError: a chain starts where the target has no weight.
            RunError: the engine has no energy there.
        """
        ...

    def step(self, state: _S, generator: torch.Generator) -> tuple[_S, Info]:
        """The next state of every chain, and what happened."""
        ...


def start_chains(target: IsomerTarget, position: Positions, forces: bool = False) -> State:
    """Chains at `(chain, N, dim)`, moved to their centroids; as `Kernel.init`."""
    x = centred(position.detach().to("cpu", torch.float64))
    if outside := (~target.geometry.contains(x)).nonzero()[:, 0].tolist():
        raise ValueError(f"chains {outside} start beyond the confining radius")
    labels = target.basins(x).to("cpu", torch.int64)
    for chain, label in enumerate(labels.tolist()):
        if label not in target.isomers:
            raise ValueError(f"chain {chain} starts in basin {label}, expected one of {target.isomers}")
    energies, pulls, ok = target.evaluate(x) if forces else target.engine.evaluate(x, forces=False)
    if not ok.all():
        chain, reason = int((~ok).nonzero()[0]), target.engine.first_failure
        raise RunError(f"chain {chain}: {target.engine.provider.name} has no energy to start from: {reason}")
    return State(x, labels, energies, pulls)


def choose(probabilities: Float[Tensor, "chain option"], generator: torch.Generator) -> Int64[Tensor, " chain"]:
    """One option for every chain, by its probabilities; every random choice among options is made here."""
    cumulative = probabilities.cumsum(1)
    u = torch.rand(len(probabilities), 1, generator=generator, dtype=torch.float64)
    return torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)[:, 0]


def accepts(log_ratio: Float[Tensor, " chain"], generator: torch.Generator) -> Bool[Tensor, " chain"]:
    """Metropolis' decision `(chain,)`; never for NaN or −∞."""
    chance = torch.tensor([acceptance_probability(ratio) for ratio in log_ratio.tolist()], dtype=torch.float64)
    return choose(torch.stack([1.0 - chance, chance], 1), generator) == 1


def where(accepted: Bool[Tensor, " chain"], new: _S, old: _S) -> _S:
    """Chain by chain the new state or the old one, for dataclasses of tensors `(chain, ...)`."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(accepted.view(-1, *(1,) * (a.ndim - 1)), a, b)

    names = [each.name for each in fields(old)]  # pyright: ignore[reportArgumentType]
    return replace(old, **{name: pick(getattr(new, name), getattr(old, name)) for name in names})  # pyright: ignore
