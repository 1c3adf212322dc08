"""Whole workflows on clusters whose answer is known: LJ6, LJ7, and Ag6 with effective-medium theory.

Writes `results/isomer_proof.json`, case by case; about an hour on one core. The truths are those of `isomer_truth.json`
(tempering and importance sampling, which share no code with flows, chains and estimators of a run).

    python benchmarks/isomer_proof.py [lj6_T0.05 ...] [--seeds 1 2 3]

Each case is the shipped workflow with the overrides below. A difference is judged by the standard error of its BAR
estimate and that of the truth; the basin part of the budget does not enter, since both sides draw the isomers alike.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from _machine import machine, one_thread

import particlegen

FOLDER = Path(__file__).parent / "results"
WORKFLOWS = Path(__file__).parents[1] / "workflows"
LJ7: dict[str, Any] = {
    "system.card": "lj7",
    "system.isomers": None,
    "adaptation.rounds": 6,
    "adaptation.sweeps": 100,
    "production.samples": 16_000,
    "production.quenches": 50,
    "stop.half_width": None,
    "vibrations": None,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lj6_T0.05": ("lj6_isomers", {"system.temperature": 0.05}),
    "lj6_T0.1": ("lj6_isomers", {"system.temperature": 0.1}),
    "lj6_T0.15": ("lj6_isomers", {"system.temperature": 0.15}),
    "lj7_T0.1": ("lj6_isomers", LJ7 | {"system.temperature": 0.1}),
    "ag6_emt_T100": ("ag6_emt_isomers", {"system.temperature": 100.0}),
    "ag6_emt_T300": ("ag6_emt_isomers", {"system.temperature": 300.0}),
    "ag6_emt_T500": ("ag6_emt_isomers", {"system.temperature": 500.0}),
}
LARGEST_ERROR = {"lj6": 0.003, "lj7": 0.01, "ag6_emt": 0.002}
"""Of a difference: standard errors of LJ, distance from the truth in eV of Ag6."""


def case(key: str, seed: int, truths: dict[str, Any]) -> dict[str, Any]:
    """One workflow and how far it is from the truth."""
    name, overrides = CASES[key]
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = particlegen.run(WORKFLOWS / f"{name}.yaml", out=Path(folder) / "run", set={"seed": seed} | overrides)
        results = run.results
    row: dict[str, Any] = {
        "workflow": name,
        "overrides": overrides,
        "seed": seed,
        "seconds": round(time.perf_counter() - begun, 1),
        "reasons": results["status"]["reasons"],
        "isomers": {
            isomer: {
                what: entry[what]["value"]
                for what in ("acceptance", "r_hat", "ess_per_sample", "pareto_k", "overlap", "left_basin")
            }
            for isomer, entry in results["isomers"].items()
        },
        "differences": {},
    }
    card = key.split("_T")[0]
    for pair, entry in results["delta_free_energy"].items():
        truth = truths[key][pair]["delta_free_energy"]
        apart, stderr = entry["value"] - truth["value"], math.hypot(entry["stderr"], truth["stderr"])
        small = abs(apart) if card == "ag6_emt" else entry["stderr"]
        row["differences"][pair] = {
            "value": entry["value"],
            "stderr": entry["stderr"],
            "unit": entry["unit"],
            "truth": {"value": truth["value"], "stderr": truth["stderr"]},
            "standard_errors": apart / stderr,
            "small_enough": small <= LARGEST_ERROR[card],
            "basin": entry["budget"]["basin"]["value"],
            "half_width": entry["budget"]["half_width"]["value"],
            "harmonic": entry["harmonic"]["value"],
        } | {way: [entry[way]["value"], entry[way]["stderr"]] for way in ("flow", "mixture")}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="Workflows on clusters whose answer is known.")
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    arguments = parser.parse_args()
    one_thread()
    truths = json.loads((FOLDER / "isomer_truth.json").read_text())["cases"]
    path = FOLDER / "isomer_proof.json"
    known = json.loads(path.read_text())["runs"] if path.exists() else {}
    for seed in arguments.seeds:
        for key in arguments.cases:
            known[f"{key}_seed{seed}"] = row = case(key, seed, truths)
            print(key, seed, json.dumps(row), flush=True)
            path.write_text(json.dumps({"machine": machine(), "runs": known}, indent=2) + "\n")


if __name__ == "__main__":
    main()
