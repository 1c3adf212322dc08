"""The measurements of `side_by_side.py`: data, training and sampling with this package and with the peer's checkout."""

import argparse
import copy
import importlib
import math
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _machine import one_thread

from particlegen import catalogue
from particlegen.energy import BuiltSystem, SystemSettings, TorchPairEnergy, build_system
from particlegen.estimate import discard_fraction, ess_per_sample, log_weights, pareto_k
from particlegen.flow import GenerationSettings, ODEFlow
from particlegen.interpolant import InterpolantLoss, InterpolantSettings
from particlegen.networks import NetworkSettings, build_network
from particlegen.sampling import ReferenceSettings, sample_reference
from particlegen.streams import torch_stream
from particlegen.training import Trainer, TrainingSettings

PEER_REPOSITORY = "h2o64/learndiffeq"
SEED, BATCH, VALIDATION_SHARE = 7, 256, 0.2
PEER_SEED, PEER_STEPS, PEER_CHUNK = 42, 20, 100
ESS_BATCH = 500


def cpu() -> float:
    """CPU seconds of this process and of the finished ones that it started (compilers)."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def system() -> BuiltSystem:
    return build_system(SystemSettings(card="ipl_binary_2d", particles=10, temperature=0.1))


def reference(built: BuiltSystem, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The data of every part: positions `(frame, N, 2)` and energies; the seed makes them the same everywhere."""
    settings = ReferenceSettings(sampler="displacement", chains=20, frames=frames, sweeps_between_frames=200)
    blocks = list(sample_reference(built.system, built.potential, built.state, settings, SEED))
    return np.concatenate([b.positions for b in blocks]), np.concatenate([b.energies for b in blocks])


class Clocked:
    """A loss that notes the CPU time of each training call, so that steps are timed apart from validations."""

    def __init__(self, loss: InterpolantLoss):
        self.loss, self.marks = loss, []

    def __call__(self, network: torch.nn.Module, data: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        self.marks.append((cpu(), torch.is_grad_enabled()))
        return self.loss(network, data, generator)

    def step_seconds(self) -> float:
        """Median time between two training calls with no validation between, the first ten left out."""
        pairs = list(zip(self.marks, self.marks[1:], strict=False))[10:]
        return float(np.median([b[0] - a[0] for a, b in pairs if a[1] and b[1]]))


def quality(built: BuiltSystem, x: torch.Tensor, log_q: np.ndarray, reference_energy: np.ndarray) -> dict[str, Any]:
    """What the raw samples are worth, judged by the same functions for both."""
    energy = TorchPairEnergy(built.system, built.potential).evaluate(x.double()).energy.numpy()
    log_w = log_weights(log_q, energy, built.state.beta)
    n, generator = len(log_w), np.random.default_rng(0)
    replicas = [ess_per_sample(log_w[generator.integers(0, n, n)]) for _ in range(200)]
    discarded = discard_fraction(energy, reference_energy, "ipl")
    finite, kept, k = log_w[np.isfinite(log_w)], log_w[energy <= 2 * reference_energy.max()], pareto_k(log_w)
    # ESS/n of heavy-tailed weights falls with n: only equal n compare
    batches = [ess_per_sample(log_w[first : first + ESS_BATCH]) for first in range(0, n - ESS_BATCH + 1, ESS_BATCH)]
    return {
        "samples": n,
        "discard_fraction": discarded,
        "discard_fraction_stderr": math.sqrt(max(discarded, 1 / n) * (1 - discarded) / n),
        "ess_per_sample": ess_per_sample(log_w),
        "ess_per_sample_bootstrap_stderr": float(np.std(replicas, ddof=1)),
        f"ess_per_sample_in_batches_of_{ESS_BATCH}": float(np.mean(batches)) if batches else None,
        "pareto_k": k if math.isfinite(k) else None,
        "largest_share": float(np.exp(finite.max() - np.logaddexp.reduce(finite))),
        "log_weight_sd_of_kept": float(np.std(kept)) if len(kept) > 1 else None,
    }


def stability(curve: list[dict[str, float]]) -> dict[str, Any]:
    """The validation curve and whether its end is still near its best."""
    losses = [point["loss"] for point in curve]
    best = int(np.argmin(losses))
    return {
        "validation": curve,
        "best_validation_loss": losses[best],
        "step_of_best": curve[best]["step"],
        "last_validation_loss": losses[-1],
        "largest_after_best": max(losses[best:]),
        "stable": bool(losses[-1] <= 1.1 * losses[best]),
    }


def plan_steps(build: Callable[[int], tuple[Trainer, Clocked]], seconds: float) -> int:
    """Steps that fit the CPU time after what finding out cost."""
    started = cpu()
    trainer, clock = build(60)
    for _ in trainer.run():
        pass
    validation = cpu() - next(at for at, training in clock.marks if not training)
    each = clock.step_seconds() + validation / trainer.settings.validate_every
    return max(1, int((seconds - (cpu() - started)) / each))


def ours(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and sample with this package."""
    workflow = catalogue.load("workflows", "glass_ipl_n10").data
    network_settings = NetworkSettings(**catalogue.load("workflows", "quickstart").data["network"])
    interpolant = InterpolantSettings(**workflow["interpolant"])
    built = system()
    positions, energies = reference(built, options.frames)
    data = torch.from_numpy(positions)
    shared = {k: v for k, v in workflow["training"].items() if k not in ("steps", "minutes")}
    shared |= {"batch": BATCH, "validation": int(VALIDATION_SHARE * options.frames)}
    if part == "ours_eager":
        shared |= {"compile": False, "precision": "float32"}

    def build(steps: int) -> tuple[Trainer, Clocked]:
        settings = TrainingSettings(**shared | {"steps": steps})
        network = build_network(network_settings, built.system, SEED)
        clock = Clocked(InterpolantLoss(built.system, interpolant))
        return Trainer(network, clock, settings, SEED, data=data), clock

    began = cpu()
    steps = plan_steps(build, 60 * options.minutes)
    trainer, clock = build(steps)
    curve: dict[int, dict[str, float]] = {}
    for progress in trainer.run():
        if math.isfinite(progress.validation_loss):
            at = progress.step // trainer.settings.validate_every * trainer.settings.validate_every
            at = progress.step if progress.done else at
            point = {"step": at, "cpu_seconds": round(cpu() - began, 1), "loss": progress.validation_loss}
            curve.setdefault(at, point)
    training = {
        "cpu_seconds": cpu() - began,
        "steps": steps,
        "steps_per_second": 1 / clock.step_seconds(),
        "steps_per_second_validation_included": steps / (cpu() - began),
        **stability(list(curve.values())),
    }
    network = build_network(network_settings, built.system, SEED)
    network.load_state_dict(trainer.ema_weights())
    count = options.samples
    generation = GenerationSettings(**workflow["generation"] | {"samples": count})
    began = cpu()
    samples = ODEFlow(network.eval(), built.system, generation).sample(count, torch_stream(SEED, "generation", 0))
    spent = cpu() - began
    return {
        "configuration": {
            "network": network_settings.model_dump(),
            "parameters": sum(p.numel() for p in network.parameters()),
            "interpolant": interpolant.model_dump(mode="json"),
            "training": trainer.settings.model_dump(),
        },
        "training": training,
        "generation": {
            "solver": f"{generation.solver}, tolerance {generation.tolerance:g}, one step size per sample",
            "cpu_seconds_per_sample": spent / count,
            "samples_with_likelihood_per_second": count / spent,
            "median_error_of_log_q": float(samples.log_q_error.median()),
        },
        "quality": quality(built, samples.positions, samples.log_q.numpy(), energies),
    }


def peer(options: argparse.Namespace) -> dict[str, Any]:
    """Train and sample with the checkout in `options.peer`, through the calls that its own training script makes."""
    sys.path.insert(0, str(options.peer))
    lightning = importlib.import_module("pytorch_lightning")
    flow_matching = importlib.import_module("learndiffeq.flow_matching.riemannian_fm")
    uniform = importlib.import_module("learndiffeq.particles.distributions.uniform")
    spheres = importlib.import_module("learndiffeq.particles.distributions.soft_spheres")
    loaders = importlib.import_module("learndiffeq.common.datamodules")
    built = system()
    positions, energies = reference(built, options.frames)
    length = float(built.system.torus.lengths[0])
    random.seed(PEER_SEED)
    np.random.seed(PEER_SEED)
    torch.manual_seed(PEER_SEED)
    species = torch.tensor(built.system.species, dtype=torch.int32)
    data = torch.from_numpy(positions).float().remainder(length)
    target = spheres.SoftSphere(n_particles=10, dim_phys=2, L=length)
    theirs = target.U(species.expand(1000, -1), data[:1000]).numpy()
    module = loaders.TensorDataModule(data, species.repeat(len(data), 1), batch_size=BATCH, shuffle=True)
    configuration = {
        "velocity_type": "particles_equivariant",
        "velocity_kwargs": {
            "L": length,
            "n_species": 2,
            "tanh": True,
            "attention": True,
            "hidden_nf": 32,
            "n_layers": 3,
        },
        "lr": 1e-3,
        "use_linear_assignment_particles": True,
        "skip_sorting": True,
        "force_automatic_div": False,
    }
    model = flow_matching.RiemannianFlowMatching(
        rho0=uniform.UniformParticles(species=species, n_particles=10, dim_phys=2, L=length),
        n_particles=10,
        dim_phys=2,
        L=length,
        **configuration,
    )
    watch = _watch(lightning, 60 * options.minutes)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1250,
        gradient_clip_val=5.0,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, module)
    training = {
        "cpu_seconds": cpu() - watch.began,
        "steps": trainer.global_step,
        "steps_per_second": 1 / float(np.median(np.diff(watch.marks)[10:])),
        "steps_per_second_validation_included": trainer.global_step / (cpu() - watch.began),
        **stability(watch.curve),
    }
    assignment = importlib.import_module("learndiffeq.particles.utils").linear_assignment_permutation
    began = cpu()
    for x in data[: 10 * BATCH].split(BATCH):
        assignment(torch.rand(BATCH, 5, 2) * length, x[:, :5], L=length)
        assignment(torch.rand(BATCH, 5, 2) * length, x[:, 5:], L=length)
    coupling = (cpu() - began) / 10
    model.b.load_state_dict(watch.best)
    model.eval()
    began, drawn = cpu(), []
    while sum(len(x) for x, _ in drawn) < options.samples:
        enough = sum(len(x) for x, _ in drawn) >= min(500, options.samples)
        if enough and cpu() - began > 60 * options.peer_sample_minutes:
            break
        size = min(PEER_CHUNK, options.samples)
        _, x, log_q = model.sample_and_log_prob((size,), method="rk4", n_steps=PEER_STEPS + 1, approx=False)
        drawn.append((x, log_q))
    spent = cpu() - began
    x, log_q = (torch.cat(column) for column in zip(*drawn, strict=True))
    began = cpu()
    if options.dopri5:
        model.sample_and_log_prob((options.dopri5,), method="dopri5", n_steps=2, approx=False, atol=1e-5, rtol=1e-5)
    return {
        "configuration": configuration
        | {
            "repository": PEER_REPOSITORY,
            "training_script_defaults": "experiments/training_rfm.py, rfm, bhhp; seed 42; Adam; batch 256; clip 5.0; "
            "its callbacks for plots off; its --use_ema left out, since the defaults give it a decay of 0",
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "weights_sampled": "lowest validation loss (its script would keep the last)",
            "assignment": "torch_linear_assignment"
            if importlib.import_module("learndiffeq.particles.utils").linear_assignment_exists
            else "its fallback, POT one pair at a time (torch_linear_assignment is not in its requirements)",
        },
        "energy_difference_to_ours_relative": float(np.abs(theirs / energies[:1000] - 1).max()),
        "training": training | {"coupling_seconds_per_step": coupling},
        "generation": {
            "solver": f"rk4 of torchdiffeq, {PEER_STEPS} steps, exact divergence by the full Jacobian",
            "velocity_evaluations_with_divergence": 4 * PEER_STEPS,
            "cpu_seconds_per_sample": spent / len(x),
            "samples_with_likelihood_per_second": len(x) / spent,
            "dopri5_1e-5_cpu_seconds_per_sample": (cpu() - began) / options.dopri5 if options.dopri5 else None,
            "dopri5_samples": options.dopri5,
        },
        "quality": quality(built, x, log_q.double().numpy(), energies),
    }


def _watch(lightning: Any, seconds: float) -> Any:
    class Watch(lightning.Callback):
        """Keeps the validation curve and the best weights, and ends the training when its CPU time is spent."""

        def __init__(self) -> None:
            self.began, self.marks, self.curve, self.best, self.lowest = cpu(), [], [], {}, math.inf

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            self.marks.append(cpu())

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if cpu() - self.began >= seconds:
                trainer.should_stop = True

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            if trainer.sanity_checking:
                return
            loss = float(trainer.callback_metrics["val_loss"])
            loss = loss if math.isfinite(loss) else 1e30
            self.curve.append(
                {"step": trainer.global_step, "cpu_seconds": round(cpu() - self.began, 1), "loss": round(loss, 5)}
            )
            if loss < self.lowest:
                self.lowest, self.best = loss, copy.deepcopy(module.b.state_dict())

    return Watch()


def run_part(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """One part, here; the process that called started it on a core of its own."""
    one_thread()
    return peer(options) if part == "peer" else ours(part, options)
