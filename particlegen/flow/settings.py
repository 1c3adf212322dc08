"""The `generation` section of a workflow."""

from typing import Annotated, Literal

from pydantic import Field as Bound
from pydantic import model_validator

from particlegen.settings import Section

__all__ = ["GenerationSettings", "PathSettings"]


class PathSettings(Section):
    """How a flow with noise steps.

    Attributes:
        kernel: `split`: a Runge–Kutta step of the probability flow with the change of its density, then a Langevin step
            at fixed time; `plain`: Euler–Maruyama steps of the stochastic differential equation, which need no
            divergence and are exact for any number of steps, but whose weights spread far more.
        diffusion: D of the diffusion coefficient D γ(t)² of the noise, per unit of t.
        late_steps: exponent that moves the steps towards t = 1, t_k = 1 − (1 − k/K)^late_steps; 1 is evenly spaced.
    """

    kernel: Literal["split", "plain"] = "split"
    diffusion: Annotated[float, Bound(ge=0, le=1e6)] = 1.0
    late_steps: Annotated[float, Bound(ge=1, le=4)] = 1.0


class GenerationSettings(Section):
    """The `generation` section of a workflow.

    Attributes:
        samples: number of configurations.
        solver: `rk4` (fixed steps) or `dopri5` (adaptive, one step size per sample).
        steps: steps of `rk4`, even, so that half of them give the error estimate; steps of a `path`.
        tolerance: embedded error per step of `dopri5`.
        likelihood: `exact` divergence; `hutchinson` (random probes, corrected for the bias of the weights to second
            order; an approximation); or `path`: sampling with noise, weights over the path, of a network with a
            denoiser.
        probes: random vectors per sample of `hutchinson`.
        path: how a `path` steps.
        chunk: samples integrated at once; it bounds the memory and is part of the answer's definition.
    """

    samples: Annotated[int, Bound(ge=1, le=100_000_000)] = 10_000
    solver: Literal["rk4", "dopri5"] = "rk4"
    steps: Annotated[int, Bound(ge=2, le=10_000)] = 16
    tolerance: Annotated[float, Bound(gt=0, le=1)] = 1e-4
    likelihood: Literal["exact", "hutchinson", "path"] = "exact"
    probes: Annotated[int, Bound(ge=2, le=1024)] = 4
    path: PathSettings = PathSettings()
    chunk: Annotated[int, Bound(ge=1, le=1_000_000)] = 500

    @model_validator(mode="after")
    def _even(self) -> "GenerationSettings":
        if self.steps % 2:
            raise ValueError(f"'steps' must be even, found {self.steps}: half of them give the error estimate")
        if self.likelihood == "path" and self.solver != "rk4":
            raise ValueError(f"'solver' {self.solver!r} has no path weights: set 'rk4', or another 'likelihood'")
        return self
