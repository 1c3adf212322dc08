"""Quality of the 10-particle glass runs: samples, weights, averages and absolute free energy against Monte Carlo.

Reads finished run folders and writes `results/glass_ipl_n10.json`: one entry per run, each quantity beside its
reference with the distance in standard errors. The references are the long runs that `reference_energies.py` and
`free_energy_reference.py` recorded; at a temperature that has none, the run's own Monte Carlo frames.

    particlegen run glass_ipl_n10_pretrained --out runs/cold
    python benchmarks/glass_ipl_n10.py cold=runs/cold [NAME=RUN ...]
"""

import argparse
import json
import math
from pathlib import Path

from _machine import machine

import particlegen

RESULTS = Path(__file__).parent / "results"


def distance(a: dict, b: dict) -> dict:
    """Two estimates beside each other: distance in standard errors of the difference, relative error of the first."""
    spread = math.hypot(a["stderr"], b["stderr"])
    return {
        "value": a,
        "reference": b,
        "standard_errors_apart": (a["value"] - b["value"]) / spread,
        "relative_stderr": a["stderr"] / abs(a["value"]),
    }


def entry(folder: Path) -> dict:
    run = particlegen.open_run(folder)
    results = run.results
    temperature = results["system"]["temperature"]
    runs = json.loads((RESULTS / "reference_energies.json").read_text())["runs"]
    long_run = runs.get(f"n10_T{temperature:.1f}_displacement", results["reference"])
    names = ("energy_per_particle", "heat_capacity_per_particle")
    out = {
        "temperature": temperature,
        "network": run.workflow.network.model_dump(mode="json"),
        "training": run.workflow.training.model_dump(mode="json"),
        "generation": run.workflow.generation.model_dump(mode="json"),
        "reference": {"r_hat": results["reference"]["r_hat"], "n_frames": results["reference"]["n_frames"]},
        "generated": results["generated"],
        "reweighted": {name: distance(results["reweighted"][name], long_run[name]) for name in names},
        "seconds": results["spent"]["seconds"],
        "converged": results["status"],
    }
    known = json.loads((RESULTS / "free_energy_reference.json").read_text())["free_energy.excess"]
    for case in known.values():
        if case["temperature"] == temperature and results["system"]["particles"] == 10 and "truth" not in case:
            out["free_energy.excess"] = distance(results["free_energy"]["excess"], case["excess"])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    target = RESULTS / "glass_ipl_n10.json"
    record = json.loads(target.read_text()) if target.is_file() else {"runs": {}}
    for argument in parser.parse_args().runs:
        name, folder = argument.split("=", 1)
        record["runs"][name] = entry(Path(folder))
        print(name, json.dumps(record["runs"][name], indent=1))
    record = {"machine": machine(), "runs": record["runs"]}
    target.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
