"""Cost of velocity and exact divergence together, in velocity evaluations of the standard network, against N.

Writes `results/likelihood_cost.json`. Both networks have the default width and rounds; the full Jacobian is that of the
standard network, one forward-mode product per coordinate. Nothing is extrapolated. Times are the least of several, in
CPU seconds of one thread (the wall clock stands beside them). Minutes on one core.

    python benchmarks/likelihood_cost.py
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _machine import machine, one_thread

from particlegen.energy import SystemSettings, build_system
from particlegen.networks import NetworkSettings, build_network

RESULT = Path(__file__).parent / "results" / "likelihood_cost.json"
BATCHES = {10: 256, 20: 64, 44: 16, 100: 4}
LIMIT = 6.0


def least(run: Callable[[], object], repeats: int) -> dict[str, float]:
    """Smallest CPU and wall seconds of `repeats` calls after one that warms up (none where a call is long)."""
    if repeats > 1:
        run()
    cpu, wall = [], []
    for _ in range(repeats):
        start = time.process_time(), time.perf_counter()
        run()
        cpu.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    return {"cpu": min(cpu), "wall": min(wall)}


def measured(n: int, batch: int, repeats: int) -> dict:
    """Seconds and ratios at N = `n`."""
    system = build_system(SystemSettings(card="ipl_binary_2d", particles=n)).system
    generator = torch.Generator().manual_seed(n)
    x = system.torus.uniform((batch, n), generator, torch.float32)
    t = torch.rand(batch, generator=generator)
    hollow, standard = (build_network(NetworkSettings(kind=kind), system) for kind in ("hollow", "standard"))
    with torch.no_grad():
        unit = least(lambda: standard(t, x), repeats)
        seconds = {
            "hollow_velocity": least(lambda: hollow(t, x), repeats),
            "hollow_with_divergence": least(lambda: hollow.with_divergence(t, x), repeats),
            "full_jacobian": least(lambda: standard.with_divergence(t, x), 1),
        }
    ratios = {name: {clock: value[clock] / unit[clock] for clock in unit} for name, value in seconds.items()}
    return {"particles": n, "batch": batch, "seconds": {"standard_velocity": unit} | seconds, "in_velocities": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    one_thread()
    sizes = []
    for n, batch in BATCHES.items():
        sizes.append(measured(n, batch, repeats))
        cost = {name: value["cpu"] for name, value in sizes[-1]["in_velocities"].items()}
        print(f"N = {n}: " + ", ".join(f"{name} {value:.2f}" for name, value in cost.items()), flush=True)
        worst = max(row["in_velocities"]["hollow_with_divergence"]["cpu"] for row in sizes)
        result = {
            "machine": machine(),
            "network": NetworkSettings().model_dump(exclude={"kind"}),
            "hollow_limit": LIMIT,
            "hollow_worst": worst,
            "within_limit": worst <= LIMIT,
            "sizes": sizes,
        }
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
