"""Training stage: the network learns the interpolant, or comes with its weights from a card."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from particlegen import catalogue
from particlegen.catalogue import Card
from particlegen.energy import BuiltSystem
from particlegen.events import Event
from particlegen.interpolant import InterpolantLoss
from particlegen.io.checkpoint import load_weights, save_weights
from particlegen.io.trained_card import load_trained_card
from particlegen.networks import HollowNetwork, NetworkSettings, StandardNetwork, build_network
from particlegen.settings import InputError, Section
from particlegen.training import Trainer
from particlegen.validation import near_matches, parse_section
from particlegen.workflow.glass.job import GlassJob
from particlegen.workflow.glass.reference import training_frames
from particlegen.workflow.glass.schema import GlassWorkflow, NetworkTraining, PretrainedSettings

__all__ = [
    "STAGE",
    "filled_network",
    "given_weights",
    "load_pretrained",
    "network_cards",
    "pretrained_card",
    "run_training",
    "system_hash",
    "trained_network",
]

STAGE = "training"
_NOISE = ("noise", "noise_amplitude")


class NetworkCard(Section):
    """`kind: network`: trained weights, and what they are valid for.

    Args:
        title: for people.
        system: the `system` section that they were trained with.
        temperature: of the data.
        system_hash: of particles, box and potential.
        network: the `network` section; what is younger than the card has its default.
        trained_with: the other sections, by name; some have no keys.
        weights: safetensors file beside the card.
        sha256: its checksum.
        citations: of system and method.
    """

    version: Literal[1]
    kind: Literal["network"]
    title: str = ""
    system: dict[str, Any] = Field(default_factory=dict)
    temperature: float | None = None
    system_hash: str
    network: NetworkSettings
    trained_with: dict[str, int | dict[str, Any]] = Field(default_factory=dict)
    citations: tuple[str, ...] = ()
    weights: str = Field(min_length=1)
    sha256: str = Field(min_length=1)


def system_hash(built: BuiltSystem) -> str:
    """A digest of particles, box and potential: what a trained network is valid for. The temperature is not in it."""
    system, potential = built.system, built.potential
    content = {
        "lengths": [f"{length:.10g}" for length in getattr(system.geometry, "lengths", ())],
        "species": list(system.species),
        "diameters": [f"{d:.10g}" for d in system.diameters or ()],
        "coefficients": [f"{c:.10g}" for c in potential.coefficients],
        "sigma": potential.sigma,
        "epsilon": potential.epsilon,
        "cutoff": f"{potential.cutoff:.10g}",
        "nonadditivity": potential.nonadditivity,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def network_cards() -> list[Card]:
    """The trained networks that the catalogue ships."""
    folder = catalogue.root() / "potentials" / "networks"
    return [Card(path.stem, path, catalogue.parse_yaml(path)) for path in sorted(folder.glob("*.yaml"))]


def given_weights(settings: NetworkTraining | PretrainedSettings) -> str | None:
    """The network card that a run uses or starts from."""
    return settings.pretrained if isinstance(settings, PretrainedSettings) else settings.start_from


def pretrained_card(name: str, relative_to: Path | None) -> tuple[Card, NetworkCard]:
    """The card of a trained network, by catalogue name or by a user's relative path, as found and validated.

    Raises:
        InputError: unknown name, missing file, or no network card.
    """
    if name.endswith((".yaml", ".yml")):
        card = catalogue.load("potentials", name, relative_to)
    else:
        cards = {card.name: card for card in network_cards()}
        if name not in cards:
            hint = near_matches(name, list(cards)) if cards else "the catalogue ships none"
            raise InputError(f"key 'training': unknown network {name!r}: {hint}")
        card = cards[name]
    if card.data.get("kind") != "network":
        raise InputError(
            f"{card.path}: key 'kind': found {card.data.get('kind')!r}; a card of a trained network has kind "
            "'network', as `particlegen export --to network` makes it"
        )
    return card, parse_section(NetworkCard, card.data, str(card.path))


def load_pretrained(
    name: str, workflow: GlassWorkflow, built: BuiltSystem, relative_to: Path | None
) -> tuple[dict[str, torch.Tensor], Card]:
    """Weights that fit this system, network and noise, and their card.

    Raises:
        InputError: another system, network or noise than they were trained for, or a damaged file.
    """
    card, stated = pretrained_card(name, relative_to)
    if stated.system_hash != system_hash(built):
        raise InputError(
            f"key 'training': {card.name!r} was trained for another system ({stated.title}); "
            "particles, box and potential have to be the same, only the temperature may differ"
        )
    _same("network", stated.network.model_dump(mode="json"), workflow.network.model_dump(mode="json"), card)
    if workflow.network.denoiser:
        interpolant = stated.trained_with.get("interpolant")
        trained = interpolant if isinstance(interpolant, dict) else {}
        noise = workflow.interpolant.model_dump(mode="json", include=set(_NOISE))
        _same("interpolant", {key: trained.get(key) for key in _NOISE}, noise, card)
    weights, _ = load_trained_card(card.path, stated.weights, stated.sha256)
    filled_network(weights, workflow.network, built, card.path.parent / stated.weights)
    return weights, card


def _same(key: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], card: Card) -> None:
    changed = [f"{name}: {theirs.get(name)!r}" for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if changed:
        raise InputError(f"key {key!r}: differs from that of {card.name!r}; set {', '.join(sorted(changed))}")


def filled_network(
    weights: Mapping[str, torch.Tensor], settings: NetworkSettings, built: BuiltSystem, source: Path
) -> HollowNetwork | StandardNetwork:
    """The network that `settings` describe, with these weights; `source` is the file to name in an error.

    Raises:
        InputError: the layers are others than the weights'.
    """
    network = build_network(settings, built.system)
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise InputError(
            f"{source}: the weights are not those of this {settings.kind} network; its layers may be those of another "
            "version of particlegen: train anew, or use the version that made them"
        ) from error
    return network


def run_training(job: GlassJob) -> None:
    """Train what is still missing, or fetch the pretrained weights; ends with `checkpoints/network.safetensors`."""
    if job.folder.weights_file.is_file():
        return
    job.folder.checkpoints.mkdir(exist_ok=True)
    settings = job.workflow.training
    metadata = weights_metadata(job.workflow, job.built)
    given, network_settings = given_weights(settings), job.workflow.network
    if isinstance(settings, PretrainedSettings):
        weights, card = load_pretrained(settings.pretrained, job.workflow, job.built, job.relative_to)
        save_weights(job.folder.weights_file, weights, metadata | {"pretrained": card.name})
        job.emit(Event("finished", STAGE, f"weights of {card.name}"))
        return
    network = build_network(network_settings, job.built.system, job.workflow.seed).to(job.device)
    saved = job.load(STAGE)
    if saved is None:
        job.check_repeatable(STAGE, settings, "generated")
    if given is not None and not saved:
        network.load_state_dict(load_pretrained(given, job.workflow, job.built, job.relative_to)[0])
    loss = InterpolantLoss(job.built.system, job.workflow.interpolant)
    data = torch.from_numpy(training_frames(job.workflow, job.store))
    trainer = Trainer(network, loss, settings, job.workflow.seed, data=data)
    if saved:
        try:
            trainer.restore(saved.tensors, saved.metadata)
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"{job.folder.checkpoints}: the training's checkpoint does not fit this network and optimiser; it may "
                "be that of another version of particlegen: go on with that version, or start a new run"
            ) from error
    job.emit(Event("started", STAGE, f"{sum(p.numel() for p in network.parameters()):,} parameters"))
    for progress in trainer.run():
        fields = {
            "done": progress.step,
            "total": progress.total_steps,
            "seconds_left": progress.seconds_left,
            "loss": progress.loss,
            "validation_loss": progress.validation_loss,
        }
        job.emit(Event("progress", STAGE, f"loss {progress.loss:.4f}", fields))
        if progress.done or job.due():
            tensors, state = trainer.state()
            job.save(STAGE, progress.step, tensors, state)
            if not progress.done:
                job.check(STAGE)
    save_weights(job.folder.weights_file, trainer.ema_weights(), metadata)
    job.emit(Event("finished", STAGE, "trained"))


def weights_metadata(workflow: GlassWorkflow, built: BuiltSystem) -> dict[str, Any]:
    """What has to be known to use trained weights: the network, the system, and the temperature of the data."""
    return {
        "network": workflow.network.model_dump(mode="json"),
        "system": built.system.name,
        "system_hash": system_hash(built),
        "temperature": built.state.temperature,
    }


def trained_network(job: GlassJob) -> HollowNetwork | StandardNetwork:
    """The network with its trained weights, ready to sample."""
    try:
        weights, metadata = load_weights(job.folder.weights_file)
    except InputError as error:
        raise InputError(
            f"{error}; or remove it and resume: what the training ended with is in its checkpoint"
        ) from error
    _same_system(metadata, job)
    network = filled_network(weights, job.workflow.network, job.built, job.folder.weights_file)
    return network.to(job.device).eval()


def _same_system(metadata: Mapping[str, Any], job: GlassJob) -> None:
    if metadata["system_hash"] != system_hash(job.built):
        raise InputError(f"{job.folder.weights_file}: trained for another system than {job.built.system.name!r}")
