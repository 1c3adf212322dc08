"""Global moves: independent proposals of flows, one isomer's or several isomers' with their labels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from particlegen.flow import Flow
from particlegen.geometry import Positions
from particlegen.sampling.kernel import Info, State, accepts, choose, start_chains, where
from particlegen.sampling.target import IsomerTarget, centred

__all__ = ["ISIR", "FlowIndependence", "LabelledFlows", "log_weight", "selection_probabilities"]


def log_weight(beta: float, energies: Float[Tensor, " batch"], log_q: Float[Tensor, " batch"]) -> Tensor:
    """log π(x, k)/q(x, k) `(batch,)`, up to a constant."""
    return -beta * energies - log_q


def selection_probabilities(log_weights: Float[Tensor, "chain option"]) -> Float[Tensor, "chain option"]:
    """Shares of the weights; NaN has none, and an infinite weight has all."""
    return torch.softmax(log_weights.nan_to_num(nan=-math.inf, posinf=1e300, neginf=-math.inf), 1)


class LabelledFlows:
    """The density w_k q_k(x) over positions and labels: an isomer is drawn, then a configuration from its flow.

    The label is part of what is drawn, so the density is not the sum over isomers. A flow's draw whose log q is not
    finite (outside its cell, or a solver that got stuck) has no weight.

    Args:
        flows: one for each isomer, by index; log q in the measure of `IsomerTarget`.
        log_bias: ln c_k of the law c_k e^{−βU} that chains which use these flows are to follow; default 0. With c_k
            near 1/Z_k isomers of unlike stability are visited equally often (`estimate.label_populations` takes it
            back). What `sample` and `log_prob` tell is log(w_k q_k/c_k).
        weights: w_k, positive, of any sum; default alike. They decide how often an isomer is tried, not what the
            shares of labels tend to.

    Raises:
        ValueError: no flows, or weights that do not fit them.
    """

    def __init__(
        self,
        flows: Mapping[int, Flow],
        weights: Mapping[int, float] | None = None,
        log_bias: Mapping[int, float] | None = None,
    ):
        weights = {k: 1.0 for k in flows} if weights is None else weights
        log_bias = {k: 0.0 for k in flows} if log_bias is None else log_bias
        if not flows or set(weights) != set(flows) or not all(0 < w < math.inf for w in weights.values()):
            raise ValueError(f"flows of isomers {sorted(flows)} need one positive weight each, found {dict(weights)}")
        if set(log_bias) != set(flows) or not all(math.isfinite(bias) for bias in log_bias.values()):
            raise ValueError(f"flows of isomers {sorted(flows)} need one finite bias each, found {dict(log_bias)}")
        self.flows = dict(flows)
        self._log_bias = torch.tensor([log_bias[k] for k in flows], dtype=torch.float64)
        self.log_weights = torch.tensor([weights[k] for k in flows], dtype=torch.float64).log().log_softmax(0)

    def _level(self, index: int) -> Tensor:
        return self.log_weights[index] - self._log_bias[index]

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Positions, Int64[Tensor, " batch"], Float[Tensor, " batch"]]:
        """`n` centred positions, labels and log(w_k q_k); `generator` alone decides."""
        option = choose(self.log_weights.exp().expand(n, -1), generator)
        parts = []
        for index, (k, flow) in enumerate(self.flows.items()):
            rows = (option == index).nonzero()[:, 0]
            drawn = flow.sample(len(rows), generator)
            x = centred(drawn.positions.detach().to("cpu", torch.float64))
            log_q = self._level(index) + drawn.log_q.detach().cpu()
            parts.append((rows, x, torch.full_like(rows, k), log_q))
        rows, x, labels, log_q = (torch.cat(column) for column in zip(*parts, strict=True))
        order = rows.argsort()
        return x[order], labels[order], log_q[order]

    def log_prob(self, x: Positions, labels: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """log(w_k q_k(x)) with k the label of x; −∞ where the flow cannot tell: such a state cannot be drawn."""
        log_q = torch.full((len(x),), -math.inf, dtype=torch.float64)
        for index, (k, flow) in enumerate(self.flows.items()):
            rows = (labels == k).nonzero()[:, 0]
            if len(rows):
                log_q[rows] = self._level(index) + flow.log_prob(x[rows])[0].detach().cpu()
        return torch.where(log_q.isfinite(), log_q, -math.inf)


@dataclass(frozen=True)
class _Draws:
    """Fresh draws: states, log weights (−∞ without a weight), which are outside, which have no energy."""

    state: State
    log_weights: Float[Tensor, " batch"]
    outside: Bool[Tensor, " batch"]
    failed: Bool[Tensor, " batch"]


def _draw(target: IsomerTarget, flows: LabelledFlows, n: int, generator: torch.Generator) -> _Draws:
    x, labels, log_q = flows.sample(n, generator)
    x = torch.where(log_q.isfinite()[:, None, None], x, torch.nan)
    energies, outside, failed = target.weigh(x, labels)
    weights = torch.where(outside | failed, -math.inf, log_weight(target.beta, energies, log_q))
    return _Draws(State(x, labels, energies, torch.full_like(x, torch.nan)), weights, outside, failed)


def _check(target: IsomerTarget, flows: LabelledFlows) -> None:
    if set(flows.flows) != set(target.isomers):
        raise ValueError(f"the target's isomers are {target.isomers}, those with a flow {tuple(flows.flows)}")


@dataclass(frozen=True)
class FlowIndependence:
    """One draw of the flows per step, accepted with min(1, π(y) q(x)/[π(x) q(y)]) (Hastings 1970; Tierney 1994).

    With several isomers π and q are densities over (x, k), so the ratio holds w_k q_k(x) of the label k alone, and the
    shares of labels give the difference of free energies.
    """

    target: IsomerTarget
    flows: LabelledFlows
    name = "flow"
    reversible = True

    def __post_init__(self):
        _check(self.target, self.flows)

    def init(self, position: Positions) -> State:
        return start_chains(self.target, position)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        before = self.target.engine.calls
        current = log_weight(self.target.beta, state.energies, self.flows.log_prob(state.positions, state.labels))
        draws = _draw(self.target, self.flows, len(state.labels), generator)
        accepted = accepts(draws.log_weights - current, generator)
        counts = (torch.ones_like(accepted), accepted, draws.outside, draws.failed)
        info = Info(*(count.long() for count in counts), calls=self.target.engine.calls - before)
        return where(accepted, draws.state, state), info


@dataclass(frozen=True)
class ISIR:
    """i-SIR: of the current state and fresh draws one is chosen by π/q (Tjelmeland 2004; Andrieu, Lee, Vihola 2018).

    Reversible. More draws in a batch in place of steps one after the other.

    Args:
        target: what is sampled.
        flows: where draws come from.
        candidates: the current state and `candidates` − 1 draws, at least 2.
    """

    target: IsomerTarget
    flows: LabelledFlows
    candidates: int = 8
    name = "isir"
    reversible = True

    def __post_init__(self):
        _check(self.target, self.flows)
        if self.candidates < 2:
            raise ValueError(f"expected at least 2 candidates, found {self.candidates}")

    def init(self, position: Positions) -> State:
        return start_chains(self.target, position)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        before, chains, fresh = self.target.engine.calls, len(state.labels), self.candidates - 1
        current = log_weight(self.target.beta, state.energies, self.flows.log_prob(state.positions, state.labels))
        draws = _draw(self.target, self.flows, chains * fresh, generator)
        log_weights = torch.cat([current[:, None], draws.log_weights.view(chains, fresh)], 1)
        option = choose(selection_probabilities(log_weights), generator)
        moved = option > 0
        rows = torch.arange(chains) * fresh + (option - 1).clamp_min(0)
        chosen = State(*(getattr(draws.state, name)[rows] for name in ("positions", "labels", "energies", "forces")))
        info = Info(
            torch.full_like(state.labels, fresh),
            moved.long(),
            draws.outside.view(chains, fresh).sum(1),
            draws.failed.view(chains, fresh).sum(1),
            self.target.engine.calls - before,
        )
        return where(moved, chosen, state), info
