r"""Free energies of isomers by two routes that share neither sampler nor estimator: populations and wells.

Writes `results/isomer_truth.json`, case by case; minutes on one core.

    python benchmarks/isomer_truth.py [lj6 lj7 ag6_emt] [--at 0.15] [--scale 2.0]

**Populations**. Parallel tempering by the compiled sampler, or Hamiltonian Monte Carlo from both isomers for Ag6; the
isomer of each frame by the card's basins; ΔF = −kT ln(n_b/n_a), its error by the jackknife over chains. The sampler's
hard sphere of radius R is about the origin, and the centroid c moves in it where the particles leave it room; the
card's is about the centroid. A frame whose farthest particle is at m from the centroid leaves c at least the ball of
radius R − m, in which c is uniform: frames with c in that ball count, with weight (R − m)⁻³, and the others do not.
That is exact, for the weight integrates to one over the ball for every shape with m < R.

**Wells**. Every configuration is in the cell of the labelled copy, of any isomer, that it is nearest to up to
rotation. The integral of e^{−βU} over the cells of one isomer is taken in the coordinates of its Eckart frame by
importance sampling: a Gaussian is fitted to the well in a few rounds and then frozen, and mixed with wider ones. Each
sample counts for the isomer that the card's basins give it to, which for a distorted one may be another. All samples
are independent; the two routes share nothing but the basins. LJ7 has the first route alone: its basins take distorted
bipyramids, too far from the minimum for these Gaussians, for other isomers.

Energies of Ag6 come from the effective-medium formulas in a batch, checked against ASE's calculator before use.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _machine import machine, one_thread
from ase.calculators import emt
from ase.units import Bohr
from torch import Tensor

from particlegen.energy import EnergyProvider, EnergyResult, open_engine
from particlegen.energy.cards import load_potential
from particlegen.estimate import Estimate, ess_per_sample, pareto_k
from particlegen.isomers import BuiltCluster, ClusterSettings, EckartFrame, build_cluster, hessian, optimise
from particlegen.isomers.harmonic import HarmonicIsomer
from particlegen.sampling import FrameBlock, ReferenceSettings, sample_hamiltonian, sample_reference
from particlegen.settings import RunError
from particlegen.streams import torch_stream
from particlegen.system import ParticleSystem

RESULT = Path(__file__).parent / "results" / "isomer_truth.json"
CASES = {
    "lj6": {0.05: (0.05, 0.07, 0.1, 0.14, 0.18), 0.1: (0.1, 0.14, 0.18), 0.15: (0.15, 0.2)},
    "lj7": {0.1: (0.1, 0.12, 0.145, 0.175, 0.21)},
    "ag6_emt": {100.0: None, 300.0: None, 500.0: ()},
}
"""Temperatures of each card, with the ladder of the first route; () for trajectories, None where isomers do not mix."""

TARGET = {"lj6": 0.0015, "lj7": 0.005, "ag6_emt": 1e-3}
"""Largest standard error of a difference, in the unit of energy."""

FRAMES = {"lj6": 960_000, "lj7": 960_000, "ag6_emt": 102_400}
SAMPLES = {"lj6": 200_000, "ag6_emt": 400_000}
SEED = 29
CHUNK = 20_000
WIDTHS = (1.0, 1.5, 2.2)
"""Of the Gaussians of the mixture, in equal shares."""

NEGLIGIBLE = 30.0
"""In the logarithm of a weight: samples further below the largest one count as nothing."""


def centroid_weights(x: Tensor, radius: float) -> Tensor:
    """Weights `(batch,)` that turn a hard sphere about the origin into one about the centroid; see the module.

    Two free particles: their distance s has the density 3 s² below 1, where the sphere about the origin would tilt it.

    >>> x = torch.randn(400_000, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    >>> u = torch.rand(400_000, 2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    >>> x = x / x.norm(dim=2, keepdim=True) * u ** (1 / 3)  # uniform in the unit sphere about the origin
    >>> s = (x[:, 0] - x[:, 1]).norm(dim=1)
    >>> near, w = s < 1.0, centroid_weights(x, 1.0)
    >>> abs(float((s * w)[near].sum() / w[near].sum()) - 0.75) < 0.002 < abs(float(s[near].mean()) - 0.75)
    True
    """
    centre = x.mean(1, keepdim=True)
    room = radius - (x - centre).norm(dim=2).amax(1)
    return torch.where(centre[:, 0].norm(dim=1) <= room, room**-3, 0.0)


def frames_of(
    cluster: BuiltCluster, provider: EnergyProvider, ladder: tuple[float, ...], frames: int
) -> Iterator[FrameBlock]:
    """Frames at the temperature of the cluster, centroid free in a sphere about the origin."""
    if not ladder:
        settings = ReferenceSettings(
            sampler="hmc",
            chains=256,
            frames=frames,
            sweeps_between_frames=4,
            equilibration_sweeps=400,
            block_frames=25_600,
        )
        start = torch.stack([isomer.structure for isomer in cluster.isomers])
        start = start.repeat(settings.chains // len(start), 1, 1)
        return sample_hamiltonian(provider, cluster.state, settings, SEED, start=start)
    _, potential = load_potential(cluster.engine, cluster.card.path.parent)
    settings = ReferenceSettings(
        sampler="tempering",
        chains=16,
        frames=frames,
        temperatures=ladder,
        sweeps_between_frames=20,
        sweeps_between_exchanges=5,
        equilibration_sweeps=20_000,
        block_frames=40_000,
    )
    return sample_reference(cluster.system, potential, cluster.state, settings, SEED)


def populations(
    cluster: BuiltCluster, provider: EnergyProvider, ladder: tuple[float, ...], frames: int
) -> list[Estimate]:
    """F less that of the first isomer, for every isomer, in the unit of energy."""
    weight = np.zeros((256, len(cluster.isomers)))
    radius = cluster.system.geometry.radius  # pyright: ignore[reportAttributeAccessIssue]
    for block in frames_of(cluster, provider, ladder, frames):
        x = torch.from_numpy(block.positions)
        shares, isomer = centroid_weights(x, radius).numpy(), cluster.basins.assign(x).numpy()
        mine = isomer >= 0
        np.add.at(weight, (block.chain[mine], isomer[mine]), shares[mine])
    weight = weight[weight.any(1)]
    kt = 1.0 / cluster.state.beta
    left_out = -kt * np.log(weight.sum(0) - weight)
    left_out = left_out - left_out[:, :1]
    stderr = np.sqrt((len(weight) - 1) * left_out.var(0))
    total = -kt * np.log(weight.sum(0) / weight.sum(0)[0])
    method = f"populations by {'parallel tempering' if ladder else 'Hamiltonian Monte Carlo'}, {len(weight)} chains"
    return [Estimate(float(f), float(e), unit(cluster), method) for f, e in zip(total, stderr, strict=True)]


@dataclass(frozen=True, eq=False)
class Well:
    """A minimum, its Hessian in the coordinates of its frame, and how far every other isomer is: half the distance."""

    minimum: HarmonicIsomer
    matrix: Tensor
    half_way: tuple[float, ...]


def integrals(
    cluster: BuiltCluster, index: int, wells: Sequence[Well], provider: EnergyProvider, samples: int
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """∫ e^{−β(U − U₀)} over the cells of one isomer, U₀ its minimum, by the isomer that the basins give it to.

    Returns:
        The integrals `(isomer,)`, their variances, and diagnostics of the weights.
    """
    frame, beta = wells[index].minimum.frame, cluster.state.beta
    generator = torch_stream(SEED, "well", index, round(1e6 * cluster.state.temperature))
    centre, covariance = (
        torch.zeros(frame.dimensions, dtype=torch.float64),
        torch.linalg.inv(beta * wells[index].matrix),
    )

    def own(d: Tensor) -> Tensor:
        """Whether the reference is the nearest copy of all isomers."""
        x, far = frame.to_cartesian(d), d.norm(dim=1)
        inside = frame.in_cell(d)
        for other, half in enumerate(wells[index].half_way):
            unsure = inside & (far >= half)
            if other != index and unsure.any():
                inside[unsure] = wells[other].minimum.frame.fold(x[unsure]).norm(dim=1) >= far[unsure]
        return inside

    def weigh(n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Samples of the mixture, their log weights and their isomers."""
        factor = torch.linalg.cholesky(covariance)
        z = torch.randn(n, frame.dimensions, generator=generator, dtype=torch.float64)
        z = z * torch.tensor(WIDTHS, dtype=torch.float64).repeat(n // len(WIDTHS) + 1)[:n, None]
        d = centre + z @ factor.T
        constant = 0.5 * frame.dimensions * math.log(2.0 * math.pi) + float(factor.diagonal().log().sum())
        square = 0.5 * z.square().sum(1)
        parts = torch.stack([-square / width**2 - frame.dimensions * math.log(width) for width in WIDTHS])
        log_q = torch.logsumexp(parts, 0) - math.log(len(WIDTHS)) - constant
        x = frame.to_cartesian(d)
        log_w = frame.log_volume(d) - beta * (provider.evaluate(x).energy - wells[index].minimum.energy) - log_q
        isomer = cluster.basins.assign(x)
        log_w = torch.where(cluster.system.geometry.contains(x) & (isomer >= 0) & log_w.isfinite(), log_w, -torch.inf)
        matter = log_w > log_w.max() - NEGLIGIBLE
        matter[matter.clone()] = own(d[matter])
        return d, torch.where(matter, log_w, -torch.inf), isomer

    for _ in range(4):
        d, log_w, _ = weigh(CHUNK)
        w = (log_w - log_w.max()).exp()
        w = w.clamp_max(0.05 * float(w.sum()))
        w = w / w.sum()
        # the well has the point group's symmetry, and so has its Gaussian
        centre = (frame.images @ (w @ d)).mean(0)
        moved = d - centre
        covariance = (frame.images @ ((w[:, None] * moved).T @ moved) @ frame.images.mT).mean(0)
    chunks = [weigh(CHUNK)[1:] for _ in range(max(1, samples // CHUNK))]
    log_w, isomer = (torch.cat(part) for part in zip(*chunks, strict=True))
    shares = torch.where(isomer[:, None] == torch.arange(len(wells)), log_w.exp()[:, None], 0.0)
    about = {"ess_per_sample": ess_per_sample(log_w.numpy()), "pareto_k": pareto_k(log_w.numpy())}
    return shares.mean(0), shares.var(0) / len(shares), about | {"samples": len(shares)}


def batched_emt(symbol: str) -> Callable[[Tensor], Tensor]:
    """Effective-medium energies of one element, `(batch, N, 3)` in Å to eV, with the parameters and cutoffs of ASE.

    Source: Jacobsen, Stoltze, Nørskov, Surf. Sci. 366, 394 (1996).
    """
    e0, s0, v0, eta, kappa, lam, _ = emt.parameters[symbol]
    s0, eta, kappa, lam = s0 * Bohr, eta / Bohr, kappa / Bohr, lam / Bohr
    b = emt.beta
    nearest = b * max(p[1] for p in emt.parameters.values()) * Bohr
    cut = nearest * 0.5 * (3.0**0.5 + 2.0)
    slope = math.log(1e4 - 1.0) / (2.0 * nearest - cut)

    def smooth(r: Tensor) -> Tensor:
        return torch.where(r < cut + 0.5, torch.sigmoid(-slope * (r - cut)), 0.0)

    shells = b * s0 * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).sqrt()
    share = torch.tensor([12.0, 6.0, 24.0], dtype=torch.float64) / 12.0 * torch.sigmoid(-slope * (shells - cut))
    gamma1 = float(share @ (-eta * (shells - b * s0)).exp())
    gamma2 = float(share @ (-kappa / b * (shells - b * s0)).exp())

    def energy(x: Tensor) -> Tensor:
        apart = ~torch.eye(x.shape[1], dtype=torch.bool)
        r = (x[:, :, None] - x[:, None])[:, apart].norm(dim=2).unflatten(1, (x.shape[1], -1))
        weight = smooth(r)
        sigma1 = ((-eta * (r - b * s0)).exp() * weight).sum(2)
        sigma2 = ((-kappa * (r / b - s0)).exp() * weight).sum(2)
        ds = -(sigma1 / (12.0 * gamma1)).log() / (b * eta)
        cohesive = e0 * (1.0 + lam * ds) * (-lam * ds).exp() + 6.0 * v0 * (-kappa * ds).exp()
        return (cohesive - 0.5 * v0 / gamma2 * sigma2 - e0).sum(1)

    return energy


class BatchedEMT:
    """`batched_emt` as an energy provider."""

    name, differentiable, device = "batched_emt", True, torch.device("cpu")

    def __init__(self, system: ParticleSystem):
        self.system, self._energy = system, batched_emt(system.species_names[0])

    def evaluate(self, positions: Tensor, want: Sequence[str] = ("energy",)) -> EnergyResult:
        forces = None
        if "forces" in want:
            with torch.enable_grad():
                x = positions.detach().requires_grad_()
                energy = self._energy(x)
                forces = -torch.autograd.grad(energy.sum(), x)[0]
        else:
            energy = self._energy(positions)
        ok = energy.isfinite()
        reasons = tuple(None if fine else "the energy is not finite" for fine in ok.tolist())
        return EnergyResult(energy.detach().where(ok, torch.nan), forces, None, ok, reasons)


def opened(cluster: BuiltCluster) -> EnergyProvider:
    """The card's engine; ASE's effective-medium theory in batches.

    Raises:
        RunError: the batched formulas and the engine differ.
    """
    engine = open_engine(cluster.system, cluster.engine, relative_to=cluster.card.path.parent)
    if cluster.engine != "ase_emt":
        return engine
    batched, generator = BatchedEMT(cluster.system), torch_stream(SEED, "check")
    x = torch.stack([isomer.structure for isomer in cluster.isomers]).repeat(30, 1, 1)
    x = x + 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    a, b = (provider.evaluate(x, ("energy", "forces")) for provider in (engine, batched))
    found = [torch.cat([result.energy, result.forces.flatten()]) for result in (a, b) if result.forces is not None]
    apart = float((found[0] - found[1]).abs().max())
    if not apart < 1e-9:
        raise RunError(f"batched effective-medium energies or forces differ from ASE's by {apart:g}")
    return batched


def quadratic(provider: EnergyProvider, frame: EckartFrame, step: float) -> Tensor:
    """The Hessian `(d, d)` in the coordinates of a frame."""
    moved = step * torch.eye(frame.dimensions, dtype=torch.float64)
    forces = provider.evaluate(frame.to_cartesian(torch.cat([moved, -moved])), ("energy", "forces")).forces
    slopes = -torch.einsum("bni,dni->bd", forces, frame.basis)
    matrix = (slopes[: frame.dimensions] - slopes[frame.dimensions :]) / (2.0 * step)
    return 0.5 * (matrix + matrix.T)


def unit(cluster: BuiltCluster) -> str:
    return {"lj": "epsilon", "metal": "eV"}[cluster.system.units]


def prepared(cluster: BuiltCluster, provider: EnergyProvider) -> list[Well]:
    """The isomers' minima by the card's engine."""
    step = 1e-4 if cluster.system.units == "lj" else 3e-3
    minima, matrices = [], []
    for isomer in cluster.isomers:
        x, lowest = optimise(provider, isomer.structure, 1e-6)
        frame = EckartFrame(x, cluster.system.species, 0.01)
        minima.append(hessian(provider, frame, lowest, step, isomer.name))
        matrices.append(quadratic(provider, frame, step))
    half = [[0.5 * float(b.frame.fold(a.frame.reference[None]).norm()) for b in minima] for a in minima]
    return [Well(*parts) for parts in zip(minima, matrices, map(tuple, half), strict=True)]


def case(name: str, temperature: float, ladder: tuple[float, ...] | None, scale: float) -> dict:
    """Everything about one card at one temperature."""
    cluster = build_cluster(ClusterSettings(card=name, temperature=temperature))
    provider = opened(cluster)
    wells, names = prepared(cluster, provider), [isomer.name for isomer in cluster.isomers]
    harmonic = [well.minimum.free_energy(cluster.state) for well in wells]
    out: dict[str, dict] = {isomer: {"harmonic": value} for isomer, value in zip(names, harmonic, strict=True)}
    routes: dict[str, list[Estimate]] = {}
    if name in SAMPLES:
        absolute, about = by_wells(cluster, wells, provider, int(scale * SAMPLES[name]))
        for isomer, estimate, more in zip(names, absolute, about, strict=True):
            out[isomer] |= {"free_energy": estimate.as_dict()} | more
        routes["wells"] = [minus(estimate, absolute[0]) for estimate in absolute]
    if ladder is not None:
        routes["populations"] = populations(cluster, provider, ladder, int(scale * FRAMES[name]))
    for index, isomer in enumerate(names[1:], 1):
        found = {route: estimates[index] for route, estimates in routes.items()}
        best, about = combined(list(found.values()))
        row = {"harmonic": harmonic[index] - harmonic[0], "delta_free_energy": best.as_dict()} | about
        row |= {route: estimate.as_dict() for route, estimate in found.items()}
        out[f"{isomer}-{names[0]}"] = row | {"target_met": best.stderr <= TARGET[name], "scale": scale}
    return out


def by_wells(
    cluster: BuiltCluster, wells: Sequence[Well], provider: EnergyProvider, samples: int
) -> tuple[list[Estimate], list[dict[str, float]]]:
    """F of every isomer in the unit of energy, and the diagnostics of the weights in its own well."""
    beta, bottom = cluster.state.beta, min(well.minimum.energy for well in wells)
    total = torch.zeros(len(wells), dtype=torch.float64)
    variance, about = torch.zeros_like(total), []
    for index, well in enumerate(wells):
        value, spread, diagnostics = integrals(cluster, index, wells, provider, samples)
        boltzmann = math.exp(-beta * (well.minimum.energy - bottom))
        total, variance = total + boltzmann * value, variance + boltzmann**2 * spread
        about.append(diagnostics | {"share_of_other_isomers": 1.0 - float(value[index] / value.sum())})
    method = "importance sampling of the wells"
    values, errors = bottom - total.log() / beta, variance.sqrt() / total / beta
    return [Estimate(float(f), float(e), unit(cluster), method) for f, e in zip(values, errors, strict=True)], about


def minus(b: Estimate, a: Estimate) -> Estimate:
    return Estimate(b.value - a.value, math.hypot(b.stderr, a.stderr), b.unit, b.method)


def combined(routes: list[Estimate]) -> tuple[Estimate, dict[str, float]]:
    """The mean of one or two independent estimates, weighted by inverse variances, and how far apart they are."""
    if len(routes) == 1:
        return routes[0], {}
    weights = np.array([route.stderr for route in routes]) ** -2
    value, stderr = float(np.average([route.value for route in routes], weights=weights)), float(weights.sum() ** -0.5)
    apart = minus(routes[1], routes[0])
    mean = Estimate(value, stderr, routes[0].unit, "inverse-variance mean of both routes")
    return mean, {"difference_in_standard_errors": apart.value / apart.stderr}


def main() -> None:
    parser = argparse.ArgumentParser(description="Free energies of isomers by two routes.")
    parser.add_argument("cards", nargs="*", default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--at", type=float, nargs="*", help="these temperatures alone")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the frames and samples")
    arguments = parser.parse_args()
    one_thread()
    known = json.loads(RESULT.read_text())["cases"] if RESULT.exists() else {}
    for name in arguments.cards:
        for temperature, ladder in CASES[name].items():
            if arguments.at and temperature not in arguments.at:
                continue
            key = f"{name}_T{temperature:g}"
            known[key] = case(name, temperature, ladder, arguments.scale)
            print(key, json.dumps(known[key]), flush=True)
            RESULT.write_text(json.dumps({"machine": machine(), "cases": known}, indent=2) + "\n")


if __name__ == "__main__":
    main()
