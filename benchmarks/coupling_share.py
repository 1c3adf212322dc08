"""Share of a training step that goes into pairing base and data by optimal assignment.

Writes `results/coupling_share.json`. N = 44, the default network, for the couplings that the workflows use. CPU seconds
of one thread over the steps after the first. A minute or two on one core.

    python benchmarks/coupling_share.py [--batch 64] [--steps 4]
"""

import argparse
import json
import time
from pathlib import Path

import torch
from _machine import machine, one_thread
from torch import Tensor

from particlegen.energy import SystemSettings, build_system
from particlegen.interpolant import Coupling, InterpolantLoss, InterpolantSettings
from particlegen.networks import NetworkSettings, build_network
from particlegen.sampling import ReferenceSettings, sample_reference
from particlegen.training import Trainer, TrainingSettings

RESULT = Path(__file__).parent / "results" / "coupling_share.json"
LIMIT = 0.20
CASES = {
    "ka_ternary_2d": ("species", "translation"),
    "ipl_binary_2d": ("species", "translation", "point_group"),
}


class Timed:
    """A coupling that adds up the CPU seconds spent in it."""

    def __init__(self, coupling: Coupling):
        self.coupling, self.seconds, self.calls = coupling, 0.0, 0

    def __call__(self, x0: Tensor, x1: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        start = time.process_time()
        pair = self.coupling(x0, x1, generator)
        self.seconds, self.calls = self.seconds + time.process_time() - start, self.calls + 1
        return pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    one_thread()
    cases = {}
    for card, minimised in CASES.items():
        built = build_system(SystemSettings(card=card, particles=44))
        reference = ReferenceSettings(chains=8, frames=80, equilibration_sweeps=2000)
        blocks = sample_reference(built.system, built.potential, built.state, reference, 1)
        data = torch.cat([torch.from_numpy(block.positions) for block in blocks])
        loss = InterpolantLoss(built.system, InterpolantSettings(coupling=minimised))
        timed = Timed(loss.coupling)
        loss.coupling = timed
        network = build_network(NetworkSettings(), built.system)
        # one frame is held out, so that the validation at the last step costs next to nothing
        settings = TrainingSettings(batch=options.batch, steps=options.steps + 1, validation=1, validate_every=1)
        steps = Trainer(network, loss, settings, 1, data).run()
        next(steps)  # compiles and warms up
        timed.seconds, start = 0.0, time.process_time()
        for _ in steps:
            pass
        step = (time.process_time() - start) / options.steps
        share = timed.seconds / options.steps / step
        cases[card] = {
            "coupling": list(minimised),
            "coupling_cpu_seconds": timed.seconds / options.steps,
            "step_cpu_seconds": step,
            "share": share,
        }
        print(f"{card}: {share:.1%} of a step of {step:.2f} CPU s", flush=True)
    result = {
        "machine": machine(),
        "particles": 44,
        "batch": options.batch,
        "network": NetworkSettings().model_dump(),
        "limit": LIMIT,
        "within_limit": max(case["share"] for case in cases.values()) < LIMIT,
        "cases": cases,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
