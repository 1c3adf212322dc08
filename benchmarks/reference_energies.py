"""Reference energies and heat capacities of the IPL mixture by Monte Carlo.

Writes `results/reference_energies.json`. A few minutes on one core; cases named on the command line replace theirs
and leave the others.

    python benchmarks/reference_energies.py [CASE ...]
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from _machine import machine

from particlegen.energy import SystemSettings, build_system
from particlegen.estimate import Estimate
from particlegen.estimate.convergence import mean_with_correlation
from particlegen.sampling import ReferenceSettings, diagnose, energies_by_chain, sample_reference

RESULT = Path(__file__).parent / "results" / "reference_energies.json"


def measure(particles: int, temperature: float, settings: ReferenceSettings, seed: int) -> dict:
    built = build_system(SystemSettings(card="ipl_binary_2d", particles=particles, temperature=temperature))
    began, calls, energies, chain, acceptance = time.process_time(), 0.0, [], [], {}
    for block in sample_reference(built.system, built.potential, built.state, settings, seed):
        energies.append(block.energies)
        chain.append(block.chain)
        calls += block.energy_calls
        acceptance = block.acceptance
    u = energies_by_chain(np.concatenate(energies), np.concatenate(chain))
    verdict = diagnose(u)
    beta = built.state.beta
    fluctuation = mean_with_correlation(beta**2 * (u - u.mean()) ** 2 / particles)
    return {
        "particles": particles,
        "temperature": temperature,
        "energy_per_particle": Estimate(
            verdict.mean / particles, verdict.stderr / particles, "epsilon", "Monte Carlo mean"
        ).as_dict(),
        "heat_capacity_per_particle": Estimate(
            fluctuation.value, fluctuation.stderr, "k_B", "beta^2 var(U)/N, configurational"
        ).as_dict(),
        "energy_sd": float(u.std()),
        "largest_energy": float(u.max()),
        "r_hat": verdict.r_hat,
        "statistical_inefficiency": verdict.statistical_inefficiency,
        "equilibrated": verdict.equilibrated,
        "reasons": list(verdict.reasons),
        "acceptance": acceptance,
        "energy_calls": calls,
        "cpu_seconds": time.process_time() - began,
        "settings": settings.model_dump(mode="json"),
    }


def main() -> None:
    chosen = sys.argv[1:]
    runs = json.loads(RESULT.read_text())["runs"] if chosen and RESULT.exists() else {}
    plain = {"chains": 16, "frames": 80_000, "equilibration_sweeps": 60_000}
    cases = [
        ("n10_T0.1_displacement", 10, 0.1, {"sampler": "displacement", "sweeps_between_frames": 1000}),
        ("n10_T0.1_swap", 10, 0.1, {"sampler": "swap", "sweeps_between_frames": 200}),
        ("n10_T0.1_tempering", 10, 0.1, {"sampler": "tempering", "sweeps_between_frames": 100, "frames": 40_000}),
        ("n10_T1.0_displacement", 10, 1.0, {"sampler": "displacement", "sweeps_between_frames": 200}),
        ("n44_T0.1_displacement", 44, 0.1, {"sampler": "displacement", "sweeps_between_frames": 500, "frames": 32_000}),
        ("n44_T0.1_swap", 44, 0.1, {"sampler": "swap", "sweeps_between_frames": 300, "frames": 32_000}),
    ]
    for seed, (name, particles, temperature, changes) in enumerate(cases):
        if chosen and name not in chosen:
            continue
        runs[name] = measure(particles, temperature, ReferenceSettings.model_validate(plain | changes), seed)
        print(name, json.dumps({k: runs[name][k] for k in list(runs[name])[2:9]}), flush=True)
        RESULT.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
