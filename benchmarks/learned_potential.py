"""Learned potentials of Ag6: energies with forces per second, error per number of labels, and where e3nn's time goes.

Both kinds of network side by side in one run. Labels are configurations of Langevin dynamics about the planar triangle
and the pentagonal pyramid, by GFN2-xTB, or by effective-medium theory where tblite is missing; errors are those of the
default training on 200 configurations that no network saw. Speed is that of fresh weights, best of several passes over
the same batch, on one and two threads of torch, and over two processes. Writes `results/learned_potential.json`.

    OMP_NUM_THREADS=1 python benchmarks/learned_potential.py
    OMP_NUM_THREADS=1 python benchmarks/learned_potential.py --trial     # minutes, prints only
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import ase
import numpy as np
import torch
from _machine import machine
from ase import units
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import BFGS
from dft_labels import SILVER, isomers

from particlegen.energy import (
    EnergyProvider,
    LabelSet,
    LearnedModel,
    LearnedPotential,
    LearnedSettings,
    ProviderCalculator,
    learned_errors,
    open_engine,
    save_learned,
    train_potential,
)
from particlegen.machine import keep_freed_memory
from particlegen.networks import PotentialSettings, build_potential_network

RESULT = Path(__file__).parent / "results" / "learned_potential.json"
KINDS = ("e3nn", "moments")
COUNTS = (20, 50, 100, 200, 400)
BATCHES = (1, 16, 64, 256, 1024, 4096)
TEST = 200
TEMPERATURE = 400.0
WANT = ("energy", "forces")
_ENGINE: list[EnergyProvider] = []
"""One per worker process."""


def dynamics(engine: EnergyProvider, count: int, seed: int) -> LabelSet:
    """Configurations 40 fs apart, after 400 fs, of each isomer in turn, in a random order."""
    calculator, rng, frames = ProviderCalculator(engine), np.random.default_rng(seed), []
    for shape in isomers():
        atoms = ase.Atoms("Ag6", positions=shape, calculator=calculator)
        BFGS(atoms, logfile=None).run(fmax=0.05, steps=100)
        atoms.set_constraint(FixCom())
        thermalize_momenta(atoms, temperature_K=TEMPERATURE, rng=rng)
        steps = Langevin(atoms, 4 * units.fs, temperature_K=TEMPERATURE, friction=0.02 / units.fs, fixcm=False, rng=rng)
        steps.run(100)
        for _ in range(count // 2):
            steps.run(10)
            frames.append(atoms.positions.copy())
    x = torch.from_numpy(np.stack(frames))[torch.from_numpy(rng.permutation(len(frames)))]
    found = engine.evaluate(x, WANT)
    assert found.forces is not None
    return LabelSet(SILVER, x[found.ok], found.energy[found.ok], found.forces[found.ok])


def fresh(kind: str) -> LearnedPotential:
    network = PotentialSettings(kind=kind)  # pyright: ignore[reportArgumentType]
    model = LearnedModel(network=network, units="metal", species=("Ag",), reference_energies=(0.0,), scale=1.0)
    return LearnedPotential(SILVER, model, build_potential_network(network, 1))


def per_second(call, count: int, seconds: float) -> float:
    """Of the fastest of the passes that fit into the time, at least three."""
    call()
    began, times = time.perf_counter(), []
    while len(times) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return count / min(times)


def start_worker(card: str) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    _ENGINE[:] = [open_engine(SILVER, card)]


def worker_energies(x: np.ndarray) -> np.ndarray:
    return _ENGINE[0].evaluate(torch.from_numpy(x), WANT).energy.numpy()


def speed(kind: str, x: torch.Tensor, seconds: float) -> dict:
    """Energies with forces per second by batch size: on one thread, on two, and over two processes of one thread."""
    engine, found = fresh(kind), {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for batch in BATCHES:
            part = x[:batch]
            rate = per_second(lambda part=part: engine.evaluate(part, WANT), batch, seconds)
            found.setdefault(str(batch), {})[f"{threads}_threads"] = rate
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        card = str(Path(folder) / "potential.yaml")
        save_learned(card, engine)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, context, start_worker, (card,)) as pool:
            for batch in BATCHES[3:]:
                halves = np.array_split(x[:batch].numpy(), 2)
                rate = per_second(lambda halves=halves: list(pool.map(worker_energies, halves)), batch, seconds)
                found[str(batch)]["2_processes"] = rate
    return found


def shares(kind: str, x: torch.Tensor) -> list[dict]:
    """Where the time goes: torch's operations by their share of it, on one thread."""
    engine = fresh(kind)
    engine.evaluate(x, WANT)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(5):
            engine.evaluate(x, WANT)
    rows = sorted(profile.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    return [{"operation": row.key, "share": row.self_cpu_time_total / total, "calls": row.count} for row in rows[:12]]


def parts_of_e3nn(x: torch.Tensor) -> dict[str, float]:
    """Shares of the forward pass by part of the network, and backward over forward; one thread, CPU time."""
    network, kinds = fresh("e3nn").network, torch.zeros(x.shape[1], dtype=torch.int64)
    spent, begun = Counter(), {}
    for step in network.rounds:
        for name in ("send", "product", "weights", "receive", "keep", "gate"):
            part = getattr(step, name)
            part.register_forward_pre_hook(lambda *_, name=name: begun.__setitem__(name, time.process_time()))
            part.register_forward_hook(lambda *_, name=name: spent.update({name: time.process_time() - begun[name]}))
    for repeat in range(12):
        if repeat == 2:  # the first passes allocate
            spent.clear()
        delta = (x[:, None] - x[:, :, None]).requires_grad_()
        start = time.process_time()
        energy = network(delta, kinds).sum()
        half = time.process_time()
        torch.autograd.grad(energy, delta)
        spent.update({"forward": half - start, "backward": time.process_time() - half})
    return {name: seconds / spent["forward"] for name, seconds in spent.most_common() if name != "forward"}


def learning(kind: str, labels: LabelSet, counts: tuple[int, ...], steps: int | None) -> list[dict]:
    """Errors of one network, trained by default settings on the first so many labels, on the last `TEST`."""
    settings = LearnedSettings(network=PotentialSettings(kind=kind), committee=1, held_out=0.0)  # pyright: ignore[reportArgumentType]
    if steps:
        settings = settings.model_copy(update={"training": settings.training.model_copy(update={"steps": steps})})
    test, rows = labels.select(torch.arange(len(labels) - TEST, len(labels))), []
    for count in counts:
        start = time.process_time()
        potential, _ = train_potential(labels.select(torch.arange(count)), settings, seed=1)
        seconds, errors = time.process_time() - start, learned_errors(potential, test)
        rows.append(
            {
                "labels": count,
                "energy_rmse_meV": 1e3 * errors.energy_rmse,
                "energy_spread_meV": 1e3 * errors.energy_spread,
                "force_rmse_meV_per_angstrom": 1e3 * errors.force_rmse,
                "force_spread_meV_per_angstrom": 1e3 * errors.force_spread,
                "training_cpu_seconds": seconds,
            }
        )
        print(kind, rows[-1], flush=True)
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--engine", choices=("ase_emt", "gfn2_xtb"), help="default: gfn2_xtb where it is installed")
    arguments.add_argument("--trial", action="store_true", help="short passes and trainings, up to 100 labels")
    arguments.add_argument("--output", type=Path, default=RESULT)
    given = arguments.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("set OMP_NUM_THREADS=1: the threads of torch are set here")
    keep_freed_memory()
    counts, steps, seconds = ((20, 50, 100), 400, 0.5) if given.trial else (COUNTS, None, 5.0)
    name = given.engine or ("gfn2_xtb" if importlib.util.find_spec("tblite") else "ase_emt")
    labels = dynamics(open_engine(SILVER, name), max(counts) + TEST, seed=1)
    x = labels.positions.repeat(-(-max(BATCHES) // len(labels)), 1, 1)
    torch.set_num_threads(1)
    result = {
        "title": "Learned potentials of Ag6",
        "machine": {**machine(), "e3nn": version("e3nn"), "torch_geometric": version("torch_geometric")},
        "labels_by": name,
        "parameters": {kind: sum(p.numel() for p in fresh(kind).network.parameters()) for kind in KINDS},
        "energies_with_forces_per_second": {kind: speed(kind, x, seconds) for kind in KINDS},
        "time_of_e3nn": shares("e3nn", x[:1024]),
        "parts_of_e3nn_over_forward": parts_of_e3nn(x[:256]),
        "time_of_moments": shares("moments", x[:1024]),
        "error_per_label": {kind: learning(kind, labels, counts, steps) for kind in KINDS},
    }
    print(json.dumps(result, indent=2))
    if not given.trial:
        given.output.parent.mkdir(exist_ok=True)
        given.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
