"""Absolute free energies of the IPL mixture and of its A-B pair, by two independent routes from the ideal gas.

Writes `results/free_energy_reference.json`. Every value is the mean over independent repeats, with the standard error
taken from their spread, so that it rests on no assumption about correlations. Minutes on one core.

    python benchmarks/free_energy_reference.py [--repeats 16]
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from _machine import machine

from particlegen.energy import SystemSettings, build_system
from particlegen.estimate import Estimate
from particlegen.geometry import FlatTorus
from particlegen.sampling import ReferenceSettings, free_energy_by_integration, free_energy_by_tempering
from particlegen.system import ParticleSystem, ThermodynamicState

RESULT = Path(__file__).parent / "results" / "free_energy_reference.json"
PAIR_TRUTH = -math.log(1.934330 / 9.0)  # q by quadrature, L = 3, T = 0.1


def repeated(estimates: list[Estimate]) -> dict:
    values = np.array([e.value for e in estimates])
    spread = float(values.std(ddof=1) / math.sqrt(len(values)))
    claimed = float(np.sqrt(np.mean([e.stderr**2 for e in estimates]) / len(values)))
    return Estimate(float(values.mean()), spread, "kT", estimates[0].method).as_dict() | {
        "repeats": len(values),
        "stderr_claimed_by_method": claimed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=16)
    repeats = parser.parse_args().repeats
    built = build_system(SystemSettings(card="ipl_binary_2d", particles=10))
    pair = ParticleSystem("ipl_pair", FlatTorus((3.0, 3.0)), (0, 1), ("A", "B"))
    cases = {
        "ab_pair_L3_T0.1": (pair, 0.1, 12, 10),
        "ipl_n10_T1.0": (built.system, 1.0, 20, 12),
        "ipl_n10_T0.1": (built.system, 0.1, 30, 12),
    }
    out = {}
    for name, (system, temperature, rungs, nodes) in cases.items():
        state = ThermodynamicState(temperature)
        ladder = ReferenceSettings(chains=8, frames=4000, equilibration_sweeps=4000, sweeps_between_frames=50)
        node = ReferenceSettings(
            sampler="swap", chains=8, frames=24000, equilibration_sweeps=8000, sweeps_between_frames=20
        )
        mbar, integral = [], []
        for repeat in range(repeats):
            mbar.append(free_energy_by_tempering(system, built.potential, state, ladder, 1000 + repeat, rungs))
            integral.append(
                free_energy_by_integration(system, built.potential, state, node, 2000 + 100 * repeat, nodes)
            )
            print(name, repeat, f"{mbar[-1].value:.4f} {integral[-1].value:.4f}", flush=True)
        entry = {"temperature": temperature, "mbar": repeated(mbar), "integration": repeated(integral)}
        if repeats > 1:
            a, b = entry["mbar"], entry["integration"]
            entry["difference_in_standard_errors"] = (a["value"] - b["value"]) / math.hypot(a["stderr"], b["stderr"])
            variances = np.array([a["stderr"] ** -2, b["stderr"] ** -2])
            entry["excess"] = Estimate(
                float(np.average([a["value"], b["value"]], weights=variances)),
                float(variances.sum() ** -0.5),
                "kT",
                "inverse-variance mean of MBAR and thermodynamic integration",
            ).as_dict()
        if name.startswith("ab_pair"):
            entry["truth"] = PAIR_TRUTH
        out[name] = entry
        RESULT.write_text(json.dumps({"machine": machine(), "free_energy.excess": out}, indent=2) + "\n")
        print(name, json.dumps(entry), flush=True)


if __name__ == "__main__":
    main()
