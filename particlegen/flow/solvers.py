"""Explicit Runge–Kutta solvers for a batch of independent trajectories with accumulated divergence."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Field", "dormand_prince", "runge_kutta_4"]

Field = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""`field(t (batch,), x (batch, N, dim), rows (batch,))` → velocity `(batch, N, dim)`, divergence `(batch, probes)`,
float64; `rows` says which trajectories of the whole batch these are."""

# Dormand & Prince 1980, table 2: stages, fifth-order weights, and their difference from the embedded fourth order
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
_SAFETY, _SHRINK, _GROW, _MOST_STEPS = 0.9, 0.2, 5.0, 1_000


def runge_kutta_4(field: Field, x: Tensor, start: float, end: float, steps: int) -> tuple[Tensor, Tensor]:
    """End points `(batch, N, dim)` and ∫ div dt `(batch, probes)` after `steps` equal steps of the classical method.

    Error O(steps⁻⁴); 4 evaluations a step.
    """
    h = (end - start) / steps
    rows = torch.arange(len(x), device=x.device)
    total: Tensor | float = 0.0
    for k in range(steps):
        t = torch.full((len(x),), start + k * h, dtype=x.dtype, device=x.device)
        v1, d1 = field(t, x, rows)
        v2, d2 = field(t + h / 2, x + h / 2 * v1, rows)
        v3, d3 = field(t + h / 2, x + h / 2 * v2, rows)
        v4, d4 = field(t + h, x + h * v3, rows)
        x = x + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        total = total + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return x, torch.as_tensor(total)


def dormand_prince(
    field: Field, x: Tensor, start: float, end: float, tolerance: float | Float[Tensor, " batch"]
) -> tuple[Tensor, Tensor, Float[Tensor, " batch"]]:
    """End points, ∫ div dt and its accumulated embedded error, every trajectory with a step size of its own.

    Args:
        tolerance: largest embedded error a step, for positions (root mean square over coordinates, in lengths) and for
            the mean divergence integral alike; one for all trajectories or one for each.

    A trajectory whose velocity stops being finite, or that needs more than 1,000 steps, stays where it is; its integral
    and error are NaN.

    Raises:
        ArithmeticError: that holds for all of them.
    """
    batch, sign = len(x), 1.0 if end > start else -1.0
    rows = torch.arange(batch, device=x.device)
    t = torch.full((batch,), start, dtype=x.dtype, device=x.device)
    tolerance = torch.as_tensor(tolerance, dtype=x.dtype, device=x.device).expand(batch)
    h = torch.full_like(t, sign * min(0.05, abs(end - start)))
    v, d = field(t, x, rows)
    final_x, final_total = x.clone(), torch.full_like(d, torch.nan)
    error, final_error = torch.zeros_like(t), torch.full_like(t, torch.nan)
    total = torch.zeros_like(d)
    for _ in range(_MOST_STEPS):
        velocities, divergences = [v], [d]
        for node, weights in zip(_NODES, _STAGES, strict=True):
            increment = sum(w * k for w, k in zip(weights, velocities, strict=True) if w)
            new_x = x + h[:, None, None] * increment
            stage = field(t + node * h, new_x, rows)
            velocities.append(stage[0])
            divergences.append(stage[1])
        # the last stage's node is the step's end (first same as last)
        new_total = total + h[:, None] * sum(w * k for w, k in zip(_STAGES[-1], divergences[:-1], strict=True) if w)
        off_x = h[:, None, None] * sum(w * k for w, k in zip(_ERROR, velocities, strict=True) if w)
        off_d = (h[:, None] * sum(w * k for w, k in zip(_ERROR, divergences, strict=True) if w)).mean(1).abs()
        ratio = torch.maximum(off_x.square().mean((1, 2)).sqrt(), off_d) / tolerance
        lost = ~ratio.isfinite()
        accept = ratio <= 1
        factor = (_SAFETY * ratio.clamp_min(1e-10) ** -0.2).clamp(_SHRINK, _GROW)
        keep = accept[:, None]
        t = torch.where(accept, t + h, t)
        x = torch.where(keep[:, None], new_x, x)
        total = torch.where(keep, new_total, total)
        error = torch.where(accept, error + off_d, error)
        v = torch.where(keep[:, None], velocities[-1], v)
        d = torch.where(keep, divergences[-1], d)
        left = end - t
        finished = left.abs() < 1e-12
        final_x[rows] = x
        final_total[rows[finished]], final_error[rows[finished]] = total[finished], error[finished]
        go = ~(finished | lost)
        if not go.any():
            break
        h = torch.where((h * factor).abs() > left.abs(), left, h * factor)
        t, h, x, v, d = (a[go] for a in (t, h, x, v, d))
        total, error, tolerance, rows = (a[go] for a in (total, error, tolerance, rows))
    if batch and final_error.isnan().all():
        raise ArithmeticError(
            f"dormand_prince: every trajectory needs more than {_MOST_STEPS} steps, or its velocity is not finite; "
            "train longer or raise the tolerance"
        )
    return final_x, final_total, final_error
