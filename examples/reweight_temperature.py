"""Other temperatures from a finished run, without another sample.

    python examples/reweight_temperature.py runs/quickstart-001

The density q of the generated samples is known and does not depend on the temperature, so the weights exp(-βU)/q hold
for any β that the samples cover. Where they do not, ESS/n falls, Pareto k rises, and the error bars cannot be trusted.
"""

import argparse

import numpy as np

import particlegen
from particlegen.estimate import (
    Estimate,
    ess_per_sample,
    free_energy_excess,
    log_weights,
    pareto_k,
    reweighted_heat_capacity,
    reweighted_mean,
)
from particlegen.units import beta


def at_temperature(run: particlegen.Run, temperature: float) -> dict[str, Estimate | float]:
    """Averages, free energy and the two warnings at another temperature."""
    system, b = run.built.system, beta(temperature, run.built.system.units)
    log_w = log_weights(run.read("generated", "log_q"), run.read("generated", "energy"), b)
    energy = run.read("generated", "energy")
    return {
        "ess": ess_per_sample(log_w),
        "k": pareto_k(log_w),
        "energy": reweighted_mean(log_w, energy / system.n_particles),
        "heat_capacity": reweighted_heat_capacity(log_w, energy, b, system.n_particles),
        "free_energy": free_energy_excess(log_w, system.log_uniform_density),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a finished run")
    parser.add_argument("--factors", type=float, nargs="+", default=[0.8, 0.9, 1.0, 1.1, 1.25, 1.5])
    options = parser.parse_args(arguments)

    run = particlegen.open_run(options.folder)
    print("     T   ESS/n  Pareto k   <U>/N               c_V/N              F_excess / kT")
    for temperature in np.array(options.factors) * run.built.state.temperature:
        found = at_temperature(run, float(temperature))
        columns = [
            f"{found[key].value:9.4f} ± {found[key].stderr:.4f}" for key in ("energy", "heat_capacity", "free_energy")
        ]
        warning = "" if found["k"] < 0.7 else "   do not trust"
        print(f"{temperature:6.3f}  {found['ess']:6.4f}  {found['k']:8.2f}", *columns, warning)


if __name__ == "__main__":
    main()
