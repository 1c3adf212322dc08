"""What it costs to keep everything on disk: seconds of checkpoints, segments and journal, as a share of a run's time.

Writes `results/checkpoint_cost.json`: the quickstart glass with a minute of training, and the shipped workflow on LJ6
with a quarter of its production; blocks and chunks, after each of which everything is saved, are the shipped ones. Once
with the default interval of checkpoints, once with one wherever there may be one. Minutes on a quiet core.

    OMP_NUM_THREADS=1 python benchmarks/checkpoint_cost.py
"""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from _machine import machine, one_thread

import particlegen
from particlegen.io.store import RunStore
from particlegen.workflow import Resources
from particlegen.workflow.folder import Journal
from particlegen.workflow.job import Job

RESULT = Path(__file__).parent / "results" / "checkpoint_cost.json"
LIMIT = 0.02
KEPT = {"checkpoints": (Job, "save"), "segments": (RunStore, "append"), "journal": (Journal, "write")}
RUNS = {
    "quickstart": {"training.minutes": 1.0},
    "lj6_isomers": {
        "production.samples": 2000,
        "production.draws": 2000,
        "production.quenches": 50,
        "vibrations.states": 8,
    },
}


@contextmanager
def timed() -> Iterator[dict[str, list[float]]]:
    """Within the block, the seconds that each call of what keeps a run takes."""
    seconds: dict[str, list[float]] = defaultdict(list)

    def wrapped(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                seconds[part].append(time.perf_counter() - start)

        return call

    patches = [
        mock.patch.object(owner, name, wrapped(part, getattr(owner, name))) for part, (owner, name) in KEPT.items()
    ]
    for patch in patches:
        patch.start()
    try:
        yield seconds
    finally:
        for patch in patches:
            patch.stop()


def measured(name: str, changes: dict[str, Any], interval: float, folder: Path) -> dict[str, Any]:
    """Seconds of a run, and of what keeps it."""
    with timed() as seconds:
        start = time.perf_counter()
        particlegen.run(name, out=folder, set=changes, resources=Resources(threads=1, checkpoint_seconds=interval))
        total = time.perf_counter() - start
    kept = {part: sum(each) for part, each in seconds.items()}
    return {
        "workflow": name,
        "checkpoint_seconds": interval,
        "seconds": total,
        "share": sum(kept.values()) / total,
        **{f"seconds_of_{part}": value for part, value in kept.items()},
        **{f"number_of_{part}": len(each) for part, each in seconds.items()},
    }


def main() -> None:
    one_thread()
    rows = []
    default = Resources().checkpoint_seconds
    for name, changes in RUNS.items():
        for interval in (default, 0.0):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measured(name, changes, interval, Path(folder) / "run"))
            print(f"{name}, every {interval:g} s: {rows[-1]['share']:.3%} of {rows[-1]['seconds']:.0f} s", flush=True)
    worst = max(row["share"] for row in rows if row["checkpoint_seconds"] == default)
    result = {
        "machine": machine(),
        "changed": RUNS,
        "limit": LIMIT,
        "worst_with_default_interval": worst,
        "within_limit": worst < LIMIT,
        "runs": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
