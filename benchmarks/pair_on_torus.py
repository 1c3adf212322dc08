"""One A and one B of the IPL mixture on a torus of length 3 at T = 0.1: what is known exactly, by two samplers.

Writes `results/pair_on_torus.json`: the configuration integral q = ∫ exp(−βu) d²r and the mean energy, by quadrature,
by reference Monte Carlo, and by a small trained flow with importance weights. Minutes on one core.

    python benchmarks/pair_on_torus.py [--minutes 2] [--samples 200000]
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from _machine import machine, one_thread

from particlegen.energy import BuiltSystem, SystemSettings, TorchPairEnergy, build_system
from particlegen.estimate import (
    Estimate,
    ess_per_sample,
    free_energy_excess,
    log_weights,
    mean_with_correlation,
    pareto_k,
    reweighted_mean,
)
from particlegen.flow import GenerationSettings, ODEFlow
from particlegen.interpolant import InterpolantLoss, InterpolantSettings
from particlegen.networks import NetworkSettings, build_network
from particlegen.sampling import ReferenceSettings, free_energy_by_tempering, sample_reference
from particlegen.streams import torch_stream
from particlegen.training import Trainer, TrainingSettings

RESULT = Path(__file__).parent / "results" / "pair_on_torus.json"
KNOWN = {"q": 1.934330, "energy": 0.0444747}
LARGEST_ERROR, LARGEST_DISTANCE = 0.005, 3.0
SEED = 11


def quadrature(built: BuiltSystem, points: int = 1500) -> dict[str, float]:
    """q and ⟨U⟩ by the midpoint rule over the separation of the pair."""
    (length, _), beta = built.system.torus.lengths, built.state.beta
    axis = (torch.arange(points, dtype=torch.float64) + 0.5) * length / points
    energy = TorchPairEnergy(built.system, built.potential)
    q = first = 0.0
    for row in axis:
        x = torch.zeros(points, 2, 2, dtype=torch.float64)
        x[:, 1] = torch.stack([row.expand(points), axis], -1)
        u = energy.evaluate(x).energy
        boltzmann = torch.exp(-beta * u)
        q, first = q + float(boltzmann.sum()), first + float((u * boltzmann).nan_to_num().sum())
    return {"q": q * (length / points) ** 2, "energy": first / q}


def configuration_integral(excess: Estimate, volume: float, method: str) -> Estimate:
    """q = V exp(−F_excess/kT) and its error."""
    q = volume * math.exp(-excess.value)
    return Estimate(q, q * excess.stderr, "sigma^2", method)


def judged(estimate: Estimate, truth: float) -> dict:
    relative, distance = estimate.stderr / truth, (estimate.value - truth) / estimate.stderr
    good = abs(distance) <= LARGEST_DISTANCE and relative < LARGEST_ERROR
    return estimate.as_dict() | {"relative_stderr": relative, "distance_in_stderr": distance, "good": good}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--samples", type=int, default=200_000)
    options = parser.parse_args()
    one_thread()
    built = build_system(SystemSettings(card="ipl_binary_2d", composition={"A": 1, "B": 1}, lengths=(3.0, 3.0)))
    system, state, volume = built.system, built.state, built.system.torus.volume

    reference = ReferenceSettings(chains=16, frames=160_000, sweeps_between_frames=20, equilibration_sweeps=5000)
    blocks = list(sample_reference(system, built.potential, state, reference, SEED))
    positions = np.concatenate([block.positions for block in blocks])
    energy, chain = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("energies", "chain"))
    mean = mean_with_correlation(np.stack([energy[chain == k] for k in range(reference.chains)]))
    ladder = ReferenceSettings(chains=16, frames=16_000, equilibration_sweeps=4000, sweeps_between_frames=50)
    excess = free_energy_by_tempering(system, built.potential, state, ladder, SEED, 12)
    print("reference", mean, excess, flush=True)

    network_settings = NetworkSettings(width=24, rounds=2, channels=2)
    training = TrainingSettings(minutes=options.minutes, batch=512, learning_rate=4e-3, ema=0.995, validate_every=100)
    network = build_network(network_settings, system, SEED)
    data = torch.from_numpy(positions[:: max(1, len(positions) // 40_000)])
    interpolant = InterpolantSettings(coupling=("species", "translation"))
    trainer = Trainer(network, InterpolantLoss(system, interpolant), training, SEED, data)
    for progress in trainer.run():
        if progress.step % 500 == 0 or progress.done:
            print(progress, flush=True)
    network.load_state_dict(trainer.ema_weights())

    generation = GenerationSettings(samples=options.samples, steps=12, chunk=4000)
    flow, provider = ODEFlow(network, system, generation), TorchPairEnergy(system, built.potential)
    start, log_q, log_q_error, energies = time.process_time(), [], [], []
    for chunk in range(-(-options.samples // generation.chunk)):
        samples = flow.sample(generation.chunk, torch_stream(SEED, "generation", chunk))
        log_q.append(samples.log_q)
        log_q_error.append(samples.log_q_error)
        energies.append(provider.evaluate(samples.positions).energy)
    seconds = time.process_time() - start
    u = torch.cat(energies).numpy()
    log_w = log_weights(torch.cat(log_q).numpy(), u, state.beta)
    flow_excess = free_energy_excess(log_w, system.log_uniform_density)
    result = {
        "machine": machine(),
        "system": {"card": "ipl_binary_2d", "composition": {"A": 1, "B": 1}, "lengths": [3.0, 3.0], "temperature": 0.1},
        "quadrature": quadrature(built),
        "known": KNOWN,
        "reference_monte_carlo": {
            "q": judged(configuration_integral(excess, volume, f"V exp(-F): {excess.method}"), KNOWN["q"]),
            "energy": judged(mean, KNOWN["energy"]),
            "frames": len(energy),
        },
        "flow": {
            "q": judged(configuration_integral(flow_excess, volume, "V <w> over samples of the flow"), KNOWN["q"]),
            "energy": judged(reweighted_mean(log_w, u), KNOWN["energy"]),
            "samples": len(u),
            "ess_per_sample": ess_per_sample(log_w),
            "pareto_k": pareto_k(log_w),
            "log_q_error_rms": float(torch.cat(log_q_error).square().mean().sqrt()),
            "network": network_settings.model_dump(),
            "training": {
                "steps": trainer.step,
                "wall_minutes": trainer.seconds / 60,
                "validation_loss": trainer.best_loss,
            },
            "generation": {"steps": generation.steps, "cpu_seconds": seconds},
        },
    }
    found = [result[kind][name]["good"] for kind in ("reference_monte_carlo", "flow") for name in ("q", "energy")]
    result["all_good"] = all(found)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({k: result[k] for k in ("quadrature", "reference_monte_carlo", "flow", "all_good")}, indent=2))


if __name__ == "__main__":
    main()
