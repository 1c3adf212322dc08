"""Estimates stage: from stored arrays to `results.json`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from particlegen import estimate
from particlegen.estimate import ErrorBudget, Estimate
from particlegen.events import Event
from particlegen.units import energy_unit
from particlegen.workflow.isomers.job import ADAPTATION, MINIMA, PRODUCTION, IsomerJob
from particlegen.workflow.isomers.observables import observable_curves, order_parameters
from particlegen.workflow.isomers.production import AUDIT, CHAINS, DRAWS, MIXTURE
from particlegen.workflow.opened import as_estimate
from particlegen.workflow.spent import as_dicts, count, spent

__all__ = ["STAGE", "run_estimates"]

STAGE = "estimates"


def run_estimates(job: IsomerJob) -> None:
    """Write `results.json`, once, and consolidate the segments into `data.h5`."""
    if job.folder.results_file.is_file():
        return
    job.emit(Event("started", STAGE, "free energies, error budget, observables"))
    for ensemble in (CHAINS, DRAWS):
        job.store.consolidate(ensemble, job.built.system)
    names = [isomer.name for isomer in job.built.isomers]
    isomers = [_Isomer(job, number) for number in range(len(names))]
    differences = {f"{names[b]}-{names[0]}": _difference(job, isomers, b, 0) for b in range(1, len(names))}
    reasons = _missed(job, isomers, differences)
    for reason in reasons:
        job.emit(Event("warning", STAGE, reason))
    job.emit(Event("finished", STAGE, "converged" if not reasons else "a stated criterion was missed"))
    system, state = job.built.system, job.built.state
    results: dict[str, Any] = {
        "kind": job.workflow.kind,
        "status": {"converged": not reasons, "reasons": reasons},
        "system": {
            "name": system.name,
            "particles": system.n_particles,
            "composition": dict(zip(system.species_names, system.composition, strict=True)),
            "temperature": state.temperature,
            "units": system.units,
            "engine": job.provider.name,
        },
        "isomers": {isomer.name: isomer.as_dict() for isomer in isomers},
        "delta_free_energy": differences,
        "energy_calls": as_dicts({job.provider.name: count(_logical_calls(job), "calls")}),
        "spent": spent(job),
        "observables": observable_curves(job),
    }
    job.folder.write_json(job.folder.results_file, results)


class _Isomer:
    """What is known of one isomer; free energies in kT."""

    def __init__(self, job: IsomerJob, number: int):
        self.job, self.number = job, number
        self.name, self.minimum = job.built.isomers[number].name, job.minima[number]
        self.kt = 1.0 / job.built.state.beta
        self.unit = energy_unit(job.built.system.units)
        mine = job.store.read(DRAWS, "isomer") == number
        self.log_w_flow = job.store.read(DRAWS, "log_weight")[mine]
        mine = job.store.read(CHAINS, "isomer") == number
        chains = job.workflow.chains.count
        chain = job.store.read(CHAINS, "chain")[mine]
        # Blocks are stored one after the other, each by chain; a stable sort gives each chain in the order of time.
        order = np.argsort(chain, kind="stable")
        energy, log_q = (job.store.read(CHAINS, name)[mine][order] for name in ("energy", "log_q"))
        self.energy = energy.reshape(chains, -1)
        self.log_w_chain = (-job.built.state.beta * energy - log_q).reshape(chains, -1)
        positions = job.store.read(CHAINS, "position")[mine][order]
        parameters = order_parameters(positions, self.minimum.frame.reference.numpy())
        self.series = {"energy": self.energy} | {key: x.reshape(chains, -1) for key, x in parameters.items()}
        self.flow = estimate.flow_free_energy(self.log_w_flow)
        self.bar = estimate.flow_bar(self.log_w_flow, self.log_w_chain)
        self.r_hat = {key: estimate.split_r_hat(series) for key, series in self.series.items()}
        notes = job.load(PRODUCTION)
        self.counts: dict[str, int] = dict(notes.metadata[self.name]) if notes else {}

    @property
    def log_copies(self) -> float:
        return float(np.log(self.minimum.frame.copies))

    def harmonic(self) -> Estimate:
        value = self.minimum.free_energy(self.job.built.state)
        return Estimate(value, 0.0, self.unit, "harmonic superposition about the minimum")

    def share(self, part: str, what: str) -> Estimate:
        tried, n = self.counts.get(f"{part}.proposed", 0), self.counts.get(f"{part}.{what}", 0)
        share = n / tried if tried else float("nan")
        error = (share * (1.0 - share) / tried) ** 0.5 if tried else float("nan")
        return Estimate(share, error, "", f"share of {tried} proposals")

    def moved(self) -> Estimate:
        """Share of global moves that move a chain; each has `candidates` − 1 draws to choose from."""
        moves = self.counts.get("isir.proposed", 0) // (self.job.workflow.chains.candidates - 1)
        share = self.counts.get("isir.accepted", 0) / moves if moves else float("nan")
        error = (share * (1.0 - share) / moves) ** 0.5 if moves else float("nan")
        return Estimate(share, error, "", f"share of {moves} global moves (i-SIR) that move the chain")

    def as_dict(self) -> dict[str, Any]:
        nan, frame = float("nan"), self.minimum.frame
        local = "mala" if self.job.workflow.chains.leaps == 1 else "hmc"
        quantities = {
            "free_energy": self.bar.estimate.scaled(self.kt, self.unit),
            "free_energy_flow": self.flow.estimate.scaled(self.kt, self.unit),
            "free_energy_harmonic": self.harmonic(),
            "energy_minimum": Estimate(self.minimum.energy, 0.0, self.unit, "optimised with the engine"),
            "copies": count(frame.copies),
            "acceptance": self.moved(),
            "acceptance_local": self.share(local, "accepted"),
            "left_basin": self.share(local, "left_basin"),
            "r_hat": Estimate(max(self.r_hat.values()), nan, "", "largest of energy, gyration radius, coordination"),
            "ess_per_sample": Estimate(self.flow.ess_per_sample, nan, "", f"of {self.flow.samples} draws of the flow"),
            "pareto_k": Estimate(max(self.flow.pareto_k, -1.0), nan, "", "Pareto smoothed importance sampling"),
            "overlap": Estimate(self.bar.overlap, nan, "", "of the work distributions of flow and chains"),
        }
        for key, series in self.series.items():
            unit = self.unit if key == "energy" else ""
            quantities[f"mean_{key}"] = estimate.mean_with_correlation(series, unit)
        parts = {
            f"r_hat_{key}": Estimate(value, nan, "", "rank-normalised split R-hat") for key, value in self.r_hat.items()
        }
        return {"point_group": frame.symmetry.label, "order": frame.symmetry.order} | as_dicts(quantities | parts)


def _difference(job: IsomerJob, isomers: Sequence[_Isomer], b: int, a: int) -> dict[str, Any]:
    """F_b − F_a in the unit of energy, by every way there is, with its error budget."""
    first, second = isomers[a], isomers[b]
    ways = {
        "bar": estimate.difference(second.bar.estimate, first.bar.estimate),
        "flow": estimate.difference(second.flow.estimate, first.flow.estimate),
    }
    mixture, audit = job.load(MIXTURE), job.load(AUDIT)
    if mixture is not None:
        labels, bias = mixture.tensors["labels"].numpy(), mixture.metadata["log_bias"]
        ways["mixture"] = estimate.label_populations(labels, len(isomers), bias).estimate(b, a)
    counts = np.zeros((0, 0), np.int64) if audit is None else audit.tensors["counts"].numpy()
    exact = Estimate(0.0, 0.0, "kT", "none: the engine itself was sampled")
    budget = ErrorBudget(
        statistical=estimate.error_of(ways["bar"]),
        surrogate=exact,
        basin=estimate.basin_term(counts, [each.bar.value for each in isomers], b, a),
        scf=Estimate(0.0, 0.0, "kT", "none: the engine answers to rounding"),
    ).scaled(first.kt, first.unit)
    scaled = {name: way.scaled(first.kt, first.unit) for name, way in ways.items()}
    copies = second.log_copies - first.log_copies
    main = scaled.pop("bar")
    per_copy = Estimate(
        main.value + first.kt * copies, main.stderr, main.unit, f"{main.method}; one labelled copy each"
    )
    harmonic = Estimate(second.harmonic().value - first.harmonic().value, 0.0, first.unit, "harmonic superposition")
    others = {"per_labelled_basin": per_copy, "harmonic": harmonic, **scaled}
    return main.as_dict() | as_dicts(others) | {"budget": budget.as_dict()}


def _logical_calls(job: IsomerJob) -> float:
    """Energies that the answer rests on; the same whether or not the run was interrupted."""
    drawn = job.store.read(DRAWS, "energy")
    calls = float(np.isfinite(drawn).sum() + job.store.read(DRAWS, "failed").sum())
    for stage in (MINIMA, MIXTURE, AUDIT):
        saved = job.load(stage)
        calls += float(saved.metadata["calls"]) if saved else 0.0
    for stage in (ADAPTATION, PRODUCTION):
        saved = job.load(stage)
        calls += sum(float(note["calls"]) for note in saved.metadata.values()) if saved else 0.0
    return calls


def _missed(job: IsomerJob, isomers: Sequence[_Isomer], differences: dict[str, dict[str, Any]]) -> list[str]:
    """Stated criteria that the run did not reach, as sentences."""
    stop, missed = job.workflow.stop, []
    for isomer in isomers:
        for key, value in isomer.r_hat.items():
            if stop.r_hat is not None and not value <= stop.r_hat:
                missed.append(f"stop.r_hat: {value:.4f} of {key}, isomer {isomer.name}; {stop.r_hat:g} was asked for")
        accepted = isomer.moved().value
        if stop.acceptance is not None and not accepted >= stop.acceptance:
            missed.append(
                f"stop.acceptance: {accepted:.3g} of the global moves, isomer {isomer.name}; {stop.acceptance:g} was "
                "asked for: train the flow for longer (flow.training.steps, adaptation.rounds)"
            )
        missed += [f"isomer {isomer.name}: {text}" for text in (*isomer.flow.warnings, *isomer.bar.warnings)]
    for name, found in differences.items():
        half = found["budget"]["half_width"]["value"]
        if stop.half_width is not None and not (half is not None and half <= stop.half_width):
            missed.append(f"stop.half_width: {half} {found['unit']} for {name}; {stop.half_width:g} was asked for")
        for way in ("flow", "mixture"):
            if stop.sigmas is None or way not in found or found["value"] is None:
                continue
            distance = as_estimate(found).distance(*(as_estimate(found[way]).value, as_estimate(found[way]).stderr))
            if not distance <= stop.sigmas:
                missed.append(
                    f"stop.sigmas: {name} by {way} is {distance:.1f} standard errors from BAR; {stop.sigmas:g} was "
                    "asked for"
                )
    return missed
