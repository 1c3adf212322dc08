"""Rounds of active learning: ask the target, measure the error on what is new, train on it, hand the potential out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from particlegen.energy import (
    Committee,
    EnergyProvider,
    KernelPotential,
    KernelSettings,
    LabelSet,
    LearnedErrors,
    LearnedPotential,
    LearnedSettings,
    LinearEnergy,
    UncertainPotential,
    fit_kernel,
    learned_errors,
    train_potential,
)
from particlegen.energy.failures import check_failures
from particlegen.geometry import Positions
from particlegen.learning.selection import LabelRequest, requests_for, select, sorted_inverse_distances, stacked
from particlegen.learning.settings import LabelSettings
from particlegen.settings import InputError, RunError
from particlegen.streams import stream_seed

__all__ = ["Learner", "LearningRound", "PotentialChoice"]

PotentialChoice = Annotated[KernelSettings | LearnedSettings, Field(discriminator="kind")]
"""A section that says which kind of potential is learned."""
_Potential = KernelPotential | LearnedPotential | Committee
_PARTS = ("positions", "energies", "forces")


@dataclass(frozen=True)
class LearningRound:
    """What a round of labels brought.

    Args:
        asked: calls of the target.
        failed: those without a label.
        errors: of the potential of each isomer on its new labels, before it has seen them; of those that have a
            potential and new labels.
    """

    asked: int
    failed: int
    errors: dict[str, LearnedErrors]


class Learner:
    """Labels of isomers and the potentials learned from them, one per isomer.

    A round is `request`, `label`, `retrain`. The same target, candidates, settings and seed give the same potentials.
    With a baseline the potentials are trained on target minus baseline, and `energy` is the sum of both.

    Args:
        target: what the potentials stand for; usually `Cached(Counted(engine, ledger, stage), store)`.
        references: `(N, dim)` the structure of each isomer, by its name.
        labels: how many, and how many may fail.
        learned: kind of potential and its training.
        seed: of the training of networks.
        baseline: a cheap engine that the potentials are corrections to; none by default.
        reserved: calls of the budget that are made elsewhere.

    Raises:
        InputError: no isomers, a reference of other particles, or a baseline of another system.
    """

    def __init__(
        self,
        target: EnergyProvider,
        references: Mapping[str, Float[Tensor, "particle dim"]],
        labels: LabelSettings | None = None,
        learned: KernelSettings | LearnedSettings | None = None,
        seed: int = 0,
        baseline: EnergyProvider | None = None,
        reserved: int = 0,
    ):
        shape = (target.system.n_particles, target.system.dim)
        wrong = [name for name, reference in references.items() if tuple(reference.shape) != shape]
        if wrong or not references:
            raise InputError(
                f"isomers to learn: {', '.join(wrong) or 'none given'}; expected structures of shape {shape} of system "
                f"{target.system.name!r}"
            )
        if baseline is not None and baseline.system != target.system:
            raise InputError(f"baseline {baseline.name!r} is for another system than {target.name!r}; take one for it")
        self.target, self.references, self.baseline = target, dict(references), baseline
        self.settings, self.learned = labels or LabelSettings(), learned or KernelSettings()
        self.asked = self.failed = self.baseline_calls = 0
        self._reserved = reserved
        self._seed, self._first_failure = seed, ""
        self._labels: dict[str, LabelSet] = {}
        # What the potentials are trained on: the labels, less the baseline.
        self._lessons: dict[str, LabelSet] = {}
        self._potentials: dict[str, _Potential] = {}
        self._descriptor = sorted_inverse_distances(target.system)

    @property
    def remaining(self) -> int | float:
        """Calls of the target that the budget still allows; infinite without one."""
        budget = self.settings.budget
        return math.inf if budget is None else max(0, budget - self._reserved - self.asked)

    def labels(self, isomer: str) -> LabelSet | None:
        """What an isomer's potential is learned from, in the order of arrival; None before its first label."""
        return self._labels.get(self._known(isomer))

    def potential(self, isomer: str) -> _Potential:
        """The frozen potential of an isomer, as it was last trained; with a baseline the correction to it alone.

        Raises:
            RunError: it was not trained yet.
        """
        if self._known(isomer) not in self._potentials:
            raise RunError(f"isomer {isomer!r} has no potential yet; label some configurations and retrain")
        return self._potentials[isomer]

    def energy(self, isomer: str) -> EnergyProvider:
        """What stands for the target about an isomer: its potential, added to the baseline where there is one.

        Raises:
            RunError: as `potential`.
        """
        potential = self.potential(isomer)
        return potential if self.baseline is None else LinearEnergy((1.0, self.baseline), (1.0, potential))

    def add(self, isomer: str, labels: LabelSet) -> None:
        """Learn from labels of the target that were paid for elsewhere; they count neither as asked nor as failed."""
        self._labels[self._known(isomer)] = _joined(self._labels.get(isomer), labels)
        lessons = self._apart(labels)
        if lessons is not None:
            self._lessons[isomer] = _joined(self._lessons.get(isomer), lessons)

    def request(
        self, isomer: str, candidates: Positions, weights: Float[Tensor, " batch"] | None = None
    ) -> list[LabelRequest]:
        """Which candidates to label next, sorted by id: a first batch, or one of a round, within the budget.

        Without a potential that knows its uncertainty, all are equally uncertain.

        Args:
            isomer: whose they are.
            candidates: such as states of chains, within its basin.
            weights: of each in the ensemble of interest; default equal.
        """
        held = self.labels(isomer)
        count = int(min(self.remaining, self.settings.first if held is None else self.settings.per_round))
        potential = self._potentials.get(isomer)
        uncertainty = torch.ones(len(candidates), dtype=torch.float64)
        if isinstance(potential, UncertainPotential):
            uncertainty = potential.deviation(candidates).cpu()
        weights = torch.ones_like(uncertainty) if weights is None else weights
        known = None if held is None else held.positions
        chosen = select(candidates.cpu(), uncertainty, weights.cpu(), count, self._descriptor, known)
        return requests_for(self.target.system, isomer, candidates.cpu()[chosen])

    def label(self, requests: Sequence[LabelRequest]) -> LearningRound:
        """Ask the target for energies and forces, in the order of the ids; what fails is counted and kept out.

        The errors told are those of the potentials as they are, which have not seen these labels. With a baseline
        their spreads are those of target minus baseline.

        Raises:
            ValueError: more requests than the budget still allows, or of an unknown isomer.
            RunError: the target gives no forces, or too large a share of all calls failed; labels that were paid for
                are kept.
        """
        if len(requests) > self.remaining:
            raise ValueError(f"{len(requests)} labels are asked for, the budget still allows {self.remaining}")
        requests = sorted(requests, key=lambda request: (request.id, self._known(request.isomer)))
        if not requests:
            return LearningRound(0, 0, {})
        x = stacked(requests)
        found = self.target.evaluate(x.to(self.target.device), ("energy", "forces"))
        if found.forces is None:
            raise RunError(f"{self.target.name} gives no forces; active learning needs them")
        energy, forces = found.energy.detach().cpu(), found.forces.detach().cpu()
        good = found.ok.cpu() & energy.isfinite() & forces.isfinite().all(2).all(1)
        failed = int((~good).sum())
        self.asked, self.failed = self.asked + len(requests), self.failed + failed
        if failed and not self._first_failure:
            self._first_failure = found.reasons[int((~good).nonzero()[0])] or "the energy is not finite"
        errors = {}
        for isomer in self.references:
            mine = good & torch.tensor([request.isomer == isomer for request in requests])
            if mine.any():
                fresh = LabelSet(self.target.system, x[mine], energy[mine], forces[mine])
                lessons = self._apart(fresh)
                if lessons is not None:
                    if isomer in self._potentials:
                        errors[isomer] = learned_errors(self._potentials[isomer], lessons)
                    self._lessons[isomer] = _joined(self._lessons.get(isomer), lessons)
                self._labels[isomer] = _joined(self._labels.get(isomer), fresh)
        check_failures(self.target.name, self.asked, self.failed, self._first_failure, self.settings.most_failures)
        return LearningRound(len(requests), failed, errors)

    def retrain(self) -> dict[str, LearnedErrors | None]:
        """Train the potential of every isomer on all its labels, less the baseline, going on from what it was.

        Returns:
            The errors that training itself tells, see `fit_kernel` and `train_potential`.

        Raises:
            InputError: an isomer has too few labels.
            RunError: training failed, or the baseline has no energy for any label.
        """
        told = {}
        without = sorted(set(self._labels) - set(self._lessons))
        if without and self.baseline is not None:
            raise RunError(f"{self.baseline.name} fails on every label of {', '.join(without)}; take another baseline")
        for number, (isomer, labels) in enumerate(sorted(self._lessons.items())):
            start = self._potentials.get(isomer)
            if isinstance(self.learned, KernelSettings):
                before = start if isinstance(start, KernelPotential) else None
                self._potentials[isomer], told[isomer] = fit_kernel(
                    labels, self.references[isomer], self.learned, before
                )
            else:
                before = None if isinstance(start, KernelPotential) else start
                seed = stream_seed(self._seed, "learning", number, len(labels))
                self._potentials[isomer], told[isomer] = train_potential(labels, self.learned, seed, before)
        return told

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All but the potentials: tensors `ISOMER.labels.{positions,energies,forces}`, JSON-serialisable numbers."""
        tensors = {
            f"{isomer}.labels.{part}": getattr(held, part) for isomer, held in self._labels.items() for part in _PARTS
        }
        counts = {"asked": self.asked, "failed": self.failed, "first_failure": self._first_failure}
        return tensors, {**counts, "isomers": list(self._labels)}

    def restore(
        self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], potentials: Mapping[str, _Potential]
    ) -> None:
        """Go on from what `state` returned, with the potentials as they were; other tensors do not matter."""
        self.asked, self.failed = metadata["asked"], metadata["failed"]
        self._first_failure = metadata["first_failure"]
        self._labels, self._lessons = {}, {}
        for isomer in metadata["isomers"]:
            self.add(isomer, LabelSet(self.target.system, *(tensors[f"{isomer}.labels.{part}"] for part in _PARTS)))
        self._potentials = {self._known(isomer): potential for isomer, potential in potentials.items()}

    def _apart(self, labels: LabelSet) -> LabelSet | None:
        """Labels less the baseline, without those where it fails; None where it fails on all.

        Where the baseline fails, so does the sum, and no sampler goes there.
        """
        if self.baseline is None:
            return labels
        found = self.baseline.evaluate(labels.positions.to(self.baseline.device), ("energy", "forces"))
        self.baseline_calls += len(labels)
        if found.forces is None:
            raise RunError(f"{self.baseline.name} gives no forces; a baseline needs them")
        energy, forces = (part.detach().to("cpu", torch.float64) for part in (found.energy, found.forces))
        good = found.ok.cpu() & energy.isfinite() & forces.isfinite().all(2).all(1)
        if not good.any():
            return None
        x = labels.positions[good]
        return LabelSet(labels.system, x, (labels.energies - energy)[good], (labels.forces - forces)[good])

    def _known(self, isomer: str) -> str:
        if isomer not in self.references:
            raise ValueError(f"unknown isomer {isomer!r}: expected one of {', '.join(self.references)}")
        return isomer


def _joined(held: LabelSet | None, fresh: LabelSet) -> LabelSet:
    """Labels that were there, then new ones."""
    if held is None:
        return fresh
    parts = (torch.cat([getattr(held, part), getattr(fresh, part)]) for part in _PARTS)
    return LabelSet(held.system, *parts)
