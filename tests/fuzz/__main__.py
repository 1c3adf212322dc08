"""`python -m fuzz` in the folder `tests`: many executions of every target, and a record of what came of them."""

import argparse
import importlib
import json
import shutil
import sys
from pathlib import Path

from fuzz.run import add, run_target_apart
from fuzz.targets import TARGETS, scratch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
machine = importlib.import_module("_machine").machine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000, help="of all targets together")
    parser.add_argument("--rounds", type=int, default=20, help="in which all targets have their turn")
    parser.add_argument("--targets", nargs="*", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--limit", type=float, default=5.0, help="processor seconds of one execution")
    parser.add_argument("--out", type=Path, help="JSON record; targets that are not run keep their lines")
    options = parser.parse_args()
    found: dict[str, dict] = {}
    if options.out and options.out.is_file():
        known = json.loads(options.out.read_text(encoding="utf-8"))["targets"]
        found = {name: held for name, held in known.items() if name not in options.targets}
    total = sum(TARGETS[name].share for name in options.targets)
    try:
        for part in range(1, options.rounds + 1):
            for name in options.targets:
                held = found.setdefault(name, {"executions": 0, "seconds": 0.0, "findings": {}})
                first, upto = held["executions"], round(TARGETS[name].share / total * options.executions)
                new = run_target_apart(name, max(1, upto * part // options.rounds), options.limit, first)
                held["executions"] += new["executions"]
                held["seconds"] = round(held["seconds"] + new["seconds"], 2)
                for entry in new["findings"].values():
                    print(entry.pop("traceback", ""), file=sys.stderr, flush=True)
                add(held["findings"], new["findings"])
                if options.out:
                    options.out.write_text(json.dumps(record(found, options.limit), indent=1) + "\n", encoding="utf-8")
            known = {name: held["findings"] for name, held in found.items() if held["findings"]}
            print(
                f"{part}/{options.rounds}: {sum(held['executions'] for held in found.values()):,} {known}", flush=True
            )
    finally:
        shutil.rmtree(scratch(), ignore_errors=True)
    return 1 if record(found, options.limit)["findings"] else 0


def record(found: dict[str, dict], limit: float) -> dict:
    return {
        "title": "Mutated files",
        "description": "Executions of every parser on mutated files; findings came beside InputError and RunError: see "
        "the page on security.",
        "executions": sum(entry["executions"] for entry in found.values()),
        "findings": sum(len(entry["findings"]) for entry in found.values()),
        "seconds_allowed": limit,
        "targets": found,
        "machine": machine(),
    }


if __name__ == "__main__":
    sys.exit(main())
