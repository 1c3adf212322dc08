"""This package beside the public eRSI code (h2o64/learndiffeq): same machine, data, batch and CPU time for training.

Pass the folder of your own checkout of it; nothing of it is contained here. Without one the script says so and stops.

    python benchmarks/side_by_side.py --peer DIR                   # 10 CPU minutes of training each, about 25 in all
    python benchmarks/side_by_side.py --peer DIR --only ours       # measure one part anew, keep the others' results

System: IPL, N = 10, T = 0.1, frames of `particlegen.sampling`. Each part runs in a process of its own, on one core and
one thread, and its seconds are CPU seconds (compilers included), so that a busy machine changes little:

    peer           its training script's defaults: EGNN 32 x 3, Adam 1e-3, clip 5, assignment per species, float32;
                   judged at its best validation loss
    ours           the network of the workflow `quickstart`, about as large as the peer's; coupling and training of
                   `glass_ipl_n10` as shipped (torch.compile, bfloat16)
    ours_eager     the same without torch.compile and in float32, as the peer runs
"""

import argparse
import hashlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _machine import machine
from side_by_side_parts import ESS_BATCH, PEER_REPOSITORY, VALIDATION_SHARE, reference, run_part, system

RESULTS = Path(__file__).parent / "results" / "side_by_side.json"
PARTS = ("peer", "ours", "ours_eager")


def ratios(results: dict[str, Any]) -> dict[str, Any]:
    """How many times better this package is, per quantity; above 1 is ahead."""
    found: dict[str, Any] = {}
    theirs = results["parts"].get("peer")
    for name, part in results["parts"].items():
        if theirs is None or name == "peer":
            continue
        found[name] = {
            "training_steps_per_second": part["training"]["steps_per_second"] / theirs["training"]["steps_per_second"],
            "samples_with_likelihood_per_second": part["generation"]["samples_with_likelihood_per_second"]
            / theirs["generation"]["samples_with_likelihood_per_second"],
        }
        q, p = part["quality"], theirs["quality"]
        least = max(q["discard_fraction"], 1 / q["samples"])
        found[name]["discard_fraction"] = p["discard_fraction"] / least
        found[name]["ess_per_sample"] = q["ess_per_sample"] / p["ess_per_sample"]
        equal_n = f"ess_per_sample_in_batches_of_{ESS_BATCH}"
        if q[equal_n] and p[equal_n]:
            found[name][equal_n] = q[equal_n] / p[equal_n]
        per_second = "effective_samples_per_second"
        found[name][per_second] = found[name]["ess_per_sample"] * found[name]["samples_with_likelihood_per_second"]
    return found


def run_lane(
    waiting: queue.SimpleQueue[str], core: int, options: argparse.Namespace, done: Callable[[str, dict], None]
) -> None:
    """Take parts until none is left and run them on one core, each in a fresh process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    while True:
        try:
            part = waiting.get_nowait()
        except queue.Empty:
            return
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder) / "answer.json"
            command = [sys.executable, __file__, *sys.argv[1:], "--part", part, "--answer", str(answer)]
            command = [*command, "--core", str(core)]
            started = time.monotonic()
            code = subprocess.run(command, env=environment, check=False).returncode
            if code or not answer.is_file():
                print(f"{part}: failed (exit code {code}); its old result, if any, stays", file=sys.stderr)
                continue
            done(part, json.loads(answer.read_text()) | {"wall_seconds": round(time.monotonic() - started, 1)})


def missing(folder: Path | None) -> str | None:
    """Why the peer cannot be run; None when it can."""
    if folder is None:
        return f"--peer is not given: clone {PEER_REPOSITORY} yourself and pass its folder"
    if not (folder / "learndiffeq" / "__init__.py").is_file():
        return f"--peer {folder}: no folder 'learndiffeq' in it; pass the top of a checkout of {PEER_REPOSITORY}"
    absent = [name for name in ("pytorch_lightning", "torchdiffeq", "ot", "sklearn") if not _importable(name)]
    if absent:
        return f"the peer needs {', '.join(absent)}; install its requirements.txt beside this package"
    return None


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help=f"your checkout of {PEER_REPOSITORY}")
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU minutes of training for each side")
    parser.add_argument("--frames", type=int, default=40_000, help="reference frames; a fifth is for validation")
    parser.add_argument("--samples", type=int, default=2000, help="samples of ours, and at most of the peer's")
    parser.add_argument("--peer-sample-minutes", type=float, default=10.0, help="then stop, but not below 500 samples")
    parser.add_argument(
        "--dopri5", type=int, default=8, help="samples that time the peer's own solver setting; 0: none"
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part, may be repeated")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    reason = missing(options.peer)
    if reason:
        print(f"side by side skipped: {reason}", file=sys.stderr)
        return
    if options.part:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {options.core})
        options.answer.write_text(json.dumps(run_part(options.part, options)))
        return
    wanted = options.only or list(PARTS)
    results = json.loads(options.out.read_text()) if options.out.is_file() else {"parts": {}}
    lock = threading.Lock()

    def done(part: str, answer: dict[str, Any]) -> None:
        with lock:
            results["parts"][part] = answer
            results["ratios_above_1_ours_is_ahead"] = ratios(results)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=1) + "\n")
            print(f"{part}: {json.dumps({k: answer.get(k) for k in ('generation', 'quality')})}", flush=True)

    built = system()
    positions, energies = reference(built, options.frames)
    results |= {
        "machine": machine(),
        "training_cpu_minutes": options.minutes,
        "data": {
            "system": "ipl_binary_2d, N = 10, T = 0.1",
            "frames": len(positions),
            "validation": f"{VALIDATION_SHARE:.0%} of them, each side's own random choice",
            "sha256": hashlib.sha256(positions.tobytes()).hexdigest()[:16],
            "energy_per_particle": float(energies.mean() / 10),
            "largest_energy": float(energies.max()),
        },
    }
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for part in wanted:
        waiting.put(part)
    threads = [threading.Thread(target=run_lane, args=(waiting, core, options, done)) for core in cores[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(results.get("ratios_above_1_ours_is_ahead", {}), indent=1))


if __name__ == "__main__":
    main()
