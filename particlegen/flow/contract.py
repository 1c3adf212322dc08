"""What every flow answers: samples with their log-density."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from particlegen.geometry import Positions
from particlegen.system import ParticleSystem

__all__ = ["Flow", "FlowSamples"]


@dataclass(frozen=True)
class FlowSamples:
    """Configurations, `(n, N, dim)` float64, in the box where there is one; their log-density and an estimate of its
    error, `(n,)`.

    Some samples count in n without a weight. Where a solver got stuck, both are NaN and the position is where. Where a
    configuration lies outside the space that the flow is for, log q is +∞, so that exp(−βU)/q is zero.
    """

    positions: Positions
    log_q: Float[Tensor, " sample"]
    log_q_error: Float[Tensor, " sample"]


@runtime_checkable
class Flow(Protocol):
    """Samples with log-density, and the log-density of given configurations, both with an estimate of its error.

    The density is over labelled positions in a box; over labelled positions without their centre in free space.
    """

    system: ParticleSystem

    def sample(self, n: int, generator: torch.Generator) -> FlowSamples:
        """`n` configurations that `generator` alone decides."""
        ...

    def log_prob(self, x: Positions) -> tuple[Float[Tensor, " sample"], Float[Tensor, " sample"]]:
        """log q `(n,)` of configurations `(n, N, d)` and its error; −∞ where no sample can be."""
        ...
