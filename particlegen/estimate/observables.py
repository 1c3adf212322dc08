"""Structure and energies under weights: partial g(r), S(q), energy histograms.

Positions are `(frame, particle, dim)` in a rectangular periodic box, 2D or 3D. Weights are per frame; without them all
frames count alike. Errors take the frames for independent: thin correlated frames by their statistical inefficiency.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from particlegen.estimate.weights import normalised_weights

__all__ = ["Curve", "EnergyHistograms", "energy_histogram", "rdf", "structure_factor"]

Frames = Float[np.ndarray, "frame particle dim"]
LogWeights = Float[np.ndarray, " frame"]

DENSE_PAIRS = 2500
"""Up to this many pairs of a frame, looking at each is faster than freud's neighbour search."""


@dataclass(frozen=True)
class Curve:
    """A function of r, q or energy with its error.

    Args:
        x: abscissa (centres of bins, or the values themselves), `(point,)`.
        value: `(point,)`.
        stderr: standard error of `value`, `(point,)`.
        label: what it is, for a legend.
        x_label, y_label: for the axes.
    """

    x: np.ndarray
    value: np.ndarray
    stderr: np.ndarray
    label: str
    x_label: str = ""
    y_label: str = ""

    def plot(self, ax: Any, **style: Any) -> Any:
        """Draw the curve with a band of ± 1 standard error into matplotlib axes and return them."""
        (line,) = ax.plot(self.x, self.value, label=self.label, **style)
        ax.fill_between(
            self.x, self.value - self.stderr, self.value + self.stderr, color=line.get_color(), alpha=0.25, lw=0
        )
        ax.set(xlabel=self.x_label, ylabel=self.y_label)
        return ax

    def as_dict(self) -> dict[str, Any]:
        """Lists for JSON."""
        return {name: getattr(self, name).tolist() for name in ("x", "value", "stderr")} | {"label": self.label}


def _checked(
    positions: np.ndarray, lengths: Sequence[float], log_w: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(frames with weight, box lengths, their normalised weights)."""
    x, box = np.asarray(positions, np.float64), np.asarray(lengths, np.float64)
    if x.ndim != 3 or x.shape[2] not in (2, 3) or box.shape != x.shape[2:] or not (box > 0).all():
        raise ValueError(f"expected (frame, particle, 2 or 3) and one box length per axis, found {x.shape}, {box}")
    n = len(x)
    if n < 1 or (log_w is not None and len(log_w) != n):
        raise ValueError(f"{n} frames with {0 if log_w is None else len(log_w)} weights")
    w = np.full(n, 1 / n) if log_w is None or n == 1 else normalised_weights(log_w)
    # A frame that weighs nothing may hold anything, NaN included.
    x, w = x[w > 0], w[w > 0]
    if not np.isfinite(x).all():
        raise ValueError("positions must be finite wherever the weight is not zero")
    return x, box, w


def _weighted(per_frame: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean over frames and its delta-method error (equation 9.9 of Owen 2013), for `(frame, point)`."""
    mean = w @ per_frame
    n = len(w)
    if n < 2:
        return mean, np.full_like(mean, math.nan)
    return mean, np.sqrt(n / (n - 1) * np.einsum("f,fp->p", w**2, (per_frame - mean) ** 2))


def _members(species: Sequence[int] | np.ndarray, pair: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    kinds = np.asarray(species)
    if pair is None:
        everyone = np.arange(len(kinds))
        return everyone, everyone
    return np.flatnonzero(kinds == pair[0]), np.flatnonzero(kinds == pair[1])


def _named(pair: tuple[int, int] | None, names: Sequence[str] | None) -> str:
    if pair is None:
        return "all"
    return "-".join(names[s] if names else str(s) for s in pair)


def rdf(
    positions: Frames,
    lengths: Sequence[float],
    species: Sequence[int] | np.ndarray,
    pair: tuple[int, int] | None = None,
    log_w: LogWeights | None = None,
    bins: int = 100,
    r_max: float | None = None,
    names: Sequence[str] | None = None,
) -> Curve:
    """Partial radial distribution function g_ab(r), weighted over frames; large systems through freud (float32).

    Normalised by the pairs that exist, N_a (N_b − δ_ab), so that an ideal gas gives 1 at every N and r.

    Args:
        positions: `(frame, particle, dim)`.
        lengths: box lengths, `(dim,)`.
        species: species index per particle, `(particle,)`.
        pair: species (a, b); None for all particles alike.
        log_w: log weight per frame; None for equal weights.
        bins: number of equal bins up to `r_max`.
        r_max: at most, and by default, half the shortest box length.
        names: species names for the label.

    Returns:
        g at the centres of the bins, with errors over frames.

    Raises:
        ValueError: wrong shapes, `r_max` beyond half the box, or a pair that does not exist.
    """
    x, box, w = _checked(positions, lengths, log_w)
    half = float(box.min()) / 2
    reach = half if r_max is None else float(r_max)
    if not 0 < reach <= half or bins < 1:
        raise ValueError(
            f"need bins >= 1 and 0 < r_max <= {half:g}, half the shortest box length; found {bins}, {r_max}"
        )
    if len(species) != x.shape[1]:
        raise ValueError(f"{len(species)} species for {x.shape[1]} particles")
    a, b = _members(species, pair)
    same = pair is None or pair[0] == pair[1]
    pairs = len(a) * (len(b) - same)
    if pairs == 0:
        raise ValueError(f"no pairs of species {pair} among the particles")
    counts = _pair_counts(x, box, a, b, same, bins, reach)
    edges = np.linspace(0, reach, bins + 1)
    unit_ball = math.pi if x.shape[2] == 2 else 4 * math.pi / 3
    shells = unit_ball * np.diff(edges ** x.shape[2])
    mean, stderr = _weighted(counts * (float(np.prod(box)) / (pairs * shells)), w)
    return Curve((edges[1:] + edges[:-1]) / 2, mean, stderr, _named(pair, names), "r", "g(r)")


def _pair_counts(
    x: np.ndarray, box: np.ndarray, a: np.ndarray, b: np.ndarray, same: bool, bins: int, reach: float
) -> np.ndarray:
    """Ordered pairs per frame and bin, `(frame, bin)`."""
    counts = np.empty((len(x), bins))
    if len(a) * len(b) <= DENSE_PAIRS:
        step = max(1, 1_000_000 // (len(a) * len(b) * x.shape[2]))
        for start in range(0, len(x), step):
            counts[start : start + step] = _dense_counts(x[start : start + step], box, a, b, same, bins, reach)
        return counts
    import freud

    flat = x.shape[2] == 2
    cell = freud.box.Box(Lx=box[0], Ly=box[1], Lz=0 if flat else box[2], is2D=flat)
    points: Any = np.zeros((*x.shape[:2], 3), dtype=np.float32)
    # freud's box is centred on the origin.
    points[..., : x.shape[2]] = np.mod(x, box) - box / 2
    # freud refuses r_max = L/2 when rounding lifts it above; pairs beyond the last edge are cut there anyway.
    search = {"r_max": reach * (1 - 1e-6), "exclude_ii": same}
    for frame, xyz in enumerate(points):
        found = freud.locality.AABBQuery(cell, xyz[a]).query(xyz[b], search).toNeighborList()
        counts[frame] = np.histogram(found.distances, bins=bins, range=(0, reach))[0]
    return counts


def _dense_counts(
    x: np.ndarray, box: np.ndarray, a: np.ndarray, b: np.ndarray, same: bool, bins: int, reach: float
) -> np.ndarray:
    """The same for all frames at once, every pair looked at."""
    delta = x[:, a, None] - x[:, None, b]
    delta -= box * np.round(delta / box)
    r = np.sqrt(np.sum(delta**2, axis=-1))
    if same:
        r[:, np.arange(len(a)), np.arange(len(a))] = np.inf
    r = r.reshape(len(x), -1)
    inside = r < reach
    frame, _ = np.nonzero(inside)
    index = frame * bins + np.minimum((r[inside] * (bins / reach)).astype(int), bins - 1)
    return np.bincount(index, minlength=len(x) * bins).reshape(len(x), bins)


def _reciprocal(box: np.ndarray, q_max: float) -> np.ndarray:
    """Half of the non-zero reciprocal vectors 2πn/L with |q| ≤ q_max (the other half is their mirror image)."""
    limits = np.floor(q_max * box / (2 * math.pi)).astype(int)
    if np.prod(2 * limits + 1) > 2_000_000:
        raise ValueError(f"q_max = {q_max:g} asks for {int(np.prod(2 * limits + 1))} wave vectors; lower it")
    grid = np.array(list(itertools.product(*(range(-m, m + 1) for m in limits))), dtype=np.int64)
    # The first non-zero component is positive: one of each ± pair.
    leading = np.array([next((n for n in row if n), 0) for row in grid])
    q = 2 * math.pi * grid[leading > 0] / box
    return q[np.linalg.norm(q, axis=1) <= q_max]


def structure_factor(
    positions: Frames,
    lengths: Sequence[float],
    species: Sequence[int] | np.ndarray,
    pair: tuple[int, int] | None = None,
    log_w: LogWeights | None = None,
    bins: int = 50,
    q_max: float | None = None,
    names: Sequence[str] | None = None,
) -> Curve:
    """Partial static structure factor S_ab(q), averaged over the box's own wave vectors in each bin of |q|.

    S_ab(q) = Re ρ_a(q) ρ_b(−q) / √(N_a N_b) (Ashcroft, Langreth 1967): an ideal gas gives 1 for a = b, 0 for a ≠ b.
    Summed directly over 2πn/L, in 2D and 3D alike (freud's direct sum is 3D only).

    Args:
        q_max: largest |q|, by default 10 wave vectors of the longest side.
        bins: equal bins up to `q_max`; those without a wave vector are left out.
        The others: as `rdf`.

    Returns:
        S at the mean |q| of every bin that is not empty, with errors over frames.

    Raises:
        ValueError: wrong shapes, a `q_max` below the first or with too many wave vectors, or a species that is absent.
    """
    x, box, w = _checked(positions, lengths, log_w)
    if len(species) != x.shape[1]:
        raise ValueError(f"{len(species)} species for {x.shape[1]} particles")
    a, b = _members(species, pair)
    if not len(a) or not len(b):
        raise ValueError(f"no particles of species {pair}")
    limit = 20 * math.pi / float(box.max()) if q_max is None else float(q_max)
    q = _reciprocal(box, limit)
    if not len(q):
        raise ValueError(f"q_max = {limit:g} lies below the first wave vector, {2 * math.pi / box.max():g}")
    size = np.linalg.norm(q, axis=1)
    bin_of = np.minimum((size / limit * bins).astype(int), bins - 1)
    filled, bin_of = np.unique(bin_of, return_inverse=True)
    share = np.bincount(bin_of)
    per_frame = np.empty((len(x), len(filled)))
    for frame, xyz in enumerate(x):
        phase = np.exp(1j * (xyz @ q.T))
        rho_a = phase[a].sum(axis=0)
        rho_b = rho_a if pair is None or pair[0] == pair[1] else phase[b].sum(axis=0)
        power = (rho_a * rho_b.conj()).real / math.sqrt(len(a) * len(b))
        per_frame[frame] = np.bincount(bin_of, weights=power) / share
    mean, stderr = _weighted(per_frame, w)
    centres = np.bincount(bin_of, weights=size) / share
    return Curve(centres, mean, stderr, _named(pair, names), "q", "S(q)")


@dataclass(frozen=True)
class EnergyHistograms:
    """Densities of the energy over common bins.

    Args:
        edges: `(bin + 1,)`.
        curves: by name, `raw`, `reweighted`, `reference` (where given); the densities integrate to the share of
            samples that lies within the edges.
        outside: by name, the weighted share beyond the edges or without a finite energy.
    """

    edges: np.ndarray
    curves: dict[str, Curve]
    outside: dict[str, float]

    def plot(self, ax: Any) -> Any:
        """Draw all densities as steps into matplotlib axes and return them."""
        for name, curve in self.curves.items():
            ax.stairs(curve.value, self.edges, label=name)
        ax.set(xlabel="energy", ylabel="probability density")
        ax.legend()
        return ax


def energy_histogram(
    energy: Float[np.ndarray, " sample"],
    log_w: Float[np.ndarray, " sample"],
    reference_energy: Float[np.ndarray, " frame"] | None = None,
    bins: int = 60,
    span: tuple[float, float] | None = None,
) -> EnergyHistograms:
    """Energies of raw samples, the same reweighted, and of the reference, as densities over common bins.

    Args:
        energy: of raw samples; what is not finite counts as outside.
        log_w: their log weights.
        reference_energy: of reference frames, or None.
        bins: number of equal bins.
        span: (lowest, highest) energy; by default the reference's range widened by a quarter, or, without a
            reference, the central 98 % of the raw energies.

    Raises:
        ValueError: nothing finite to span, or an empty span.
    """
    energy = np.asarray(energy, np.float64)
    finite = energy[np.isfinite(energy)]
    if span is None:
        if reference_energy is not None:
            low, high = float(np.min(reference_energy)), float(np.max(reference_energy))
            span = (low - (high - low) / 8, high + (high - low) / 8)
        elif finite.size:
            span = (float(np.quantile(finite, 0.01)), float(np.quantile(finite, 0.99)))
    if span is None or not span[0] < span[1] or not np.isfinite(span).all():
        raise ValueError(f"no range of energies to draw: {span}")
    edges = np.linspace(*span, bins + 1)
    weights = {
        "raw": (energy, np.full(energy.size, 1 / energy.size)),
        "reweighted": (energy, normalised_weights(log_w)),
    }
    if reference_energy is not None:
        reference = np.asarray(reference_energy, np.float64)
        weights["reference"] = (reference, np.full(reference.size, 1 / reference.size))
    curves, outside = {}, {}
    for name, (values, w) in weights.items():
        share = np.histogram(values, edges, weights=w)[0]
        # Of Σ w̄ (1_bin − share)², with Σ w̄² split into inside and outside the bin.
        inside, total = np.histogram(values, edges, weights=w**2)[0], float(np.sum(w**2))
        variance = inside * (1 - share) ** 2 + (total - inside) * share**2
        width = np.diff(edges)
        curves[name] = Curve(
            (edges[1:] + edges[:-1]) / 2, share / width, np.sqrt(variance) / width, name, "energy", "density"
        )
        outside[name] = float(max(1 - share.sum(), 0.0))
    return EnergyHistograms(edges, curves, outside)
