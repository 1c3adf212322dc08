"""Planned against measured memory and disk of whole runs, each in a process of its own.

    python benchmarks/planned_memory.py

Writes `results/planned_memory.json`: of every run the peak of its resident memory and of its folder, and what
`particlegen validate` says before it. Each run makes one part large: the batch, the chunk, the frames, the chains.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from _machine import machine

from particlegen.workflow import plan

HERE = Path(__file__).parent
TINY, TINY_ISOMERS = (HERE.parent / "tests" / "workflows" / name for name in ("tiny.yaml", "tiny_isomers.yaml"))

LARGER = {"system.particles": 20, "network.width": 32, "network.rounds": 2, "training.steps": 1}
FEW = {"training.batch": 8, "generation.samples": 4, "estimates.held_out": 0.0}
NOISY = {"network.denoiser": True, "interpolant.noise": "sine_squared", "generation.likelihood": "path"}
LEARNED = {"system.isomers": ["octahedron"], "learned": {"first": 200, "rounds": 1, "per_round": 4}}
RUNS = {
    "glass, nothing large": (TINY, {}),
    "hollow, batch": (TINY, FEW | LARGER | {"training.batch": 384}),
    "hollow, batch, bfloat16": (TINY, FEW | LARGER | {"training.batch": 384, "training.precision": "bfloat16"}),
    "standard, batch": (TINY, FEW | LARGER | {"training.batch": 768, "network.kind": "standard"}),
    "hollow, chunk": (TINY, FEW | LARGER | {"generation.samples": 400, "generation.chunk": 400}),
    "hollow, chunk, hutchinson": (
        TINY,
        FEW | LARGER | {"generation.chunk": 200, "generation.samples": 200, "generation.likelihood": "hutchinson"},
    ),
    "hollow, chunk, path": (TINY, FEW | LARGER | NOISY | {"generation.chunk": 400, "generation.samples": 400}),
    "standard, chunk": (
        TINY,
        FEW | LARGER | {"network.kind": "standard", "generation.chunk": 200, "generation.samples": 200},
    ),
    "frames": (TINY, FEW | {"system.particles": 40, "reference.frames": 600_000, "reference.sweeps_between_frames": 1}),
    "isomers, nothing large": (TINY_ISOMERS, {}),
    "chains": (TINY_ISOMERS, {"chains.count": 1000, "production.samples": 8_000}),
    "labels": (TINY_ISOMERS, LEARNED),
    "trajectories": (TINY_ISOMERS, {"vibrations": {"states": 400, "periods": 200, "steps": 16}}),
}

RUN = """
import json, resource, sys
from particlegen import workflow
workflow.run(sys.argv[1], out=sys.argv[2], set=json.loads(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def measured(workflow: Path, changes: dict) -> dict:
    """Peaks of a run, and the plan."""
    planned = plan(workflow, set=changes)
    with tempfile.TemporaryDirectory() as folder:
        out, sizes, done = Path(folder) / "run", [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                sizes.append(_size(out))

        watcher = threading.Thread(target=watch)
        watcher.start()
        began = time.perf_counter()
        command = [sys.executable, "-c", RUN, str(workflow), str(out), json.dumps(changes)]
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=True)
        except subprocess.CalledProcessError as error:
            raise SystemExit(error.stderr) from error
        finally:
            done.set()
            watcher.join()
        sizes.append(_size(out))
        memory, disk = int(found.stdout.splitlines()[-1]), max(sizes)
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "memory": {"measured": memory, "planned": round(planned.memory_bytes)},
        "disk": {"measured": disk, "planned": round(planned.disk_bytes)},
        "memory_ratio": round(planned.memory_bytes / memory, 2),
        "disk_ratio": round(planned.disk_bytes / disk, 2),
    }


def _size(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue  # a segment that went in the meantime
    return total


def main() -> None:
    asked = sys.argv[1:] or RUNS
    found = {}
    for name in asked:
        found[name] = measured(*RUNS[name])
        print(name, found[name], flush=True)
    if asked is RUNS:
        content = {"machine": machine(), "runs": found}
        (HERE / "results" / "planned_memory.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
