"""Hours of runs in one process: does its memory stay flat, do its file handles?

Runs the quickstart workflow, with a short training so that all stages come round often, and a small workflow on isomers
in turn, exports what came out, removes the folders, and writes down resident memory, open files and threads after each
round to `results/soak.json`.

    python benchmarks/soak.py [--minutes 125]
"""

import argparse
import gc
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from _machine import machine, one_thread

import particlegen

RECORD = Path(__file__).parent / "results" / "soak.json"
WORKFLOWS = Path(__file__).parents[1] / "workflows"
GLASS: dict[str, Any] = {"training.minutes": None, "training.steps": 150, "training.workers": 1}
ISOMERS: dict[str, Any] = {
    "chains.count": 4,
    "chains.warm_up": 48,
    "adaptation.rounds": 2,
    "adaptation.sweeps": 20,
    "production.samples": 400,
    "production.draws": 400,
    "production.quenches": 2,
    "vibrations": None,
}
WARM = 0.25
"""Share of the rounds, the first ones, in which caches and compiled code still fill up."""


def used() -> dict[str, float]:
    """Resident memory in MB, open files and threads of this process."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "resident_mb": int(status["VmRSS"].split()[0]) / 1024,
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": int(status["Threads"]),
    }


def one_round(seed: int, folder: Path) -> None:
    glass = particlegen.run(WORKFLOWS / "quickstart.yaml", out=folder / "glass", set={"seed": seed, **GLASS})
    glass.export(folder / "samples.xyz", to="extxyz")
    isomers = particlegen.run(WORKFLOWS / "lj6_isomers.yaml", out=folder / "isomers", set={"seed": seed, **ISOMERS})
    isomers.export(folder / "isomers.traj", to="traj")


def trend(rows: list[dict[str, float]]) -> dict[str, float]:
    """What each quantity gained from the first third of the rounds after the warm ones to the last third."""
    settled = rows[int(WARM * len(rows)) :]
    third = max(1, len(settled) // 3)

    def mean(part: list[dict[str, float]], name: str) -> float:
        return sum(row[name] for row in part) / len(part)

    return {name: mean(settled[-third:], name) - mean(settled[:third], name) for name in used()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and file handles over hours of runs.")
    parser.add_argument("--minutes", type=float, default=125.0)
    arguments = parser.parse_args()
    one_thread()
    begun, rows = time.monotonic(), []
    while time.monotonic() - begun < 60 * arguments.minutes:
        with tempfile.TemporaryDirectory() as folder:
            one_round(len(rows) + 1, Path(folder))
        rows.append(used() | {"hours": (time.monotonic() - begun) / 3600})
        summary = {"hours": rows[-1]["hours"], "rounds": len(rows), "gained_after_warm_up": trend(rows)}
        RECORD.write_text(json.dumps({"machine": machine(), **summary, "rows": rows}, indent=2) + "\n")
        print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
