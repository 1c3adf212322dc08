"""Named schedules: the noise term γ(t) of a stochastic interpolant, and how training times are drawn."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["NOISE_SCHEDULES", "draw_times"]


def _none(t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(t), torch.zeros_like(t)


def _root(t: Tensor) -> tuple[Tensor, Tensor]:
    # the derivative diverges at both ends, where the target is clipped by this floor
    gamma = torch.sqrt(2 * t * (1 - t))
    return gamma, (1 - 2 * t) / gamma.clamp_min(1e-3)


def _quadratic(t: Tensor) -> tuple[Tensor, Tensor]:
    return t * (1 - t), 1 - 2 * t


def _sine_squared(t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sin(torch.pi * t) ** 2, torch.pi * torch.sin(2 * torch.pi * t)


NOISE_SCHEDULES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "none": _none,
    "root": _root,
    "quadratic": _quadratic,
    "sine_squared": _sine_squared,
}
"""γ(t) and γ'(t) with γ(0) = γ(1) = 0, per unit amplitude (Albergo, Boffi & Vanden-Eijnden 2023, table 4)."""


def draw_times(n: int, late: float, generator: torch.Generator) -> Tensor:
    """Training times `(n,)` in [0, 1], stratified over the batch: t = 1 − (1 − u)^late with u uniform.

    `late` = 1 is uniform; above 1 more times fall near t = 1, where contacts form. Only the weight of each time in the
    loss depends on it, not the velocity field that minimises the loss.
    """
    u = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    return 1 - (1 - u) ** late
