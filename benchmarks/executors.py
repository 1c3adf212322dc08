"""What executors cost and how they scale: overhead per task, labels on more workers, and 1,000 workers in simulation.

Writes `results/executors.json`. Overhead is that of tasks that do nothing; strong scaling is a fixed number of labels
on the workers that this machine has. The simulation replays recorded label times (`--times FILE`, a JSON list of
seconds, or an object with one under `seconds`; without it they are measured first, on Ag6 with GFN2-xTB, or EMT where
tblite is missing) on up to thousands of workers, with the overheads that were measured.

    python benchmarks/executors.py [--times FILE] [--workers 1 2 4]
"""

import argparse
import heapq
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from _machine import machine, one_thread

from particlegen.energy import ASEEnergy, Distributed, EnergyProvider, Recipe, xtb_energy
from particlegen.geometry import FreeSpace
from particlegen.streams import numpy_stream, torch_stream
from particlegen.system import ParticleSystem
from particlegen.tasks import Done, map_tasks
from particlegen.workflow import open_executor
from particlegen.workflow.resources import InlineSettings, ParslSettings, ProcessSettings

RESULT = Path(__file__).parent / "results" / "executors.json"
TARGETS = {"process": 0.020, "parsl": 0.100}
"""Seconds per task that are aimed at."""

SIMULATED = (1, 10, 50, 100, 200, 500, 1000, 2000, 5000)
CHUNKS = (1, 10, 100)
EFFICIENT = 0.8
SEED = 5


def settings_of(kind: str, workers: int) -> InlineSettings | ProcessSettings | ParslSettings:
    if kind == "inline":
        return InlineSettings()
    return (ProcessSettings if kind == "process" else ParslSettings)(kind=kind, workers=workers)


def ready(executor: Executor, workers: int) -> None:
    """Wait until every worker has started and imported what it needs."""
    found = map_tasks(executor, time.sleep, [0.5] * (4 * workers))
    assert all(isinstance(outcome, Done) for outcome in found), found


def overhead(kind: str, workers: int, tasks: int = 500) -> dict:
    """Seconds per task that does nothing: submitted all at once, and one after the other (the round trip)."""
    with open_executor(settings_of(kind, workers)) as executor:
        ready(executor, workers)
        start = time.perf_counter()
        map_tasks(executor, abs, range(tasks))
        together = (time.perf_counter() - start) / tasks
        trips = []
        for _ in range(50):
            start = time.perf_counter()
            map_tasks(executor, abs, [1])
            trips.append(time.perf_counter() - start)
    return {
        "workers": workers,
        "seconds_per_task": together,
        "round_trip_median": float(np.median(trips)),
        "target": TARGETS[kind],
        "met": together < TARGETS[kind],
    }


def silver() -> ParticleSystem:
    return ParticleSystem("Ag6", FreeSpace(3), (0,) * 6, ("Ag",), units="metal")


def configurations(count: int) -> torch.Tensor:
    """Octahedra of silver with thermal noise, in Å."""
    corners = 2.0 * torch.cat([torch.eye(3), -torch.eye(3)]).double()
    return corners + 0.1 * torch.randn(count, 6, 3, generator=torch_stream(SEED, "labels"), dtype=torch.float64)


def engine() -> Recipe:
    return Recipe.of(xtb_energy, silver()) if find_spec("tblite") else Recipe.of(ASEEnergy, silver(), "emt")


def measured_times(provider: EnergyProvider, count: int) -> list[float]:
    seconds = []
    for x in configurations(count + 1):
        start = time.perf_counter()
        provider.evaluate(x[None], ("energy", "forces"))
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def scaling(recipe: Recipe, kinds: Sequence[str], workers: Sequence[int], labels: int) -> list[dict]:
    """The same labels on more workers; speed-up over this process alone."""
    x, rows = configurations(labels), []
    for kind, count in [("inline", 1), *((kind, count) for kind in kinds for count in workers)]:
        with open_executor(settings_of(kind, count)) as executor:
            shared = Distributed(recipe, executor, chunk=4)
            if kind != "inline":
                ready(executor, count)
            shared.evaluate(x[: 16 * count], ("energy", "forces"))  # workers make the engine
            start = time.perf_counter()
            found = shared.evaluate(x, ("energy", "forces"))
            seconds = time.perf_counter() - start
        assert bool(found.ok.all()), found.reasons
        rows.append({"executor": kind, "workers": count, "labels": labels, "seconds": seconds})
        rows[-1]["speed_up"] = rows[0]["seconds"] / seconds
        print(rows[-1], flush=True)
    return rows


def simulate(tasks: np.ndarray, slow: np.ndarray, per_task: float, trip: float) -> dict[str, float]:
    """One batch on `len(slow)` workers, from the first submission until the last answer is in.

    Half of `per_task` is spent by one master on submitting, in order, and half on taking answers in. A worker waits one
    round trip between two tasks, and takes `slow` times as long for each.
    """
    free = [(0.0, worker) for worker in range(len(slow))]
    ends = np.empty(len(tasks))
    for number, seconds in enumerate(tasks):
        moment, worker = heapq.heappop(free)
        ends[number] = max(moment, (number + 1) * per_task / 2) + trip + seconds * slow[worker]
        heapq.heappush(free, (ends[number], worker))
    clock = len(tasks) * per_task / 2
    for end in np.sort(ends):
        clock = max(clock, end) + per_task / 2
    last = np.array([moment for moment, _ in free])
    return {
        "efficiency": float(tasks.sum() / (len(slow) * clock)),
        "master_busy": float(len(tasks) * per_task / clock),
        "waiting_for_the_last": float((last.max() - last.mean()) / clock),
    }


def simulation(seconds: Sequence[float], cost: dict, labels: int) -> list[dict]:
    """Strong scaling of a batch of labels drawn from the recorded times, and where its efficiency falls below 80 %."""
    drawn = numpy_stream(SEED, "simulation").choice(np.asarray(seconds), labels)
    rows = []
    for chunk in CHUNKS:
        tasks = drawn.reshape(-1, chunk).sum(1)
        for name, share in (("like", 0.0), ("one worker in a hundred at half speed", 0.01)):
            found = {}
            for workers in SIMULATED:
                slow = np.where(np.arange(workers) % 100 == 0, 2.0, 1.0) if share else np.ones(workers)
                found[workers] = simulate(tasks, slow, cost["seconds_per_task"], cost["round_trip_median"])
            good = [workers for workers in SIMULATED if found[workers]["efficiency"] >= EFFICIENT]
            rows.append(
                {
                    "labels_per_task": chunk,
                    "seconds_per_task": float(tasks.mean()),
                    "tasks": len(tasks),
                    "workers_are": name,
                    "most_workers_at_80_percent": max(good, default=0),
                    "master_is_full_at": float(tasks.mean() / cost["seconds_per_task"]),
                    **{f"at_{workers}": found[workers] for workers in (100, 1000)},
                    "efficiency": {str(workers): found[workers]["efficiency"] for workers in SIMULATED},
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=Path, help="recorded seconds per label, JSON")
    parser.add_argument("--workers", type=int, nargs="+", help="default: powers of two up to the cores")
    parser.add_argument("--labels", type=int, default=96, help="of the strong scaling, and of the measured times")
    parser.add_argument("--simulated-labels", type=int, default=100_000)
    options = parser.parse_args()
    one_thread()
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    workers = options.workers or [2**k for k in range(12) if 2**k <= cores]
    kinds = ["process", "parsl"] if find_spec("parsl") else ["process"]
    result: dict = {"title": "Executors"}
    if load > 0.5:
        result["note"] = (
            f"Other jobs were running: load average {load:.1f} at the start, {cores} of {os.cpu_count()} cores "
            "allowed. Wall-clock times are upper bounds, and speed-ups say little."
        )
    recipe = engine()
    if options.times:
        recorded = json.loads(options.times.read_text(encoding="utf-8"))
        seconds = recorded["seconds"] if isinstance(recorded, dict) else recorded
        source = options.times.name
    else:
        provider = recipe()
        seconds, source = measured_times(provider, options.labels), f"{provider.name}, Ag6, energy and forces, here"
    quantiles = dict(zip(("median", "p95", "largest"), np.quantile(seconds, [0.5, 0.95, 1.0]).tolist(), strict=True))
    result["label_times"] = {"source": source, "labels": len(seconds), "mean": float(np.mean(seconds)), **quantiles}
    print(result["label_times"], flush=True)
    result["overhead"] = {kind: overhead(kind, max(workers)) for kind in kinds}
    print(result["overhead"], flush=True)
    result["strong_scaling"] = scaling(recipe, kinds, workers, options.labels)
    cost = result["overhead"][kinds[-1]]
    result["simulation"] = {
        "overheads_of": kinds[-1],
        "labels": options.simulated_labels,
        "cases": simulation(seconds, cost, options.simulated_labels),
    }
    for case in result["simulation"]["cases"]:
        print({key: value for key, value in case.items() if not isinstance(value, dict)}, flush=True)
    result["machine"] = machine() | {"load_average_at_start": load, "cores_allowed": cores}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
