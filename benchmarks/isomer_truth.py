r"""Free energies of isomers by two routes that share neither sampler nor estimator: populations, and the harmonic well.

Writes `results/isomer_truth.json`, case by case; minutes on one core.

    python benchmarks/isomer_truth.py [lj6 lj7 ag6_emt] [--scale 1.0]

**Populations** (pair potentials). Parallel tempering by the compiled sampler; the isomer of each frame by the card's
basins; ΔF = −kT ln(n_b/n_a), its error by the jackknife over independent chains. The sampler's hard sphere is about
the origin and the centroid c moves freely in it, so a configuration of shape y (centre at the origin) is met in
proportion to V(y), the volume of those c for which no y_i + c is outside. The card's sphere is about the centroid: each
frame counts with [all |y_i| ≤ R] / V(y). Where it counts, the set of c is convex and holds 0, so that V = ∫ r(Ω)³/3 dΩ
with r(Ω) the least of the roots −Ω·y_i + √((Ω·y_i)² + R² − |y_i|²): exact but for the quadrature over directions.

**Well**. F = −kT ln ∫ e^{−βU} over the labelled cell of one isomer, in the coordinates of its Eckart frame, by
importance sampling: a Gaussian is fitted to the well in a few rounds and then frozen; half of the samples come from one
1.5 times as wide. All samples are independent. Nothing but the basins is shared with the first route.

Energies of Ag6 come from the effective-medium formulas in a batch, checked against ASE's calculator before use.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _machine import machine, one_thread
from ase.calculators import emt
from ase.units import Bohr
from torch import Tensor

from particlegen.energy import EnergyProvider, open_engine
from particlegen.energy.cards import load_potential
from particlegen.estimate import Estimate, ess_per_sample, pareto_k
from particlegen.isomers import BuiltCluster, ClusterSettings, EckartFrame, build_cluster, hessian, optimise
from particlegen.isomers.harmonic import HarmonicIsomer
from particlegen.sampling import ReferenceSettings, sample_reference
from particlegen.settings import RunError
from particlegen.streams import torch_stream
from particlegen.system import ThermodynamicState

RESULT = Path(__file__).parent / "results" / "isomer_truth.json"
CASES = {
    "lj6": {0.05: (0.05, 0.07, 0.1, 0.14, 0.18), 0.1: (0.1, 0.14, 0.18), 0.15: (0.15, 0.2)},
    "lj7": {0.1: (0.1, 0.12, 0.145, 0.175, 0.21)},
    "ag6_emt": {100.0: None, 300.0: None, 500.0: None},
}
"""Temperatures of each card, with the ladder of the first route where there is one."""

TARGET = {"lj6": 0.0015, "lj7": 0.005, "ag6_emt": 1e-3}
"""Largest standard error of a difference, in the unit of energy."""

FRAMES = {"lj6": 320_000, "lj7": 480_000}
SAMPLES = {"lj6": 100_000, "lj7": 100_000, "ag6_emt": 400_000}
SEED = 29
WIDE = 1.5

Energy = Callable[[Tensor], Tensor]


def free_volume(y: Tensor, radius: float, polar: int = 20) -> Tensor:
    """V(y) of the module's docstring, `(batch,)`: where the centroid of a shape can be.

    Args:
        y: `(batch, N, 3)`, centres at the origin.
        radius: of the sphere.
        polar: Gauss points in cos θ; twice as many directions around.

    >>> d, r = 0.8, 1.0
    >>> pair = torch.tensor([[[0.0, 0.0, d / 2], [0.0, 0.0, -d / 2]]], dtype=torch.float64)
    >>> lens = math.pi * (4 * r + d) * (2 * r - d) ** 2 / 12
    >>> abs(float(free_volume(pair, r)) / lens - 1) < 3e-3
    True
    """
    nodes, weights = np.polynomial.legendre.leggauss(polar)
    angles = (np.arange(2 * polar) + 0.5) * math.pi / polar
    sine = np.sqrt(1.0 - nodes**2)
    omega = np.stack(
        [np.outer(sine, np.cos(angles)), np.outer(sine, np.sin(angles)), np.outer(nodes, np.ones_like(angles))], -1
    )
    solid = torch.from_numpy(np.outer(weights, np.full(2 * polar, math.pi / polar)).ravel())
    along = y @ torch.from_numpy(omega.reshape(-1, 3)).T
    room = (radius**2 - y.square().sum(2, keepdim=True)).clamp_min(0.0)
    reach = ((along.square() + room).sqrt() - along).amin(1)
    inside = (y.square().sum(2) <= radius**2).all(1)
    return torch.where(inside, (reach**3 / 3.0) @ solid, 0.0)


def populations(cluster: BuiltCluster, ladder: tuple[float, ...], frames: int) -> dict[str, Estimate]:
    """F_b − F_a of every isomer less the first, in the unit of energy; chains are the unit of the jackknife."""
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
    weight = np.zeros((settings.chains, len(cluster.isomers)))
    radius = cluster.system.geometry.radius  # pyright: ignore[reportAttributeAccessIssue]
    for block in sample_reference(cluster.system, potential, cluster.state, settings, SEED):
        x = torch.from_numpy(block.positions)
        y = x - x.mean(1, keepdim=True)
        volume = torch.cat([free_volume(part, radius) for part in y.split(2000)]).numpy()
        isomer = cluster.basins.assign(y).numpy()
        counts = (volume > 0) & (isomer >= 0)
        np.add.at(weight, (block.chain[counts], isomer[counts]), 1.0 / volume[counts])
    kt = 1.0 / cluster.state.beta
    left_out = -kt * np.log(weight.sum(0) - weight)
    left_out = left_out - left_out[:, :1]
    stderr = np.sqrt((len(weight) - 1) * left_out.var(0))
    total = -kt * np.log(weight.sum(0) / weight.sum(0)[0])
    method = (
        f"populations by parallel tempering, {len(weight)} chains, {settings.frames_per_chain * len(weight)} frames"
    )
    names = [isomer.name for isomer in cluster.isomers]
    return {
        name: Estimate(float(total[k]), float(stderr[k]), unit(cluster), method)
        for k, name in enumerate(names)
        if k > 0
    }


def well(
    cluster: BuiltCluster, index: int, harmonic: HarmonicIsomer, start: Tensor, energy: Energy, samples: int
) -> tuple[Estimate, dict[str, float]]:
    """F of one isomer in the unit of energy, and the diagnostics of its weights.

    Args:
        start: Hessian in the coordinates of the frame, where the fit begins.
    """
    frame, beta = harmonic.frame, cluster.state.beta
    generator = torch_stream(SEED, "well", index, round(1e6 * cluster.state.temperature))
    centre, covariance = torch.zeros(frame.dimensions, dtype=torch.float64), torch.linalg.inv(beta * start)

    def weigh(n: int) -> tuple[Tensor, Tensor]:
        """Samples of the mixture and their log weights, relative to the minimum."""
        factor = torch.linalg.cholesky(covariance)
        z = torch.randn(n, frame.dimensions, generator=generator, dtype=torch.float64)
        z[n // 2 :] *= WIDE
        d = centre + z @ factor.T
        constant = 0.5 * frame.dimensions * math.log(2.0 * math.pi) + float(factor.diagonal().log().sum())
        square = 0.5 * z.square().sum(1)
        wide = -square / WIDE**2 - frame.dimensions * math.log(WIDE)
        log_q = torch.logaddexp(-square, wide) - math.log(2.0) - constant
        x = frame.to_cartesian(d)
        log_w = frame.log_volume(d) - beta * (energy(x) - harmonic.energy) - log_q
        mine = (cluster.basins.assign(x) == index) & cluster.system.geometry.contains(x)
        log_w = torch.where(mine & log_w.isfinite(), log_w, -torch.inf)
        matter = log_w > log_w.max() - 40.0  # the labelled copy of the others is of no account
        log_w[matter] = torch.where(frame.in_cell(d[matter]), log_w[matter], -torch.inf)
        return d, torch.where(matter, log_w, -torch.inf)

    for _ in range(4):
        d, log_w = weigh(min(samples, 20_000))
        w = (log_w - log_w.max()).exp().clamp_max(0.05 * float((log_w - log_w.max()).exp().sum()))
        w = w / w.sum()
        # the well has the point group's symmetry, and so has its Gaussian
        centre = (frame.images @ (w @ d)).mean(0)
        moved = d - centre
        fitted = (w[:, None] * moved).T @ moved
        covariance = (frame.images @ fitted @ frame.images.mT).mean(0)
    log_w = torch.cat([weigh(min(20_000, samples))[1] for _ in range(max(1, samples // 20_000))])
    n = len(log_w)
    w = (log_w - log_w.max()).exp()
    value = harmonic.energy - (float(w.mean().log() + log_w.max())) / beta
    stderr = float(w.std() / w.mean()) / math.sqrt(n) / beta
    about = {"ess_per_sample": ess_per_sample(log_w.numpy()), "pareto_k": pareto_k(log_w.numpy())}
    return Estimate(value, stderr, unit(cluster), f"importance sampling of the well, {n} samples"), about


def batched_emt(symbol: str) -> Energy:
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


def checked_energy(name: str, cluster: BuiltCluster, provider: EnergyProvider) -> Energy:
    """The card's engine in batches.

    Raises:
        RunError: the batched formulas and the engine differ.
    """
    if name != "ag6_emt":
        return lambda x: provider.evaluate(x).energy
    energy = batched_emt("Ag")
    generator = torch_stream(SEED, "check")
    structures = torch.stack([isomer.structure for isomer in cluster.isomers]).repeat(30, 1, 1)
    x = structures + 0.3 * torch.randn(structures.shape, generator=generator, dtype=torch.float64)
    apart = float((energy(x) - provider.evaluate(x).energy).abs().max())
    if not apart < 1e-10:
        raise RunError(f"batched effective-medium energies differ from ASE's by {apart:g} eV")
    return energy


def quadratic(provider: EnergyProvider, frame: EckartFrame, step: float) -> Tensor:
    """The Hessian `(d, d)` in the coordinates of a frame."""
    moved = step * torch.eye(frame.dimensions, dtype=torch.float64)
    forces = provider.evaluate(frame.to_cartesian(torch.cat([moved, -moved])), ("energy", "forces")).forces
    slopes = -torch.einsum("bni,dni->bd", forces, frame.basis)
    matrix = (slopes[: frame.dimensions] - slopes[frame.dimensions :]) / (2.0 * step)
    return 0.5 * (matrix + matrix.T)


def unit(cluster: BuiltCluster) -> str:
    return {"lj": "epsilon", "metal": "eV"}[cluster.system.units]


def minus(b: Estimate, a: Estimate) -> Estimate:
    return Estimate(b.value - a.value, math.hypot(b.stderr, a.stderr), b.unit, b.method)


def case(name: str, temperature: float, ladder: tuple[float, ...] | None, scale: float) -> dict:
    """Everything about one card at one temperature."""
    cluster = build_cluster(ClusterSettings(card=name, temperature=temperature))
    provider = open_engine(cluster.system, cluster.engine, relative_to=cluster.card.path.parent)
    energy = checked_energy(name, cluster, provider)
    lj = cluster.system.units == "lj"
    state = ThermodynamicState(temperature, cluster.system.units)
    found, harmonic, out = {}, {}, {}
    for index, isomer in enumerate(cluster.isomers):
        x, lowest = optimise(provider, isomer.structure, 1e-6)
        frame, step = EckartFrame(x, cluster.system.species, 0.01), 1e-4 if lj else 3e-3
        minimum = hessian(provider, frame, lowest, step, isomer.name)
        harmonic[isomer.name] = minimum.free_energy(state)
        samples = max(20_000, int(scale * SAMPLES[name]))
        found[isomer.name], about = well(cluster, index, minimum, quadratic(provider, frame, step), energy, samples)
        out[isomer.name] = found[isomer.name].as_dict() | about | {"harmonic": harmonic[isomer.name]}
        print(name, temperature, isomer.name, json.dumps(out[isomer.name]), flush=True)
    first = cluster.isomers[0].name
    counted = populations(cluster, ladder, int(scale * FRAMES[name])) if ladder else {}
    for isomer in (i.name for i in cluster.isomers[1:]):
        difference = minus(found[isomer], found[first])
        row = {"harmonic": harmonic[isomer] - harmonic[first], "well": difference.as_dict()}
        best = difference
        if counted:
            other = counted[isomer]
            row["populations"] = other.as_dict()
            apart = math.hypot(other.stderr, difference.stderr)
            row["difference_in_standard_errors"] = (other.value - difference.value) / apart
            best = min(difference, other, key=lambda estimate: estimate.stderr)
        row["target_stderr"], row["target_met"] = TARGET[name], best.stderr <= TARGET[name]
        out[f"{isomer}-{first}"] = row
        print(name, temperature, f"{isomer}-{first}", json.dumps(row), flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Free energies of isomers by two routes.")
    parser.add_argument("cards", nargs="*", default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the frames and samples")
    arguments = parser.parse_args()
    one_thread()
    known = json.loads(RESULT.read_text())["cases"] if RESULT.exists() else {}
    for name in arguments.cards:
        for temperature, ladder in CASES[name].items():
            known[f"{name}_T{temperature:g}"] = case(name, temperature, ladder, arguments.scale)
            RESULT.write_text(json.dumps({"machine": machine(), "cases": known}, indent=2) + "\n")


if __name__ == "__main__":
    main()
