"""Large numbers: a million configurations into a run and out of it again, a hundred thousand labels in a store.

Writes `results/load.json`: peak resident memory and seconds of filling a small run up to a million configurations,
segment by segment, of moving them into `data.h5`, and of each export, every one in a process of its own; and times of
single insertions and look-ups in a label store as it grows.

    OMP_NUM_THREADS=1 python benchmarks/load.py [configurations labels]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _machine import machine

import particlegen
from particlegen.energy import Label, LabelStore
from particlegen.geometry import FreeSpace
from particlegen.io.store import RunStore
from particlegen.system import ParticleSystem

RECORD = Path(__file__).parent / "results" / "load.json"
WORKFLOW = """
version: 1
kind: glass
seed: 1
system: {card: ipl_binary_2d, particles: 10, temperature: 1.0}
reference: {sampler: displacement, chains: 4, sweeps_between_frames: 5, frames: 2000}
network: {kind: hollow, width: 8, rounds: 1, harmonics: 2}
interpolant: {path: geodesic, noise: none, coupling: [species]}
training: {steps: 20, batch: 32}
generation: {samples: 1000, solver: rk4, steps: 2, likelihood: exact, chunk: 1000}
stop: {r_hat: null, pareto_k: null}
"""
CONFIGURATIONS = 1_000_000
EXPORTS = {"extxyz": "a.xyz", "traj": "a.traj", "mdtraj-h5": "a.h5", "dcd": "b.dcd", "xtc": "c.xtc"}
LABELS = 100_000
SAMPLED = 1000
"""Single insertions and look-ups that are timed at each size of the store."""


def command(*arguments: str) -> dict[str, float]:
    """Peak resident memory in MB and seconds of Python with these arguments; exit code 0 and 4 are answers."""
    begun = time.monotonic()
    pid = os.posix_spawn(sys.executable, [sys.executable, *arguments], dict(os.environ))
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 4):
        raise SystemExit(f"{' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    row = {"peak_mb": round(usage.ru_maxrss / 1024, 1), "seconds": round(time.monotonic() - begun, 1)}
    print(" ".join(arguments), row, flush=True)
    return row


def fill(run: Path) -> None:
    """Add segments like the first one until there are as many configurations as wanted."""
    store, generator = RunStore(run), np.random.default_rng(1)
    first = {name: store.read("generated", name) for name in store.names("generated")}
    size = len(first["energy"])
    for chunk in range(1, CONFIGURATIONS // size):
        order = generator.permutation(size)
        store.append("generated", chunk, {name: rows[order] for name, rows in first.items()})


def consolidate(run: Path) -> None:
    RunStore(run).consolidate("generated", particlegen.open_run(run).system)


def configurations(folder: Path) -> dict[str, Any]:
    """A million configurations, segment by segment, moved into one file, and exported in every format."""
    workflow, run = folder / "load.yaml", str(folder / "run")
    workflow.write_text(WORKFLOW)
    command("-m", "particlegen.cli", "run", str(workflow), "--out", run, "--quiet")
    found = {step: command(__file__, step, run) for step in ("fill", "consolidate")}
    for to, name in EXPORTS.items():
        file = folder / name
        found[f"export {to}"] = command("-m", "particlegen.cli", "export", run, "--to", to, "-o", str(file))
        found[f"export {to}"]["file_mb"] = round(file.stat().st_size / 2**20, 1)
        file.unlink()
    return found


def label(store: LabelStore, settings: str, number: int) -> Label:
    generator = np.random.default_rng(number)
    return Label(
        settings_hash=settings,
        system=CLUSTER,
        positions=generator.normal(size=(6, 3)),
        energy=float(number),
        forces=generator.normal(size=(6, 3)),
        virial=None,
        reason=None,
        iterations=10,
        seconds=1.0,
        provider="load",
        time=float(number),
    )


CLUSTER = ParticleSystem("ag6", FreeSpace(3), (0,) * 6, ("Ag",), units="metal")


def milliseconds(times: list[float]) -> dict[str, float]:
    return {name: 1000 * float(np.quantile(times, q)) for name, q in (("median", 0.5), ("99 %", 0.99), ("most", 1.0))}


def labels(folder: Path) -> dict[str, Any]:
    """Insertion and look-up of one label at a time, each on the disk before the next, in a store that grows."""
    store = LabelStore(folder / "labels.db")
    settings = store.add_settings({"engine": "load"})
    found, held = {}, 0
    for size in (SAMPLED, LABELS // 10, LABELS):
        while held < size - SAMPLED:
            many = min(5000, size - SAMPLED - held)
            store.put([label(store, settings, number) for number in range(held, held + many)])
            held += many
        inserted, looked_up = [], []
        for number in range(held, held + SAMPLED):
            one = label(store, settings, number)
            begun = time.perf_counter()
            store.put([one])
            inserted.append(time.perf_counter() - begun)
        held += SAMPLED
        for number in np.random.default_rng(0).integers(held, size=SAMPLED).tolist():
            geometry = label(store, settings, number).geometry_hash
            begun = time.perf_counter()
            answer = store.get(settings, [geometry])
            looked_up.append(time.perf_counter() - begun)
            if answer[geometry].energy != number:
                raise SystemExit("the store answered something else")
        found[f"{held} labels"] = {"insert_ms": milliseconds(inserted), "look_up_ms": milliseconds(looked_up)}
        print(held, found[f"{held} labels"], flush=True)
    begun = time.perf_counter()
    LabelStore(folder / "labels.db")
    found["open_s"] = time.perf_counter() - begun
    return found


PARTS = {"configurations": configurations, "labels": labels}
STEPS = {"fill": fill, "consolidate": consolidate}


def main() -> None:
    parser = argparse.ArgumentParser(description="Large numbers of configurations and labels.")
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}")
    arguments = parser.parse_args()
    if arguments.parts[0] in STEPS:
        STEPS[arguments.parts[0]](Path(arguments.parts[1]))
        return
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for part in arguments.parts:
        with tempfile.TemporaryDirectory() as folder:
            record[part] = PARTS[part](Path(folder))
        RECORD.write_text(json.dumps(record | {"machine": machine()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
