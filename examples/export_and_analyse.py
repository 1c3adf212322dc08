"""A run's configurations in ASE and MDTraj, with weights.

    python examples/export_and_analyse.py runs/quickstart-001 exported

Two ways to honour the weights: keep every sample and weigh it, or draw an unweighted set by weight (`resample`), for
tools that know no weights. The second repeats samples where few carry the weight, so the first has the smaller error.
"""

import argparse
from pathlib import Path

import ase.io
import mdtraj
import numpy as np

import particlegen
from particlegen.estimate import reweighted_mean


def nearest_distance(atoms: ase.Atoms) -> float:
    """Mean distance of a particle to its nearest neighbour, at periodic images, in Å (1 σ = 1 Å)."""
    distances = atoms.get_all_distances(mic=True)
    np.fill_diagonal(distances, np.inf)
    return float(distances.min(axis=1).mean())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a finished run")
    parser.add_argument("output", type=Path, help="a folder for the exported files")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    run = particlegen.open_run(options.folder)

    # ASE, in memory: one Atoms per sample; `info` holds the energy and the weight.
    frames = run.to_ase()
    values = np.array([nearest_distance(atoms) for atoms in frames])
    weights = np.array([atoms.info["weight"] for atoms in frames])
    with_error = reweighted_mean(run.read("generated", "log_weight"), values, "angstrom")
    reference = np.mean([nearest_distance(atoms) for atoms in run.to_ase("reference")[::10]])
    print(
        f"nearest neighbour: {np.average(values, weights=weights):.4f} ± {with_error.stderr:.4f} Å weighted,", end=" "
    )
    print(f"{values.mean():.4f} Å raw, {reference:.4f} Å by Monte Carlo")

    # ASE, through a file: extended xyz keeps energies and weights as columns of the comment line.
    for line in run.export(options.output / "samples.extxyz", to="extxyz"):
        print(line)
    read = ase.io.read(options.output / "samples.extxyz", index=":", format="extxyz")
    print(f"read back: {len(read)} frames, weights add up to {sum(atoms.info['weight'] for atoms in read):.6f}")

    # MDTraj: no room for weights, so draw by weight. Lengths are in nm: 1 σ = 0.1 nm.
    trajectory = run.to_mdtraj(resample=200)
    pairs = trajectory.topology.select_pairs("all", "all")
    longest = trajectory.unitcell_lengths[0, : run.built.system.dim].min() / 2
    distances = mdtraj.compute_distances(trajectory, pairs, periodic=True)
    near = (distances < longest).mean()
    print(f"MDTraj: {trajectory.n_frames} frames; {near:.1%} of the pairs are closer than half the box")

    # The same through a file; beside it, a JSON file says what was mapped and a PDB file holds the topology.
    run.export(options.output / "resampled.dcd", to="dcd", resample=200)
    loaded = mdtraj.load_dcd(options.output / "resampled.dcd", top=options.output / "resampled.pdb")
    print(f"largest difference after the round trip: {np.abs(loaded.xyz - trajectory.xyz).max():.1e} nm")


if __name__ == "__main__":
    main()
