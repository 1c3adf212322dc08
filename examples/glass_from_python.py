"""Equilibrium configurations of a glass former and their absolute free energy, from Python.

    python examples/glass_from_python.py runs/glass            # the quickstart's size: minutes on 2 cores
    python examples/glass_from_python.py runs/small --small    # seconds, to see how it goes; the answer is poor

The run folder is the same as the command line makes: `particlegen report runs/glass` works on it, and so do the other
examples here.
"""

import argparse
from pathlib import Path

import particlegen
from particlegen.events import Event

SMALL = {
    "system.particles": 4,
    "reference": {"chains": 4, "sweeps_between_frames": 5, "frames": 800, "equilibration_sweeps": 500},
    "network": {"kind": "hollow", "width": 16, "rounds": 1, "harmonics": 2},
    "training": {"steps": 120, "batch": 64, "warm_up": 20, "ema": 0.9, "validate_every": 40},
    "generation": {"samples": 400, "steps": 4},
    "estimates.held_out_frames": 40,
    "stop": {"r_hat": None, "pareto_k": None},  # so little of everything is not held to any criterion
}


def show(event: Event) -> None:
    """A listener hears everything that happens; the command line draws its progress bars this way."""
    if event.kind in ("started", "finished", "warning"):
        print(f"{event.stage:<11} {event.kind:<9} {event.message}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new run folder")
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args(arguments)

    run = particlegen.run("quickstart", out=options.folder, set=SMALL if options.small else {}, listener=show)

    print()
    generated, reference = run.results["generated"], run.results["reference"]
    print(f"{generated['n_samples']['value']:.0f} samples, ESS/n {generated['ess_per_sample']['value']:.3f}")
    for name in ("energy_per_particle", "heat_capacity_per_particle"):
        ours, theirs = run.results["reweighted"][name], reference[name]
        print(f"{name}: {ours['value']:.4f} ± {ours['stderr']:.4f} reweighted,", end=" ")
        print(f"{theirs['value']:.4f} ± {theirs['stderr']:.4f} by Monte Carlo")
    for name, estimate in run.free_energy().items():
        print(f"free energy, {name}: {estimate.value:.3f} ± {estimate.stderr:.3f} {estimate.unit}")

    # Arrays, for whatever comes next: every configuration with its weight; the weights add up to one.
    positions, weights = run.positions(), run.weights()
    print(f"positions {positions.shape}, weights {weights.shape}, largest weight {weights.max():.3f}")
    print("converged" if run.converged else f"not converged: {'; '.join(run.reasons)}")
    print(f"report: {run.folder.report_file}")


if __name__ == "__main__":
    main()
