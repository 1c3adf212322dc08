"""Training of learned potentials: labels in, a potential or a committee with its held-out errors out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from particlegen.energy.label_sets import LabelSet
from particlegen.energy.learned import (
    Committee,
    LearnedModel,
    LearnedPotential,
    NetworkEnergy,
    packed,
    together,
    unpacked,
)
from particlegen.energy.provider import EnergyProvider
from particlegen.networks import PotentialSettings, build_potential_network
from particlegen.settings import InputError, Section
from particlegen.streams import stream_seed, torch_stream
from particlegen.training import Trainer, TrainingProgress, TrainingSettings

__all__ = ["LearnedErrors", "LearnedSettings", "PotentialTraining", "learned_errors", "train_potential"]

_STAGE = "learned"


def _training() -> TrainingSettings:
    return TrainingSettings(
        batch=16,
        steps=3000,
        learning_rate=1e-2,
        warm_up=100,
        ema=0.99,
        validation=16,
        validate_every=100,
        optimiser="adam",
    )


class LearnedSettings(Section):
    """A learned potential and its training.

    Attributes:
        network: kind and sizes.
        committee: members, each with its own first weights, batches and validation labels.
        bootstrap: whether each member draws its labels with replacement; it validates on those that it did not draw.
        energy_weight: of the squared error of the energy per √N, beside that of a force component; 0 for forces alone.
        force_weight: of the squared error of a force component; 0 for energies alone.
        held_out: share of labels that no member sees, picked by the hash of the geometry; errors are measured on them.
        training: the loop; `compile` and `precision` are not for potentials.
    """

    kind: Literal["network"] = "network"
    network: PotentialSettings = PotentialSettings()
    committee: Annotated[int, Field(ge=1, le=64)] = 4
    bootstrap: bool = False
    energy_weight: Annotated[float, Field(ge=0)] = 1.0
    force_weight: Annotated[float, Field(ge=0)] = 1.0
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    training: TrainingSettings = Field(default_factory=_training)

    @field_validator("training")
    @classmethod
    def _double(cls, training: TrainingSettings) -> TrainingSettings:
        if training.compile or training.precision != "float32":
            raise ValueError("potentials are trained in float64 by second derivatives; leave out compile and precision")
        return training


@dataclass(frozen=True)
class LearnedErrors:
    """Errors of a provider on labels, in units of energy and force; NaN where there is nothing to compare.

    Args:
        labels: how many.
        energy_rmse, energy_mae: of the energy of a whole configuration.
        energy_spread: standard deviation of the labels' energies, what a constant would be wrong by.
        force_rmse, force_mae: of a component.
        force_spread: root mean square of the labels' components.
    """

    labels: int
    energy_rmse: float
    energy_mae: float
    energy_spread: float
    force_rmse: float
    force_mae: float
    force_spread: float


def learned_errors(provider: EnergyProvider, labels: LabelSet) -> LearnedErrors:
    """How far a provider is from labels.

    Raises:
        InputError: it fails on one of them.
    """
    found = provider.evaluate(labels.positions, ("energy", "forces"))
    if not found.ok.all() or found.forces is None:
        raise InputError(f"{provider.name} fails on labels: {next(text for text in found.reasons if text)}")
    energy = (found.energy.cpu() - labels.energies).detach()
    known = labels.known_forces
    force, truth = (found.forces.detach().cpu() - labels.forces)[known], labels.forces[known]
    return LearnedErrors(
        labels=len(labels),
        energy_rmse=float(energy.square().mean().sqrt()),
        energy_mae=float(energy.abs().mean()),
        energy_spread=float(labels.energies.std(correction=0)),
        force_rmse=float(force.square().mean().sqrt()),
        force_mae=float(force.abs().mean()),
        force_spread=float(truth.square().mean().sqrt()),
    )


class _Loss:
    """Squared errors of energies and forces in units of the model's scale, on rows of positions, forces, energy."""

    def __init__(self, terms: NetworkEnergy, settings: LearnedSettings):
        self.terms, self.settings = terms, settings

    def __call__(self, network: nn.Module, batch: Tensor, generator: torch.Generator) -> Tensor:
        n, dim = self.terms.system.n_particles, self.terms.system.dim
        device = next(network.parameters()).device
        flat, flat_forces, energies = batch.to(device).split((n * dim, n * dim, 1), 1)
        x, forces = flat.unflatten(1, (n, dim)), flat_forces.unflatten(1, (n, dim))
        slopes = self.settings.force_weight > 0
        energy, found, _ = self.terms(network, x, slopes, keep_graph=torch.is_grad_enabled())
        scale = self.terms.model.scale
        loss = self.settings.energy_weight * ((energy - energies[:, 0]) / scale).square().mean() / n
        if found is None:
            return loss
        known = forces.isfinite()
        errors = torch.where(known, (found - forces.nan_to_num()) / scale, 0.0)
        return loss + self.settings.force_weight * errors.square().sum() / known.sum().clamp_min(1)


class PotentialTraining:
    """Trains the members of a committee one after the other; can be stored and restored at any yield.

    The same labels, settings and seed give the same potential.

    Args:
        labels: what to learn; see `LearnedSettings.held_out`.
        settings: see there.
        seed: of everything random.
        start: trained potential to go on from, of the same network and species and with as many members. Its model is
            kept, its optimisers begin anew.
        device: where the networks are.

    Raises:
        InputError: fewer than two labels to train on, no forces where only these are asked for, or a `start` of
            another network or number of members.
    """

    def __init__(
        self,
        labels: LabelSet,
        settings: LearnedSettings | None = None,
        seed: int = 0,
        start: LearnedPotential | Committee | None = None,
        device: torch.device | str = "cpu",
    ):
        self.settings, self.device = settings or LearnedSettings(), torch.device(device)
        aside = labels.held_out(self.settings.held_out)
        self.held = labels.select(aside) if aside.any() else None
        if int((~aside).sum()) < 2:
            raise InputError(f"learned potential: {int((~aside).sum())} labels to train on; it takes two or more")
        self.labels = labels.select(~aside)
        if not self.settings.energy_weight and not self.labels.known_forces.any():
            raise InputError("learned potential: no label has forces, and 'energy_weight' is 0; nothing can be learned")
        self.model = _fitted_model(self.labels, self.settings.network) if start is None else start.model
        self._terms = NetworkEnergy(labels.system, self.model)
        given = () if start is None else start.members
        if start is not None and (start.model.network, len(given)) != (self.settings.network, self.settings.committee):
            raise InputError(
                f"learned potential: 'start' has {len(given)} members of network {start.model.network}, the settings "
                f"ask for {self.settings.committee} of {self.settings.network}; set them alike"
            )
        self.members = [self._member(k, stream_seed(seed, _STAGE, k), given) for k in range(self.settings.committee)]

    def _member(self, number: int, seed: int, given: Sequence[LearnedPotential]) -> Trainer:
        network = build_potential_network(self.settings.network, len(self.model.species), seed)
        if given:
            network.load_state_dict(given[number].network.state_dict())
        rows, validation = _rows(self.labels), None
        if self.settings.bootstrap:
            drawn = torch.randint(len(rows), (len(rows),), generator=torch_stream(seed, "learned.bootstrap"))
            left = torch.ones(len(rows), dtype=torch.bool).index_fill(0, drawn, False)
            rows, validation = rows[drawn], rows[left if left.any() else ~left]
        loss = _Loss(self._terms, self.settings)
        return Trainer(network.to(self.device), loss, self.settings.training, seed, rows, validation)

    def run(self) -> Iterator[tuple[int, TrainingProgress]]:
        """Train what is not yet trained; yields the number of the member and its progress.

        Raises:
            RunError: the loss of a member stays non-finite.
        """
        for number, member in enumerate(self.members):
            for progress in member.run():
                yield number, progress

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that `restore` needs: named tensors, and JSON-serialisable numbers."""
        states = [member.state() for member in self.members]
        return packed(tensors for tensors, _ in states), {"members": [metadata for _, metadata in states]}

    def restore(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            RuntimeError, ValueError: it is the state of other networks or of another number of members.
        """
        for k, (member, own) in enumerate(zip(self.members, metadata["members"], strict=True)):
            member.restore(unpacked(tensors, k), own)

    def potential(self) -> LearnedPotential | Committee:
        """The averaged weights of every member at their lowest validation loss so far, as an energy provider."""
        members = []
        for member in self.members:
            network = build_potential_network(self.settings.network, len(self.model.species))
            network.load_state_dict(member.ema_weights())
            members.append(LearnedPotential(self.labels.system, self.model, network, self.device))
        return together(members)

    def errors(self) -> LearnedErrors | None:
        """Errors of `potential` on the labels held out; None where none was."""
        return None if self.held is None else learned_errors(self.potential(), self.held)


def train_potential(
    labels: LabelSet,
    settings: LearnedSettings | None = None,
    seed: int = 0,
    start: LearnedPotential | Committee | None = None,
    device: torch.device | str = "cpu",
) -> tuple[LearnedPotential | Committee, LearnedErrors | None]:
    """Train to the end: the potential, and its errors on the labels held out; see `PotentialTraining`."""
    training = PotentialTraining(labels, settings, seed, start, device)
    for _ in training.run():
        pass
    return training.potential(), training.errors()


def _rows(labels: LabelSet) -> Tensor:
    return torch.cat([labels.positions.flatten(1), labels.forces.flatten(1), labels.energies[:, None]], 1)


def _fitted_model(labels: LabelSet, network: PotentialSettings) -> LearnedModel:
    """One reference energy for all species, since one composition tells no more: the mean per particle. The scale is
    the root mean square of force components (energies per √N where there are none) over one unit of length."""
    system, forces = labels.system, labels.forces[labels.known_forces]
    n = system.n_particles
    spread = forces.square().mean().sqrt() if len(forces) else labels.energies.std() / math.sqrt(n)
    return LearnedModel(
        network=network,
        units=system.units,
        species=system.species_names,
        reference_energies=(float(labels.energies.mean()) / n,) * len(system.species_names),
        scale=float(spread) or 1.0,
    )
