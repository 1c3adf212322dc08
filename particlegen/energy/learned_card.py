"""Cards of learned potentials: trained weights as safetensors, and the YAML that says what they are."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field
from torch import Tensor

from particlegen.catalogue import Card
from particlegen.energy.kernel_potential import KernelModel, KernelPotential, KernelWeights
from particlegen.energy.learned import Committee, LearnedModel, LearnedPotential, packed, together, unpacked
from particlegen.energy.learned_training import LearnedErrors
from particlegen.io.trained_card import load_trained_card, save_trained_card
from particlegen.networks import build_potential_network
from particlegen.settings import InputError, Section
from particlegen.system import ParticleSystem
from particlegen.validation import parse_section

__all__ = ["KernelCard", "LearnedCard", "open_learned", "save_learned"]

_Model = TypeVar("_Model", bound=Section)
_CITATIONS = {
    "e3nn": (
        "S. Batzner et al., Nat. Commun. 13, 2453 (2022)",
        "M. Geiger, T. Smidt, e3nn: Euclidean neural networks, arXiv:2207.09453 (2022)",
    ),
    "moments": ("A. V. Shapeev, Multiscale Model. Simul. 14, 1153 (2016)",),
}
_KERNEL_CITATIONS = (
    "S. Chmiela et al., Nat. Commun. 9, 3887 (2018)",
    "C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, MIT Press (2006)",
)
_RADIAL_CITATION = "J. Gasteiger, J. Groß, S. Günnemann, arXiv:2003.03123 (2020)"


class LearnedCard(LearnedModel):
    """`kind: learned`: the keys of `LearnedModel`, and where the weights are.

    Attributes:
        weights: safetensors file beside the card.
        sha256: its checksum.
        members: how many networks it holds.
        held_out: errors on labels that no member saw, in the model's units.
        trained_on: a few words on where the labels come from.
    """

    version: Literal[1]
    kind: Literal["learned"]
    title: str = ""
    weights: str
    sha256: str
    members: Annotated[int, Field(ge=1)]
    held_out: dict[str, float | None] | None = None
    trained_on: str = ""
    citations: tuple[str, ...] = Field(min_length=1)


class KernelCard(KernelModel):
    """`kind: kernel`: the keys of `KernelModel`, and where the numbers are.

    Attributes:
        weights: safetensors file beside the card.
        sha256: its checksum.
        left_out: errors of each label as predicted from the others, in the model's units.
        trained_on: a few words on where the labels come from.
    """

    version: Literal[1]
    kind: Literal["kernel"]
    title: str = ""
    weights: str
    sha256: str
    left_out: dict[str, float | None] | None = None
    trained_on: str = ""
    citations: tuple[str, ...] = Field(min_length=1)


def save_learned(
    output: str | Path,
    potential: LearnedPotential | Committee | KernelPotential,
    errors: LearnedErrors | None = None,
    trained_on: str = "",
    citations: Sequence[str] = (),
) -> None:
    """Write a learned potential as `NAME.yaml` and `NAME.safetensors`; `open_engine(system, "NAME.yaml")` opens it.

    Args:
        output: the card.
        potential: one network, a committee or a kernel potential.
        errors: on labels held out or left out, see `train_potential` and `fit_kernel`.
        trained_on: a few words on where the labels come from.
        citations: of the labels' level of theory; those of the method are added.

    Raises:
        InputError: a file exists, or the name does not end in .yaml.
        RunError: the disk is full.
    """
    measured = None if errors is None else {k: v if v == v else None for k, v in asdict(errors).items()}
    model = potential.model.model_dump(mode="json")
    if isinstance(potential, KernelPotential):
        particles = ", ".join(sorted(set(potential.model.particles)))
        head = {"version": 1, "kind": "kernel", "title": f"kernel potential of {particles}", **model}
        tensors, told, cited = potential.weights.tensors(), {"left_out": measured}, _KERNEL_CITATIONS
    else:
        species, members = ", ".join(potential.model.species), potential.members
        head = {"version": 1, "kind": "learned", "title": f"learned potential of {species}", "members": len(members)}
        head |= model
        tensors, told = packed(member.network.state_dict() for member in members), {"held_out": measured}
        cited = (*_CITATIONS[potential.model.network.kind], _RADIAL_CITATION)
    content = {**head, **told, "trained_on": trained_on, "citations": [*citations, *cited]}
    save_trained_card(Path(output), content, tensors, model)


def open_learned(system: ParticleSystem, card: Card) -> LearnedPotential | Committee | KernelPotential:
    """The potential of a card of `kind: learned`, for any system of its species and units, or of `kind: kernel`, for
    its particles.

    Raises:
        InputError: a bad key, weights that are missing, damaged or of another model, a system that does not fit, or a
            missing package.
    """
    if card.data.get("kind") == "kernel":
        kernel = parse_section(KernelCard, card.data, str(card.path))
        known, tensors = _loaded(kernel, KernelModel, card.path)
        try:
            weights = KernelWeights(**tensors)
        except TypeError as error:
            raise InputError(f"{card.path.parent / kernel.weights}: these are not the numbers of a kernel") from error
        return KernelPotential(system, known, weights)
    section = parse_section(LearnedCard, card.data, str(card.path))
    model, tensors = _loaded(section, LearnedModel, card.path)
    members = []
    for number in range(section.members):
        network = build_potential_network(model.network, len(model.species))
        try:
            network.load_state_dict(unpacked(tensors, number))
        except RuntimeError as error:
            raise InputError(
                f"{card.path.parent / section.weights}: the weights are not those of {section.members} such networks; "
                "their layers may be those of another version of particlegen: train anew, or use the version that made "
                "them"
            ) from error
        members.append(LearnedPotential(system, model, network))
    return together(members)


def _loaded(section: KernelCard | LearnedCard, kind: type[_Model], path: Path) -> tuple[_Model, dict[str, Tensor]]:
    """The model and the numbers of a card, which has to state the model that its numbers were trained as."""
    tensors, saved = load_trained_card(path, section.weights, section.sha256)
    model = kind.model_validate(section.model_dump(include=set(kind.model_fields)))
    _check_same(saved, model.model_dump(mode="json"), path)
    return model, tensors


def _check_same(saved: dict[str, Any], stated: dict[str, Any], path: Path) -> None:
    changed = sorted(key for key in {**saved, **stated} if saved.get(key) != stated.get(key))
    if changed:
        raise InputError(
            f"{path}: differs from what its weights were trained as in {', '.join(map(repr, changed))}; the card was "
            "edited: restore it"
        )
