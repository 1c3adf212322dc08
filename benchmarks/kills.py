"""Runs killed at random moments, gone on with, and compared with runs that were left alone.

Writes `results/kills.json`: the small glass, and the shipped workflow on LJ6 made small, of `tests/faults/cases.py`.
Sessions are killed by SIGKILL at random moments of every stage (some are the command line), or before an operation on
files, again and again until the run is through; then everything but what was spent has to be the same to the byte.
Ten minutes on a quiet core.

    PYTHONPATH=tests OMP_NUM_THREADS=1 python benchmarks/kills.py
"""

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from _machine import machine
from faults.cases import GLASS, LJ6, Case
from faults.comparison import compare
from faults.kills import Kill, finished, killed_by_operation, killed_by_stage, stages

RESULT = Path(__file__).parent / "results" / "kills.json"
CASES = {"glass": GLASS, "lj6_isomers": LJ6}
LATEST = 60
"""Operation on files before which a session is killed at the latest."""


def killed(case: Case, folder: Path, seconds: dict[str, float], number: int, most: int) -> list[Kill]:
    """Kills of one run: of two runs in three at random moments, of the third before operations on files."""
    rng = random.Random(number)
    if number % 3 == 2:
        return killed_by_operation(case, folder, (rng.randint(1, LATEST) for _ in range(min(most, 20))))
    return killed_by_stage(case, folder, seconds, rng, most, each=5, by_command=0.04)


def campaign(case: Case, kills: int, folder: Path) -> Iterator[dict]:
    """As many kills as are asked for, over as many runs as that takes; each run is gone on with and compared.

    Yields what was found so far, after every run.
    """
    other = finished(case, folder / "whole" / "run")
    found: list[Kill] = []
    runs, same, differences = 0, 0, []
    while len(found) < kills:
        place = folder / f"{runs}" / "run"
        place.parent.mkdir()
        mine = killed(case.often(), place, stages(other), runs, kills - len(found))
        finished(case, place)
        try:
            compare(place, other)
            same += len(mine)
        except AssertionError as error:
            differences.append(f"run {runs}: {str(error)[:200]}")
        found += mine
        runs += 1
        yield {
            "kills": len(found),
            "gone_on_to_the_same_bytes": same,
            "runs": runs,
            "differences": differences,
            "by_stage": dict(Counter(kill.stage for kill in found)),
            "by_means": dict(Counter(kill.how.split(" ")[0] for kill in found)),
            "of_a_run_that_was_killed_before": sum(kill.session > 1 for kill in found),
            "most_of_one_run": max((kill.session for kill in found), default=0),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=52, help="of each workflow")
    kills = parser.parse_args().kills
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            (Path(folder) / name / "whole").mkdir(parents=True)
            for so_far in campaign(case, kills, Path(folder) / name):
                found[name] = so_far
                sums = {
                    key: sum(each[key] for each in found.values()) for key in ("kills", "gone_on_to_the_same_bytes")
                }
                print(f"{name}: {sums}", flush=True)
                RESULT.write_text(
                    json.dumps({"machine": machine(), **sums, **found}, indent=2) + "\n", encoding="utf-8"
                )


if __name__ == "__main__":
    main()
