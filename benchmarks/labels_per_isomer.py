"""Error by number of labels about one isomer of Ag6 at 350 K: kernel potential beside network.

Labels are GFN2-xTB energies and forces of configurations by Hamiltonian Monte Carlo about each isomer: the triangle,
and what GFN2-xTB relaxes the pyramid to. Those of the first chains train, those of the others test. Labels are drawn
at random, the same for both kinds. Writes `results/labels_per_isomer.json`.

    OMP_NUM_THREADS=1 python benchmarks/labels_per_isomer.py
    OMP_NUM_THREADS=1 python benchmarks/labels_per_isomer.py --trial     # minutes, prints only
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from _machine import machine
from dft_labels import SILVER, isomers

from particlegen.energy import (
    EnergyProvider,
    LabelSet,
    LearnedErrors,
    LearnedSettings,
    fit_kernel,
    learned_errors,
    open_engine,
    train_potential,
)
from particlegen.isomers import Basins, optimise
from particlegen.sampling import sample_hamiltonian
from particlegen.sampling.settings import ReferenceSettings
from particlegen.system import ThermodynamicState
from particlegen.training import TrainingSettings

RESULT = Path(__file__).parent / "results" / "labels_per_isomer.json"
TEMPERATURE = 350.0
REACH = 0.45
"""Å, of sorted distances: farther configurations are of another isomer."""


def minima(engine: EnergyProvider) -> dict[str, torch.Tensor]:
    """The triangle, and where a displaced pyramid ends."""
    triangle, pyramid = (torch.from_numpy(shape) for shape in isomers())
    noise = 0.1 * np.random.default_rng(0).normal(size=(6, 3))
    starts = {"triangle": triangle, "relaxed pyramid": pyramid + torch.from_numpy(noise)}
    return {name: optimise(engine, start, 1e-3)[0] for name, start in starts.items()}


def thermal(engine: EnergyProvider, minimum: torch.Tensor, chains: int, frames: int, seed: int) -> list[LabelSet]:
    """Labels of the first two thirds of the chains, and of the last third, that are of the isomer."""
    settings = ReferenceSettings(
        sampler="hmc",
        chains=chains,
        frames=chains * frames,
        sweeps_between_frames=2,
        equilibration_sweeps=72,
        leapfrog_steps=6,
    )
    state, start = ThermodynamicState(TEMPERATURE, "metal"), minimum.expand(chains, 6, 3).clone()
    blocks = list(sample_hamiltonian(engine, state, settings, seed, start=start))
    x = torch.from_numpy(np.concatenate([block.positions for block in blocks]))
    first = torch.from_numpy(np.concatenate([block.chain for block in blocks])) < 2 * chains // 3
    inside = Basins(minimum[None], SILVER.species, REACH).assign(x) == 0
    found = engine.evaluate(x, ("energy", "forces"))
    assert found.forces is not None
    labels = LabelSet(SILVER, x[found.ok], found.energy[found.ok], found.forces[found.ok])
    return [labels.select(inside[found.ok] & part[found.ok]) for part in (first, ~first)]


def row(errors: LearnedErrors, seconds: float) -> dict[str, float]:
    return {"energy_rmse": errors.energy_rmse, "force_rmse": errors.force_rmse, "seconds": seconds}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--trial", action="store_true")
    arguments.add_argument("--output", type=Path, default=RESULT)
    given = arguments.parse_args()
    counts, draws, chains, frames = ((10, 20), 1, 6, 12) if given.trial else ((10, 20, 35, 60, 100, 200), 3, 12, 60)
    torch.set_num_threads(1)
    engine, found = open_engine(SILVER, "gfn2_xtb"), {}
    for number, (name, minimum) in enumerate(minima(engine).items()):
        train, test = thermal(engine, minimum, chains, frames, number + 1)
        spread = float(test.energies.std(correction=0))
        found[name] = {"labels": len(train), "tests": len(test), "energy_spread": spread, "rows": []}
        for count in (count for count in counts if count <= len(train)):
            steps = 200 if given.trial else 3000
            training = TrainingSettings(
                batch=min(16, max(4, count // 4)),
                steps=steps,
                learning_rate=1e-2,
                warm_up=100,
                ema=0.99,
                validation=max(4, count // 8),
                validate_every=100,
                optimiser="adam",
            )
            for draw in range(draws):
                order = torch.randperm(len(train), generator=torch.Generator().manual_seed(draw))
                some, began = train.select(order[:count]), time.perf_counter()
                kernel, left_out = fit_kernel(some, minimum)
                rows = {"kernel": row(learned_errors(kernel, test), time.perf_counter() - began)}
                mean, apart = kernel.judge(test.positions)
                z = (mean.energy - test.energies) / apart.energy
                ratio = float(z.square().mean().sqrt())
                rows["kernel"] |= {"left_out": left_out.energy_rmse, "error_per_deviation": ratio}
                began = time.perf_counter()
                network, _ = train_potential(some, LearnedSettings(committee=1, held_out=0.0, training=training), draw)
                rows["network"] = row(learned_errors(network, test), time.perf_counter() - began)
                found[name]["rows"].append({"count": count, "draw": draw, **rows})
                errors = {kind: round(1e3 * part["energy_rmse"], 1) for kind, part in rows.items()}
                print(f"{name}: {count} labels, draw {draw}: meV {errors}", flush=True)
    if not given.trial:
        given.output.write_text(json.dumps({"machine": machine(), "isomers": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
