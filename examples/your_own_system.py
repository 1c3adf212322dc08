"""Your own system: two YAML cards, the contract test of its energies, reference Monte Carlo, and a run.

    python examples/your_own_system.py runs/wca            # minutes on 2 cores
    python examples/your_own_system.py runs/wca --small    # seconds

The cards and a workflow that cites them lie in `cards/` beside this file; copy them and change the numbers.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import particlegen
from particlegen.energy import SystemSettings, TorchPairEnergy, build_system
from particlegen.sampling import ReferenceSettings, diagnose, energies_by_chain, sample_reference
from particlegen.testing import check_energy_provider

CARDS = Path(__file__).parent / "cards"
SMALL = {
    "system.particles": 6,
    "reference": {"chains": 4, "frames": 400, "sweeps_between_frames": 10, "equilibration_sweeps": 500},
    "network": {"width": 8, "rounds": 1},
    "training": {"steps": 20},
    "generation": {"samples": 100, "steps": 2},
    "stop": {"r_hat": None, "pareto_k": None},
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new run folder")
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args(arguments)

    # 1. What the card means. A mistake in it is an InputError that names the file, the key and the remedy.
    built = build_system(SystemSettings(card="wca_mixture.yaml"), relative_to=CARDS)
    system, state = built.system, built.state
    print(f"{system.name}: {system.composition} particles of {system.species_names} in {system.torus.lengths}")

    # 2. Reference configurations, and whether the chains agree.
    settings = ReferenceSettings(chains=4, frames=400, sweeps_between_frames=10, equilibration_sweeps=1_000)
    blocks = list(sample_reference(system, built.potential, state, settings, seed=11))
    energies = np.concatenate([block.energies for block in blocks])
    found = diagnose(energies_by_chain(energies, np.concatenate([block.chain for block in blocks])))
    n = system.n_particles
    print(f"<U>/N = {found.mean / n:.4f} ± {found.stderr / n:.4f} at T = {state.temperature}, R-hat {found.r_hat:.3f}")

    # 3. The energies keep the contract: forces are gradients, like particles may be exchanged, a failure is data.
    check_energy_provider(TorchPairEnergy(system, built.potential), torch.from_numpy(blocks[-1].positions[:4]))
    print("the energy provider keeps its contract")

    # 4. The whole way, as from the command line: particlegen run cards/wca_workflow.yaml
    run = particlegen.run(CARDS / "wca_workflow.yaml", out=options.folder, set=SMALL if options.small else {})
    excess = run.free_energy()["excess"]
    print(f"free energy, excess: {excess.value:.3f} ± {excess.stderr:.3f} {excess.unit}")
    print("please cite:", *run.citations, sep="\n  ")


if __name__ == "__main__":
    main()
