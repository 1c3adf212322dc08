"""Trial displacements per second and core, all pairs against the cell list, from N = 10 to 100,000.

Writes `results/monte_carlo_speed.json`. CPU seconds of this process are counted, best of two, so a shared machine
disturbs the figures little (through its caches).

    python benchmarks/monte_carlo_speed.py
"""

import json
import math
import time
from pathlib import Path

import numpy as np
from _machine import machine

from particlegen.energy import SystemSettings, build_system
from particlegen.sampling.chains import Chain, ChainPlan, advance_chain
from particlegen.sampling.generator import seeded_state
from particlegen.sampling.kernels import COUNTERS
from particlegen.sampling.model import build_model
from particlegen.settings import InputError

RESULT = Path(__file__).parent / "results" / "monte_carlo_speed.json"
SIZES = (10, 20, 44, 100, 200, 300, 500, 1000, 2000, 5000, 10_000, 30_000, 100_000)


def near_lattice(n: int, lengths: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """Random sites of a square or cubic lattice: a start without overlaps."""
    side = math.ceil(n ** (1 / len(lengths)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * len(lengths), indexing="ij"), -1).reshape(-1, len(lengths))
    return grid[rng.permutation(len(grid))[:n]] / side * np.asarray(lengths)


def speed(card: str, particles: int, temperature: float, step: float, cells: bool) -> dict | None:
    """Trial moves per CPU second; None where a cell list does not fit."""
    built = build_system(SystemSettings(card=card, particles=particles, temperature=temperature))
    try:
        model = build_model(built.system, built.potential, cells)
    except InputError:
        return None
    plan = ChainPlan(model, np.array([built.state.beta]), 0, 0.0, 1, 10, 0, 0)
    one = np.zeros(1, np.int64)
    chain = Chain(
        0,
        near_lattice(particles, built.system.torus.lengths, np.random.default_rng(0))[None],
        np.array([step]),
        one,
        one,
        np.zeros((0, 2), np.int64),
        np.zeros(2, np.int64),
        np.zeros((1, len(COUNTERS)), np.int64),
    )
    stream = seeded_state(1)
    # At least 20 sweeps: the two full energies of a call are worth two sweeps, and count.
    trials = max(20 * particles, 600_000) if cells or particles <= 1000 else 20 * particles
    chain = advance_chain(plan, chain, 1, max(1, trials // particles // 3), stream).chain
    best, accepted = 0.0, 0.0
    for _ in range(2):
        before, began = chain.counters, time.process_time()
        chain = advance_chain(plan, chain, 1, max(1, trials // particles), stream).chain
        made = chain.counters - before
        best = max(best, float(made[0, 0]) / (time.process_time() - began))
        accepted = float(made[0, 1] / made[0, 0])
    return {"moves_per_cpu_second": best, "acceptance": accepted, "windows": model.window > 0}


def main() -> None:
    curves: dict[str, dict] = {}
    for card, temperature, step in (("ipl_binary_2d", 0.1, 0.15), ("ka_binary_3d", 1.0, 0.1)):
        curves[card] = {"temperature": temperature, "all_pairs": {}, "cells": {}}
        for n in SIZES:
            if card == "ka_binary_3d" and n not in (200, 500, 1000, 10_000, 100_000):
                continue
            for name, cells in (("all_pairs", False), ("cells", True)):
                if not cells and n > 5000:
                    continue
                measured = speed(card, n, temperature, step, cells)
                if measured is not None:
                    curves[card][name][str(n)] = measured
                    print(card, name, n, f"{measured['moves_per_cpu_second'] / 1e6:.2f} million/s", flush=True)
            RESULT.write_text(json.dumps({"machine": machine(), "curves": curves}, indent=2) + "\n")


if __name__ == "__main__":
    main()
