"""Estimates stage: from stored arrays to `results.json`."""

import numpy as np

from particlegen import estimate
from particlegen.estimate import Estimate
from particlegen.events import Event
from particlegen.sampling import Equilibration, diagnose
from particlegen.settings import RunError
from particlegen.units import energy_unit
from particlegen.workflow.glass.generation import HELD_OUT
from particlegen.workflow.glass.job import GlassJob
from particlegen.workflow.glass.observables import observable_curves
from particlegen.workflow.glass.reference import COMPILED, chain_energies, frame_split
from particlegen.workflow.glass.reference import STAGE as REFERENCE
from particlegen.workflow.results import results_head
from particlegen.workflow.spent import as_dicts, count

__all__ = ["STAGE", "run_estimates"]

STAGE = "estimates"
FEWEST_FRAMES = 4
"""Independent held-out frames that BAR needs."""


def run_estimates(job: GlassJob) -> None:
    """Write `results.json`, once, and consolidate the segments into `data.h5`."""
    if job.folder.results_file.is_file():
        return
    job.emit(Event("started", STAGE, "weights, averages, free energy"))
    for ensemble in ("reference", "generated"):
        job.store.consolidate(ensemble, job.built.system)
    chains = chain_energies(job.store)
    limit = job.workflow.stop.r_hat
    equilibration = diagnose(chains) if limit is None else diagnose(chains, max_r_hat=limit)
    reference = _reference(job, chains, equilibration)
    generated, reweighted, free_energy = _generated(job, equilibration.statistical_inefficiency)
    observables = observable_curves(job)
    reasons = _missed(job, equilibration, generated)
    nearest_image = "truncates the potential" if job.built.truncated_image else "holds the whole potential"
    lengths = list(job.built.system.torus.lengths)
    results = results_head(job, STAGE, reasons, lengths=lengths, nearest_image=nearest_image)
    results |= {
        "reference": as_dicts(reference),
        "generated": as_dicts(generated),
        "reweighted": as_dicts(reweighted),
        "free_energy": as_dicts(free_energy),
        "energy_calls": as_dicts(_logical_calls(job)),
        "observables": observables,
    }
    job.folder.write_json(job.folder.results_file, results)


def _reference(job: GlassJob, chains: np.ndarray, equilibration: Equilibration) -> dict[str, Estimate]:
    """Averages over the reference frames, with the errors that their correlation leaves."""
    n, state = job.built.system.n_particles, job.built.state
    unit = energy_unit(job.built.system.units)
    method = f"{job.workflow.reference.method}, {chains.shape[0]} chains"
    deviation = (chains - chains.mean()) ** 2
    variance = estimate.mean_with_correlation(deviation)
    scale = state.beta**2 / n
    nan = float("nan")
    return {
        "energy_per_particle": Estimate(equilibration.mean / n, equilibration.stderr / n, unit, method),
        "heat_capacity_per_particle": Estimate(variance.value * scale, variance.stderr * scale, "k_B", method),
        "n_frames": count(chains.size),
        "r_hat": Estimate(equilibration.r_hat, nan, "", "rank-normalised split R-hat (Vehtari 2021)"),
        "statistical_inefficiency": Estimate(
            equilibration.statistical_inefficiency, nan, "frames", "pooled over chains"
        ),
        "drift": Estimate(
            equilibration.drift, equilibration.drift_stderr, unit, "second minus first half, total energy"
        ),
    }


def _generated(
    job: GlassJob, inefficiency: float
) -> tuple[dict[str, Estimate], dict[str, Estimate], dict[str, Estimate]]:
    """Diagnostics of the samples, reweighted averages, free energies; frames of the reference per independent one."""
    store, system, beta = job.store, job.built.system, job.built.state.beta
    n, unit, settings = system.n_particles, energy_unit(system.units), job.workflow.estimates
    log_w, energy = store.read("generated", "log_weight"), store.read("generated", "energy")
    if not np.isfinite(log_w).any():
        raise RunError("estimates: no sample has any weight, the flow misses the system entirely; train it longer")
    log_q_error = store.read("generated", "log_q_error")
    stuck = float(np.isnan(log_q_error).mean())
    failed = float(store.read("generated", "failed").mean())
    reference = store.read("reference", "energy")
    rule = "ipl" if job.built.potential.name.startswith("ipl") else "gaussian"
    discard = float(estimate.discard_fraction(energy, reference, rule))
    raw = energy[np.isfinite(energy)] / n
    nan = float("nan")
    k = max(estimate.pareto_k(log_w), -1.0)  # weights all alike have k = -inf, which JSON cannot hold
    generated = {
        "n_samples": count(len(log_w)),
        "discard_fraction": Estimate(discard, (discard * (1 - discard) / len(energy)) ** 0.5, "", f"rule: {rule}"),
        "stuck": Estimate(stuck, (stuck * (1 - stuck) / len(energy)) ** 0.5, "", "share of samples without log q"),
        "failed": Estimate(failed, (failed * (1 - failed) / len(energy)) ** 0.5, "", "share of samples without energy"),
        "ess_per_sample": Estimate(estimate.ess_per_sample(log_w), nan, "", "(sum w)^2 / (n sum w^2)"),
        "pareto_k": Estimate(k, nan, "", "Pareto smoothed importance sampling"),
        "log_q_error": Estimate(float(np.nanmedian(log_q_error)), nan, "", "median |error of log q|"),
        "median_energy_per_particle": Estimate(float(np.median(raw)) if len(raw) else nan, nan, unit, "raw samples"),
    }
    held_out, free_energy = job.load(HELD_OUT), {}
    if settings.free_energy:
        excess = estimate.free_energy_excess(log_w, system.log_uniform_density)
        free_energy["excess"] = excess
        free_energy["total"] = estimate.free_energy_total(excess, system.torus.volume, system.composition)
    if held_out and len(held_out.tensors["log_q"]):
        log_w_reference = -beta * held_out.tensors["energy"].numpy() - held_out.tensors["log_q"].numpy()
        known = np.isfinite(log_w_reference)
        left_out = f", {(~known).sum()} without log q left out" if not known.all() else ""
        method, log_w_reference = f"{len(known)} held-out reference frames{left_out}", log_w_reference[known]
        generated["forward_ess"] = Estimate(estimate.forward_ess(log_w_reference), nan, "", method)
        frames = store.length("reference")
        independent = int((frames - frame_split(job.workflow, frames)) / max(inefficiency, 1.0))
        enough = min(independent, len(log_w_reference)) >= FEWEST_FRAMES and np.isfinite(log_w).sum() >= 2
        if settings.free_energy and enough:
            free_energy["excess_bar"] = _both_ways(log_w, log_w_reference, independent, system.log_uniform_density)
    reweighted = {}
    if "energy" in settings.observables:
        mean = estimate.reweighted_mean(log_w, energy)
        reweighted["energy_per_particle"] = Estimate(mean.value / n, mean.stderr / n, unit, mean.method)
    if "heat_capacity" in settings.observables:
        reweighted["heat_capacity_per_particle"] = estimate.reweighted_heat_capacity(log_w, energy, beta, n)
    return generated, reweighted, free_energy


def _both_ways(
    log_w: np.ndarray, log_w_reference: np.ndarray, independent: int, log_uniform_density: float
) -> Estimate:
    """Excess free energy by BAR of samples and held-out frames, those thinned to as many as are independent."""
    picked = np.linspace(0, len(log_w_reference) - 1, min(independent, len(log_w_reference))).astype(int)
    found = estimate.flow_bar(log_w, log_w_reference[picked])
    method = f"BAR of the samples and {len(picked)} held-out frames, overlap {found.overlap:.2f}"
    return Estimate(found.value - log_uniform_density, found.stderr, "kT", "; ".join([method, *found.warnings]))


def _logical_calls(job: GlassJob) -> dict[str, Estimate]:
    """Full-energy equivalents that the answer rests on; the same whether or not the run was interrupted."""
    reference = job.load(REFERENCE)
    sampled = float(reference.metadata["energy_calls"]) if reference else 0.0
    generated = float(job.workflow.generation.samples)
    if job.workflow.reference.sampler == "hmc":
        return {job.provider.name: count(sampled + generated, "calls")}
    return {COMPILED: count(sampled, "calls"), job.provider.name: count(generated, "calls")}


def _missed(job: GlassJob, equilibration: Equilibration, generated: dict[str, Estimate]) -> list[str]:
    """Stated criteria that the run did not reach, as sentences."""
    stop, missed = job.workflow.stop, []
    if stop.r_hat is not None and not equilibration.equilibrated:
        missed += [f"the reference is not equilibrated: {reason}" for reason in equilibration.reasons]
    for name, limit, worse in (
        ("pareto_k", stop.pareto_k, lambda value, limit: not value <= limit),
        ("ess_per_sample", stop.ess_per_sample, lambda value, limit: not value >= limit),
    ):
        if limit is not None and worse(generated[name].value, limit):
            missed.append(f"stop.{name}: {generated[name].value:.3g} reached, {limit:g} was asked for")
    return missed
