"""What production says of each isomer: its free energy, how well chains and flow did, averages."""

import math
from typing import Any

import numpy as np

from particlegen import estimate
from particlegen.estimate import Estimate, FreeEnergyResult, SurrogateCorrection
from particlegen.units import energy_unit, length_unit
from particlegen.workflow.isomers.job import CORRECTION, PRODUCTION, IsomerJob
from particlegen.workflow.isomers.observables import order_parameters
from particlegen.workflow.isomers.states import IsomerStates, LabelledStates, labelled_states
from particlegen.workflow.spent import as_dicts, count

__all__ = ["IsomerQuantities", "plus"]


class IsomerQuantities:
    """What is known of one isomer; free energies in kT.

    Args:
        job: of the run, with its production done.
        number: index of the isomer.
        states: what production stored of it.
    """

    def __init__(self, job: IsomerJob, number: int, states: IsomerStates):
        self.job, self.number = job, number
        self.name, self.minimum = job.built.isomers[number].name, job.minima[number]
        self.kt = 1.0 / job.built.state.beta
        self.unit = energy_unit(job.built.system.units)
        log_w_chain = -job.built.state.beta * states.energy - states.log_q
        chains, steps = states.energy.shape
        x, reference = states.positions.reshape(chains * steps, -1, 3), self.minimum.frame.reference.numpy()
        parameters = order_parameters(x, reference)
        self.labelled = labelled_states(job, number)
        self.series = {"energy": states.energy} | {key: x.reshape(chains, -1) for key, x in parameters.items()}
        self.flow = estimate.flow_free_energy(states.log_weight)
        self.bar = estimate.flow_bar(states.log_weight, log_w_chain)
        self.r_hat = {key: estimate.split_r_hat(series) for key, series in self.series.items()}
        self.correction, self.two_sided = self._correction()
        self.surrogate_errors = {} if self.labelled is None else _surrogate_errors(self.labelled, self.unit)
        notes = job.load(PRODUCTION)
        self.counts: dict[str, int] = dict(notes.metadata[self.name]) if notes else {}

    @property
    def exact(self) -> Estimate:
        """F of the engine in kT: BAR of flow and chains, and where they know a learned potential its correction."""
        main = self.bar.estimate
        if self.correction is None:
            return main
        return plus(main, self.correction.estimate)

    @property
    def log_copies(self) -> float:
        return float(np.log(self.minimum.frame.copies))

    def harmonic(self) -> Estimate:
        value = self.minimum.free_energy(self.job.built.state)
        return Estimate(value, 0.0, self.unit, "harmonic superposition about the minimum")

    def _zero_point(self) -> dict[str, Estimate]:
        """In metal units: masses and ħ have no value in reduced ones."""
        if self.job.built.system.units != "metal":
            return {}
        value = self.minimum.zero_point_energy(self.job.built.masses)
        return {"zero_point_energy": Estimate(value, 0.0, self.unit, "harmonic vibrations about the minimum")}

    def quantum_correction(self) -> float:
        """F_quantum − F_classical of the harmonic vibrations, in eV."""
        return self.minimum.quantum_correction(self.job.built.state, self.job.built.masses)

    def _correction(self) -> tuple[SurrogateCorrection | None, FreeEnergyResult | None]:
        """From the learned potential to the engine, by reweighting and by delayed acceptance, where there are such."""
        saved = self.job.load(CORRECTION)
        if self.labelled is None or saved is None:
            return None, None
        delta, works = -self.labelled.log_weight, saved.tensors.get(f"{self.name}.works")
        if works is None or works.shape[1] - works.shape[1] // 4 < 4:
            return estimate.one_sided(delta), None
        # The chains begin in the learned potential's ensemble: the first quarter of their decisions is left out.
        return estimate.one_sided(delta), estimate.two_sided(delta, works[:, works.shape[1] // 4 :].numpy())

    def _means(self) -> dict[str, Estimate]:
        """Averages of energy and order parameters in the engine's ensemble."""
        units = {"energy": self.unit, "gyration_radius": length_unit(self.job.built.system.units), "coordination": ""}
        means = {key: estimate.mean_with_correlation(series, units[key]) for key, series in self.series.items()}
        if self.labelled is not None:
            known = self.labelled
            parameters = order_parameters(known.positions, self.minimum.frame.reference.numpy())
            pairs = {"energy": (known.exact, known.surrogate)} | {key: (x, x) for key, x in parameters.items()}
            method = f"the weights of {len(known.log_weight)} labels of the engine"
            for key, (exact, surrogate) in pairs.items():
                shift, stderr = estimate.average_shift(known.log_weight, exact, surrogate)
                means[key] = plus(means[key], Estimate(float(shift), float(stderr), units[key], method))
        return {f"mean_{key}": mean for key, mean in means.items()}

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
            **self._zero_point(),
            "acceptance": self.moved(),
            "acceptance_local": self.share(local, "accepted"),
            "left_basin": self.share(local, "left_basin"),
            "r_hat": Estimate(max(self.r_hat.values()), nan, "", "largest of energy, gyration radius, coordination"),
            "ess_per_sample": Estimate(self.flow.ess_per_sample, nan, "", f"of {self.flow.samples} draws of the flow"),
            "pareto_k": Estimate(max(self.flow.pareto_k, -1.0), nan, "", "Pareto smoothed importance sampling"),
            "overlap": Estimate(self.bar.overlap, nan, "", "of the work distributions of flow and chains"),
        }
        quantities |= self.surrogate_errors | self._means()
        parts = {
            f"r_hat_{key}": Estimate(value, nan, "", "rank-normalised split R-hat") for key, value in self.r_hat.items()
        }
        return {"point_group": frame.symmetry.label, "order": frame.symmetry.order} | as_dicts(quantities | parts)


def _share(n: int, of: int, method: str) -> Estimate:
    """n of so many, with its binomial error."""
    share = n / of if of else float("nan")
    return Estimate(share, (share * (1.0 - share) / of) ** 0.5 if of else float("nan"), "", method)


def _surrogate_errors(labelled: LabelledStates, unit: str) -> dict[str, Estimate]:
    """What the learned potential is off by on states that it never saw."""
    gap = labelled.exact - labelled.surrogate
    n, nan = len(gap), float("nan")
    rmse, spread = float(np.sqrt(np.mean(gap**2))), float(gap.std(ddof=1))
    told = float(labelled.deviation.mean())
    method = f"on {n} states of production, fresh labels"
    return {
        "surrogate_rmse": Estimate(rmse, rmse / math.sqrt(2 * n), unit, method),
        "surrogate_spread": Estimate(spread, spread / math.sqrt(2 * n), unit, method),
        "surrogate_deviation": Estimate(told, nan, unit, "mean standard deviation that the potential tells there"),
    }


def plus(a: Estimate, shift: Estimate) -> Estimate:
    """An estimate with an independent correction added, errors in quadrature."""
    method = f"{a.method}; corrected by {shift.method}"
    return Estimate(a.value + shift.value, math.hypot(a.stderr, shift.stderr), a.unit, method)
