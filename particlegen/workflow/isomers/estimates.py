"""Estimates stage: from stored arrays to `results.json`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from particlegen import estimate
from particlegen.estimate import ErrorBudget, Estimate, FreeEnergyResult, SurrogateCorrection
from particlegen.events import Event
from particlegen.units import energy_unit
from particlegen.workflow.isomers.job import ADAPTATION, CORRECTION, MINIMA, PRODUCTION, IsomerJob
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
        "energy_calls": _calls(job),
        "spent": spent(job),
        "observables": observable_curves(job),
    }
    results["rounds"] = {name: [_finite(entry) for entry in job.adapted.metadata[name]["history"]] for name in names}
    if job.workflow.learned is not None:
        results["learned"] = _learned(job)
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
        self.correction, self.two_sided = _correction(job, self.name)
        notes = job.load(PRODUCTION)
        self.counts: dict[str, int] = dict(notes.metadata[self.name]) if notes else {}

    @property
    def exact(self) -> Estimate:
        """F of the engine in kT: BAR of flow and chains, and where they know a learned potential its correction."""
        main = self.bar.estimate
        if self.correction is None:
            return main
        return _plus(main, self.correction.estimate)

    @property
    def log_copies(self) -> float:
        return float(np.log(self.minimum.frame.copies))

    def harmonic(self) -> Estimate:
        value = self.minimum.free_energy(self.job.built.state)
        return Estimate(value, 0.0, self.unit, "harmonic superposition about the minimum")

    def share(self, part: str, what: str) -> Estimate:
        tried = self.counts.get(f"{part}.proposed", 0)
        return _share(self.counts.get(f"{part}.{what}", 0), tried, f"share of {tried} proposals")

    def moved(self) -> Estimate:
        """Share of global moves that move a chain; each has `candidates` − 1 draws to choose from."""
        moves = self.counts.get("isir.proposed", 0) // (self.job.workflow.chains.candidates - 1)
        said = f"share of {moves} global moves (i-SIR) that move the chain"
        return _share(self.counts.get("isir.accepted", 0), moves, said)

    def as_dict(self) -> dict[str, Any]:
        nan, frame = float("nan"), self.minimum.frame
        local = "mala" if self.job.workflow.chains.leaps == 1 else "hmc"
        quantities = {
            "free_energy": self.exact.scaled(self.kt, self.unit),
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
        quantities |= _surrogate_errors(self.job, self.name)
        for key, series in self.series.items():
            unit = self.unit if key == "energy" else ""
            quantities[f"mean_{key}"] = estimate.mean_with_correlation(series, unit)
        parts = {
            f"r_hat_{key}": Estimate(value, nan, "", "rank-normalised split R-hat") for key, value in self.r_hat.items()
        }
        return {"point_group": frame.symmetry.label, "order": frame.symmetry.order} | as_dicts(quantities | parts)


def _share(n: int, of: int, method: str) -> Estimate:
    """n of so many, with its binomial error."""
    share = n / of if of else float("nan")
    return Estimate(share, (share * (1.0 - share) / of) ** 0.5 if of else float("nan"), "", method)


def _correction(job: IsomerJob, name: str) -> tuple[SurrogateCorrection | None, FreeEnergyResult | None]:
    """From the learned potential to the engine, by reweighting and by delayed acceptance, where there are such."""
    saved = job.load(CORRECTION)
    if saved is None:
        return None, None
    delta = job.built.state.beta * (saved.tensors[f"{name}.exact"] - saved.tensors[f"{name}.surrogate"]).numpy()
    works = saved.tensors.get(f"{name}.works")
    if works is None or works.shape[1] - works.shape[1] // 4 < 4:
        return estimate.one_sided(delta), None
    # The chains begin in the learned potential's ensemble: the first quarter of their decisions is left out.
    return estimate.one_sided(delta), estimate.two_sided(delta, works[:, works.shape[1] // 4 :].numpy())


def _surrogate_errors(job: IsomerJob, name: str) -> dict[str, Estimate]:
    """What the learned potential is off by on states that it never saw."""
    saved = job.load(CORRECTION)
    if saved is None:
        return {}
    unit = energy_unit(job.built.system.units)
    gap = (saved.tensors[f"{name}.exact"] - saved.tensors[f"{name}.surrogate"]).numpy()
    n, nan = len(gap), float("nan")
    rmse = float(np.sqrt(np.mean(gap**2)))
    told = float(saved.tensors[f"{name}.deviation"].mean())
    method = f"on {n} states of production, fresh labels"
    return {
        "surrogate_rmse": Estimate(rmse, rmse / math.sqrt(2 * n), unit, method),
        "surrogate_spread": Estimate(float(gap.std(ddof=1)), float(gap.std(ddof=1)) / math.sqrt(2 * n), unit, method),
        "surrogate_deviation": Estimate(told, nan, unit, "mean standard deviation that the potential tells there"),
    }


def _difference(job: IsomerJob, isomers: Sequence[_Isomer], b: int, a: int) -> dict[str, Any]:
    """F_b − F_a in the unit of energy, by every way there is, with its error budget."""
    first, second = isomers[a], isomers[b]
    ways = {"flow": estimate.difference(second.flow.estimate, first.flow.estimate)}
    mixture, audit = job.load(MIXTURE), job.load(AUDIT)
    if mixture is not None:
        labels, bias = mixture.tensors["labels"].numpy(), mixture.metadata["log_bias"]
        ways["mixture"] = estimate.label_populations(labels, len(isomers), bias).estimate(b, a)
    uncorrected = estimate.difference(second.bar.estimate, first.bar.estimate)
    shift = Estimate(0.0, 0.0, "kT", "none: the engine itself was sampled")
    corrections = [each.correction.estimate for each in (second, first) if each.correction is not None]
    if len(corrections) == 2:
        shift = estimate.difference(*corrections)
        # The other ways know the learned potential as well, so the same correction applies.
        ways = {name: _plus(way, shift) for name, way in ways.items()} | {"uncorrected": uncorrected}
        if first.two_sided is not None and second.two_sided is not None:
            two = estimate.difference(second.two_sided.estimate, first.two_sided.estimate)
            ways["delayed_acceptance"] = _plus(uncorrected, two)
    counts = np.zeros((0, 0), np.int64) if audit is None else audit.tensors["counts"].numpy()
    budget = ErrorBudget(
        statistical=estimate.error_of(uncorrected),
        surrogate=estimate.error_of(shift),
        basin=estimate.basin_term(counts, [each.bar.value for each in isomers], b, a),
        scf=_scf(job, (first.name, second.name)),
    ).scaled(first.kt, first.unit)
    main = _plus(uncorrected, shift) if corrections else uncorrected
    scaled = {name: way.scaled(first.kt, first.unit) for name, way in ways.items()}
    main, copies = main.scaled(first.kt, first.unit), second.log_copies - first.log_copies
    per_copy = Estimate(
        main.value + first.kt * copies, main.stderr, main.unit, f"{main.method}; one labelled copy each"
    )
    harmonic = Estimate(second.harmonic().value - first.harmonic().value, 0.0, first.unit, "harmonic superposition")
    others = {"per_labelled_basin": per_copy, "harmonic": harmonic, **scaled}
    return main.as_dict() | as_dicts(others) | {"budget": budget.as_dict()}


def _plus(a: Estimate, shift: Estimate) -> Estimate:
    method = f"{a.method}; corrected by {shift.method}"
    return Estimate(a.value + shift.value, math.hypot(a.stderr, shift.stderr), a.unit, method)


def _scf(job: IsomerJob, names: Sequence[str]) -> Estimate:
    """Noise of the engine's energies, in kT: σ over orientations of the grid as an error of each label and, to second
    order, as a shift of the exponential average."""
    saved, beta = job.load(CORRECTION), job.built.state.beta
    scatter = [saved.metadata[name].get("scatter") for name in names] if saved else []
    if not scatter or None in scatter:
        return Estimate(0.0, 0.0, "kT", "none: the engine's energies are smooth to rounding")
    sigmas = [beta * float(value) for value in scatter]
    n = job.workflow.correction.labels
    size = math.sqrt(sum(sigma**2 / n + (sigma**2 / 2) ** 2 for sigma in sigmas))
    return Estimate(size, float("nan"), "kT", "scatter of the energy over orientations of the integration grid")


def _calls(job: IsomerJob) -> dict[str, Any]:
    """Energies that the answer rests on; the same whether or not the run was interrupted."""
    drawn = job.store.read(DRAWS, "energy")
    sampled = float(np.isfinite(drawn).sum() + job.store.read(DRAWS, "failed").sum())
    for stage in (MIXTURE, AUDIT):
        saved = job.load(stage)
        sampled += float(saved.metadata["calls"]) if saved else 0.0
    for stage in (ADAPTATION, PRODUCTION, CORRECTION):
        saved = job.load(stage)
        sampled += sum(float(note["calls"]) for note in saved.metadata.values()) if saved else 0.0
    minima = job.load(MINIMA)
    labels = float(minima.metadata["calls"]) if minima else 0.0
    if job.workflow.learned is None:
        return as_dicts({job.provider.name: count(labels + sampled, "calls")})
    for stage in (ADAPTATION, CORRECTION):
        saved = job.load(stage)
        labels += sum(float(note["labels"]) for note in saved.metadata.values()) if saved else 0.0
    found = {job.provider.name: labels, "learned": sampled}
    if job.baseline is not None:
        # Once with every call of the learned potential, and once for each label in every round that learns.
        found[job.baseline.name] = sampled + sum(note["baseline_calls"] for note in job.adapted.metadata.values())
    return as_dicts({name: count(calls, "calls") for name, calls in found.items()})


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN: it becomes null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry.items()
    }


def _learned(job: IsomerJob) -> dict[str, Any]:
    """What the report shows of the learning: errors on new labels by round, labels by stage, the parity plot."""
    saved, minima = job.load(CORRECTION), job.load(MINIMA)
    if saved is None or minima is None:
        return {}
    names = [isomer.name for isomer in job.built.isomers]
    adapted = job.adapted.metadata
    return {
        "rounds": {name: adapted[name]["rounds"] for name in names},
        "left_out_rmse": {name: adapted[name]["left_out_rmse"] for name in names},
        "labels": {
            "minima": minima.metadata["calls"],
            "adaptation": sum(adapted[name]["labels"] for name in names),
            "correction": sum(saved.metadata[name]["labels"] for name in names),
        },
        "delayed_acceptance": {name: saved.metadata[name].get("delayed") for name in names},
        "parity": {
            name: {key: saved.tensors[f"{name}.{key}"].tolist() for key in ("exact", "surrogate", "deviation")}
            for name in names
        },
    }


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
        if isomer.correction is not None:
            missed += [f"isomer {isomer.name}: correction: {text}" for text in isomer.correction.average.warnings]
            error = _surrogate_errors(job, isomer.name)["surrogate_rmse"].value
            if stop.surrogate_rmse is not None and not error <= stop.surrogate_rmse:
                missed.append(
                    f"stop.surrogate_rmse: {error:.4g}, isomer {isomer.name}; {stop.surrogate_rmse:g} was asked for: "
                    "more learned.rounds or learned.per_round"
                )
            if job.adapted.metadata[isomer.name].get("budget_ended"):
                missed.append(
                    f"energy.budget: it ended the learning of isomer {isomer.name} before its rounds were over"
                )
        missed += [f"isomer {isomer.name}: {text}" for text in (*isomer.flow.warnings, *isomer.bar.warnings)]
    for name, found in differences.items():
        half = found["budget"]["half_width"]["value"]
        if stop.half_width is not None and not (half is not None and half <= stop.half_width):
            missed.append(f"stop.half_width: {half} {found['unit']} for {name}; {stop.half_width:g} was asked for")
        for way in ("flow", "mixture", "delayed_acceptance"):
            if stop.sigmas is None or way not in found or found["value"] is None:
                continue
            other = as_estimate(found[way])
            distance = as_estimate(found).distance(other.value, other.stderr)
            if not distance <= stop.sigmas:
                missed.append(
                    f"stop.sigmas: {name} by {way} is {distance:.1f} standard errors from BAR; {stop.sigmas:g} was "
                    "asked for"
                )
    return missed
