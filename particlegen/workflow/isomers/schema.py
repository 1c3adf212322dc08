"""`kind: isomers`: the sections of a workflow on isomers of a cluster."""

from typing import Literal

from pydantic import Field, model_validator

from particlegen.energy.kernel_training import KernelSettings
from particlegen.flow.coupling import CouplingSettings
from particlegen.isomers.cards import ClusterSettings
from particlegen.settings import Section
from particlegen.workflow.base import WorkflowBase

__all__ = [
    "AdaptationSettings",
    "ChainSettings",
    "CheckSettings",
    "CorrectionSettings",
    "EngineSettings",
    "IsomerStop",
    "IsomerWorkflow",
    "LearnedEnergy",
    "ProductionSettings",
    "SettledSettings",
    "SpectraSettings",
    "VibrationSettings",
]


class EngineSettings(Section):
    """Which engine answers energies.

    Args:
        engine: an engine card of `potentials/`, or the path of your own; null for the one that the system's card names.
        chunk: configurations per task of the executor; few for costly engines, many for fast ones.
        keep_labels: whether every answer is kept in the run's `labels.db` and never paid for again.
        budget: answers of the engine that the whole run may ask for; null for no limit. Where it ends a learned run
            early, the exit code is 4.
    """

    engine: str | None = Field(default=None, min_length=1)
    chunk: int = Field(default=16, ge=1)
    keep_labels: bool = False
    budget: int | None = Field(default=None, ge=1)


class ChainSettings(Section):
    """The Markov chains of each isomer.

    Args:
        count: chains of an isomer, all in one batch.
        leaps: leapfrog steps of a local move (Hamiltonian Monte Carlo); 1 is the Metropolis-adjusted
            Langevin algorithm.
        local_steps: local moves of a sweep, which ends with one global move by the flow.
        candidates: of a global move: the present state and `candidates` − 1 draws of the flow (i-SIR); 2 is close to
            an independence step.
        warm_up: local moves from the minimum, with the step tuned, before anything is kept.
    """

    count: int = Field(default=32, ge=2, le=10_000)
    leaps: int = Field(default=10, ge=1, le=1_000)
    local_steps: int = Field(default=4, ge=1, le=10_000)
    candidates: int = Field(default=4, ge=2, le=1_000)
    warm_up: int = Field(default=240, ge=24)


class LearnedEnergy(Section):
    """A learned potential for each isomer in the place of the engine, fitted on the fly; absent: the engine itself.

    Chains run on the potential. It starts from what the optimisation and the Hessian cost and from harmonic states, and
    in every round it gets labels where its own uncertainty is largest among the states of the chains, kept apart from
    each other. What it says of a label before it learns it is its honest error. When the rounds are over it is frozen.

    Args:
        potential: the model and its fit.
        first: labels of each isomer from the harmonic ensemble of its minimum, before any chain runs; none in a run
            that takes over the labels of another one (`start_from`).
        rounds: of the adaptation in which labels are asked for, the first ones; the others adapt flows alone.
        per_round: labels of each isomer in a round.
        trust: chains may not go where the predicted standard deviation of the energy is above this many kT.
        largest_failures: share of engine calls that may fail before the run ends.
        baseline: an engine card of `potentials/`, or the path of your own, of a cheap engine that the potentials are
            corrections to: they learn engine minus baseline, and chains run on the sum; null for none.
    """

    potential: KernelSettings = KernelSettings()
    first: int = Field(default=12, ge=2, le=10_000)
    rounds: int = Field(default=6, ge=1, le=1_000)
    per_round: int = Field(default=10, ge=1, le=10_000)
    trust: float = Field(default=1.0, gt=0.0)
    largest_failures: float = Field(default=0.3, gt=0.0, le=1.0)
    baseline: str | None = Field(default=None, min_length=1)


class CorrectionSettings(Section):
    """From the learned potential to the engine, in two ways that have to agree.

    Args:
        labels: independent states of each isomer's production that the engine answers, for one-sided reweighting.
        chains: delayed-acceptance chains of each isomer, whose proposals the engine decides.
        decisions: of each of these chains; 0 for none.
        sweeps: of the learned potential's chains between two decisions.
    """

    labels: int = Field(default=60, ge=8)
    chains: int = Field(default=8, ge=1)
    decisions: int = Field(default=8, ge=0)
    sweeps: int = Field(default=5, ge=1)


class SettledSettings(Section):
    """What the latest round of every isomer has to show for the adaptation to end before its last round; from the
    second round on, and null for no criterion.

    Args:
        r_hat: largest R-hat of energy, gyration radius and coordination over the chains of the round. A round is
            short: less than 1.05 is hard to show.
        acceptance: smallest share of global moves that moved a chain.
        surrogate_rmse: largest error of the learned potential on the labels of the round before it learned them, in
            the unit of energy. They are where it knows least, so its error on all states is smaller.
    """

    r_hat: float | None = Field(default=1.1, gt=1.0)
    acceptance: float | None = Field(default=0.2, gt=0.0, le=1.0)
    surrogate_rmse: float | None = Field(default=None, gt=0.0)


class AdaptationSettings(Section):
    """Rounds in which flows learn from the chains that they help to move; nothing of them enters an estimate.

    Args:
        rounds: of sampling and training, at most; the first has local moves alone.
        sweeps: of every chain in a round.
        kept: states per flow that a training sees, the latest ones.
        settled: when fewer rounds are enough; null for all of them.
    """

    rounds: int = Field(default=4, ge=1, le=1_000)
    sweeps: int = Field(default=50, ge=1)
    kept: int = Field(default=8_000, ge=64)
    settled: SettledSettings | None = None


class ProductionSettings(Section):
    """Sampling with everything frozen, from which alone estimates are made.

    Args:
        samples: states of the chains of each isomer, one per sweep and chain; rounded up to whole sweeps.
        draws: of each isomer's flow, for its importance weights.
        discard: sweeps before the first state is kept.
        quenches: states of each isomer that are optimised, to audit the basins.
        block: sweeps between two checkpoints.
    """

    samples: int = Field(default=8_000, ge=64)
    draws: int = Field(default=8_000, ge=64)
    discard: int = Field(default=20, ge=0)
    quenches: int = Field(default=50, ge=1)
    block: int = Field(default=50, ge=1)


class VibrationSettings(Section):
    """Trajectories at constant energy, from states of production, for the vibrational density of states.

    Args:
        states: trajectories of each isomer; in a learned run at most `correction.labels`.
        periods: length of a trajectory, in periods of the stiffest harmonic vibration of all isomers. Lines are
            resolved to about 1.4/`periods` of its frequency.
        steps: of velocity Verlet in such a period; lines of the stiffest vibrations are found too high by the share
            1.6/`steps`².
    """

    states: int = Field(default=32, ge=2, le=10_000)
    periods: int = Field(default=128, ge=8, le=100_000)
    steps: int = Field(default=24, ge=16, le=1_000)


class IsomerStop(Section):
    """What a finished run has to reach; below it the exit code is 4.

    Args:
        r_hat: largest rank-normalised split R-hat of energy, gyration radius and coordination in production.
        acceptance: smallest share of global moves that move a chain, of every isomer; null to accept any.
        surrogate_rmse: largest error of a learned potential on the labels of the correction, which it never saw, in the
            unit of energy; null to accept any.
        half_width: largest 95 % half-width of a difference of free energies, in the unit of energy; null to accept any.
        sigmas: largest distance of two estimates of one difference in their standard errors.
        pareto_k: largest Pareto k of the weights of each flow's draws, which have to be worth 10 draws too; null to
            accept any. The answer rests on BAR, which is judged by its overlap in any case; these weights carry
            `flow` alone.
        correction_pareto_k: the same of the weights of the correction from a learned potential to the engine, which
            the answer rests on; null to accept any.
    """

    r_hat: float | None = Field(default=1.01, gt=1.0)
    acceptance: float | None = Field(default=0.02, gt=0.0, le=1.0)
    surrogate_rmse: float | None = Field(default=None, gt=0.0)
    half_width: float | None = Field(default=None, gt=0.0)
    sigmas: float | None = Field(default=4.0, gt=0.0)
    pareto_k: float | None = Field(default=0.7, gt=0.0)
    correction_pareto_k: float | None = Field(default=0.7, gt=0.0)


class SpectraSettings(Section):
    """Optical absorption of every isomer by TDDFT, at temperature and at its minimum; absent: none. The run's own
    engine has to be PySCF. Excitations are no part of `energy.budget`.

    Args:
        configurations: of each isomer in the engine's ensemble, at most; a learned run has those that its correction
            labelled.
        states: excitations of each configuration; as many as it takes to cover the energies of interest.
        broadening: standard deviation of the normal density of each excitation, in eV.
    """

    configurations: int = Field(default=16, ge=2, le=10_000)
    states: int = Field(default=10, ge=1, le=1_000)
    broadening: float = Field(default=0.1, gt=0.0)


class CheckSettings(Section):
    """The difference as another engine would have it, by reweighting; absent: none. Its labels are no part of
    `energy.budget`, and what it says no part of the answer's error budget.

    Args:
        engine: an engine card of `potentials/`, or the path of your own.
        labels: configurations of each isomer that it answers; a learned run has those that its correction labelled.
    """

    engine: str = Field(min_length=1)
    labels: int = Field(default=24, ge=8)


class IsomerWorkflow(WorkflowBase):
    """Isomers of a cluster: minima → adaptation → production → correction → vibrations → estimates → report.

    Args:
        start_from: folder of a run whose minima, labels, flows and chains the adaptation begins with; a relative path
            starts from the folder of the workflow file. Its system and engine have to be the same.
    """

    kind: Literal["isomers"]
    start_from: str | None = Field(default=None, min_length=1)
    system: ClusterSettings
    energy: EngineSettings = EngineSettings()
    learned: LearnedEnergy | None = None
    correction: CorrectionSettings = CorrectionSettings()
    flow: CouplingSettings = CouplingSettings()
    chains: ChainSettings = ChainSettings()
    adaptation: AdaptationSettings = AdaptationSettings()
    production: ProductionSettings = ProductionSettings()
    vibrations: VibrationSettings | None = None
    stop: IsomerStop = IsomerStop()
    spectra: SpectraSettings | None = None
    check: CheckSettings | None = None

    @model_validator(mode="after")
    def _enough_chains(self) -> "IsomerWorkflow":
        steps = -(-self.production.samples // self.chains.count)
        if steps < 8:
            raise ValueError(
                f"production.samples: {self.production.samples} states of {self.chains.count} chains are {steps} each; "
                "at least 8 are needed to compare chains"
            )
        return self

    @model_validator(mode="after")
    def _enough_labels(self) -> "IsomerWorkflow":
        if self.learned is None:
            return self
        wanted = {
            "spectra.configurations": self.spectra.configurations if self.spectra else 0,
            "check.labels": self.check.labels if self.check else 0,
        }
        for key, number in wanted.items():
            if number > self.correction.labels:
                raise ValueError(
                    f"{key}: found {number}, but a learned run takes them from its correction.labels, which are "
                    f"{self.correction.labels}; lower the one or raise the other"
                )
        return self
