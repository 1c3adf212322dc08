"""DFT labels (energy and forces) per hour of Ag6 at PBE/LANL2DZ: this package beside PySCF's own ASE calculator.

Ours: single-threaded workers, one per core, two grids, densities restarted from frozen references, a share of them
checked with a fresh guess. The other side: PySCF's ASE calculator in one process with as many threads as there are
workers, density fitting, a fresh guess for every geometry. Same functional, basis, grid and convergence, the same
geometries in the same orientation: perturbed triangles and pyramids. Writes `results/dft_labels.json`.

    python benchmarks/dft_labels.py --labels 24 --workers 2
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from _machine import machine

from particlegen.energy import PySCFEnergy, ReferenceDensity, canonical_frame, load_pyscf_settings
from particlegen.energy.pyscf_settings import pyscf
from particlegen.geometry import FreeSpace
from particlegen.system import ParticleSystem
from particlegen.units import HARTREE

RESULT = Path(__file__).parent / "results" / "dft_labels.json"
CARD = "pyscf_pbe_lanl2dz"
SILVER = ParticleSystem("Ag6", FreeSpace(3), species=(0,) * 6, species_names=("Ag",), units="metal")
_ENGINE: list[PySCFEnergy] = []
"""One per worker process."""


def isomers() -> list[np.ndarray]:
    """The planar triangle (outer bonds 2.68 Å, inner 2.79 Å) and the pentagonal pyramid (2.69 Å up, 2.81 Å around)."""
    inner, outer = 2.79 / np.sqrt(3), 2.79 / np.sqrt(12) + np.sqrt(2.68**2 - (2.79 / 2) ** 2)
    angles = np.deg2rad([30.0, 150.0, 270.0])
    star = np.stack([np.cos(angles), np.sin(angles), np.zeros(3)], 1)
    ring = 2.81 / (2 * np.sin(np.pi / 5))
    turns = 2 * np.pi * np.arange(5) / 5
    base = ring * np.stack([np.cos(turns), np.sin(turns), np.zeros(5)], 1)
    return [np.concatenate([inner * star, -outer * star]), np.vstack([base, [0.0, 0.0, np.sqrt(2.69**2 - ring**2)]])]


def geometries(count: int, seed: int) -> torch.Tensor:
    """`(count, 6, 3)` in Å: isomers in turn, displaced by noise of 0.05 to 0.1 Å."""
    rng = np.random.default_rng(seed)
    shapes = isomers()
    displaced = [shapes[k % 2] + rng.uniform(0.05, 0.1) * rng.normal(size=(6, 3)) for k in range(count)]
    return torch.from_numpy(np.stack(displaced))


def start_worker(references: tuple[ReferenceDensity, ...]) -> None:
    torch.set_num_threads(1)
    _ENGINE[:] = [PySCFEnergy.of_card(SILVER, CARD).restarted_from(references)]


def label(x: torch.Tensor) -> dict:
    """Energy in Hartree, forces in eV/Å of one geometry."""
    found = _ENGINE[0].evaluate(x[None], ("energy", "forces"))
    if not found.ok[0]:
        raise RuntimeError(found.reasons[0])
    return {"energy": float(found.energy[0]) / HARTREE, "forces": found.forces[0].numpy()}


def iterations(x: torch.Tensor) -> tuple[int, int, int]:
    """Of a fresh start (coarse, fine) and of a restarted one (coarse); not timed."""
    fresh = PySCFEnergy.of_card(SILVER, CARD).solution(x.numpy())[1]
    return fresh.coarse_cycles, fresh.cycles, _ENGINE[0].solution(x.numpy())[1].coarse_cycles


def peer(frames: list[np.ndarray]) -> tuple[list[dict], float]:
    """Labels by PySCF's ASE calculator, in our orientation, since its grid would otherwise differ; and the seconds."""
    import ase
    from pyscf.pbc.tools.pyscf_ase import PySCF

    settings = load_pyscf_settings(CARD)
    found, began = [], time.perf_counter()
    for x in frames:
        mol = pyscf("gto").M(atom=[("Ag", y) for y in x.tolist()], basis="lanl2dz", ecp="lanl2dz", verbose=0)
        field = pyscf("dft").RKS(mol, xc=settings.functional).density_fit(auxbasis=settings.auxiliary_basis)
        field.grids.level, field.conv_tol = settings.grid_level, settings.convergence
        atoms = ase.Atoms("Ag6", positions=x, calculator=PySCF(method=field))
        forces, energy = atoms.get_forces(), atoms.get_potential_energy() / pyscf("data.nist").HARTREE2EV
        found.append({"energy": energy, "forces": forces, "iterations": atoms.calc.method_scan.cycles})
    return found, time.perf_counter() - began


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--labels", type=int, default=24)
    arguments.add_argument("--references", type=int, default=4)
    arguments.add_argument("--workers", type=int, default=os.cpu_count())
    arguments.add_argument("--output", type=Path, default=RESULT)
    given = arguments.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        if os.environ.get(name) != "1":
            sys.exit(f"set {name}=1: workers have one thread each, and the peer's threads are set here")
    engine = PySCFEnergy.of_card(SILVER, CARD)
    x = geometries(given.labels, seed=1)
    references = engine.references(geometries(given.references, seed=2))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.workers, context, start_worker, (references,)) as pool:
        list(pool.map(start_worker, [references] * given.workers))  # workers have imported what they need
        began = time.perf_counter()
        ours = list(pool.map(label, x))
        seconds = time.perf_counter() - began
        counted = np.array(list(pool.map(iterations, x[: min(8, given.labels)])))
    frames = [canonical_frame(y.numpy(), np.full(6, 47.0)).positions for y in x]
    with pyscf("lib").with_omp_threads(given.workers):
        theirs, peer_seconds = peer(frames)
    apart = max(abs(a["energy"] - b["energy"]) for a, b in zip(ours, theirs, strict=True))
    result = {
        "title": "DFT labels of Ag6",
        "machine": {**machine(), "pyscf": version("pyscf")},
        "labels": given.labels,
        "workers": given.workers,
        "labels_per_hour": {"ours": 3600 * given.labels / seconds, "pyscf_ase": 3600 * given.labels / peer_seconds},
        "ratio": peer_seconds / seconds,
        "largest_energy_difference_hartree": apart,
        "iterations": {
            "pyscf_ase_fine": float(np.mean([found["iterations"] for found in theirs])),
            **dict(zip(("fresh_coarse", "fresh_fine", "restarted_coarse"), counted.mean(0).tolist(), strict=True)),
        },
    }
    given.output.parent.mkdir(exist_ok=True)
    given.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
