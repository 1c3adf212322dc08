"""Learned potentials: networks as energy providers, alone or as a committee that knows where it disagrees."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from particlegen import __version__
from particlegen.energy.learned_answer import Disagreement, answer
from particlegen.energy.provider import EnergyResult
from particlegen.geometry import Positions
from particlegen.networks import PotentialSettings
from particlegen.settings import InputError, Section
from particlegen.system import ParticleSystem
from particlegen.units import Units

__all__ = [
    "Committee",
    "LearnedModel",
    "LearnedPotential",
    "NetworkEnergy",
    "packed",
    "together",
    "unpacked",
]

_PAIRS_AT_ONCE = 1 << 13
"""Pairs per chunk: their features stay in a core's cache, and memory is bounded whatever the batch."""
_PACKAGES = {"e3nn": ("torch", "e3nn"), "moments": ("torch",)}
"""Those that an energy depends on, by kind of network."""


class LearnedModel(Section):
    """What the numbers of a network mean: U = Σ_i [reference energy of i's species + scale · network's output for i].

    Attributes:
        network: kind and sizes.
        units: of lengths and energies.
        species: names, in the order of the network's indices.
        reference_energies: per species, in the unit of energy.
        scale: in the unit of energy.
    """

    network: PotentialSettings
    units: Units
    species: tuple[str, ...] = Field(min_length=1)
    reference_energies: tuple[float, ...]
    scale: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _one_reference_each(self) -> "LearnedModel":
        if len(self.reference_energies) != len(self.species):
            raise ValueError(f"{len(self.reference_energies)} reference energies for {len(self.species)} species")
        return self


class NetworkEnergy:
    """The arithmetic from positions through a network to energies, for training and evaluation alike.

    Images: every one within the cutoff counts, so boxes may be smaller than twice the cutoff. Dimensions that the
    system lacks are 0.

    Args:
        system: the particles.
        model: what the network's numbers mean.

    Raises:
        InputError: other units or species than the model's, more than three dimensions, or diameters.
    """

    def __init__(self, system: ParticleSystem, model: LearnedModel):
        strange = [name for name in {system.species_names[s] for s in system.species} if name not in model.species]
        if strange or system.units != model.units:
            raise InputError(
                f"system {system.name!r} ({', '.join(system.species_names)}; {system.units} units) does not fit a "
                f"learned potential of {', '.join(model.species)} in {model.units} units; train one for it"
            )
        if system.diameters is not None or system.dim > 3:
            raise InputError(
                f"system {system.name!r}: learned potentials know species, and no diameters, in up to three dimensions"
            )
        self.system, self.model = system, model
        kinds = [model.species.index(system.species_names[s]) for s in system.species]
        self._kinds, self._images = torch.tensor(kinds), system.geometry.images(model.network.cutoff)
        self._reference = math.fsum(model.reference_energies[kind] for kind in kinds)

    @property
    def pairs(self) -> int:
        """Displacements per configuration."""
        return self.system.n_particles**2 * len(self._images)

    def __call__(
        self, network: nn.Module, x: Positions, slopes: bool = True, keep_graph: bool = False
    ) -> tuple[Float[Tensor, " batch"], Positions | None, Float[Tensor, " batch"] | None]:
        """Energies, and with `slopes` forces and virial W = −Σ Δ·∂U/∂Δ over all displacements Δ.

        Args:
            network: a `PotentialNetwork` on the device of `x`.
            x: positions, float64.
            slopes: whether forces and virial are wanted.
            keep_graph: whether they can be differentiated; energies can where `x` or the network require it.
        """
        n, dim = x.shape[1:]
        nearest = self.system.geometry.displacement(x[:, :, None], x[:, None])
        delta = (nearest[:, :, None] + self._images.to(x.device)[:, None]).flatten(2, 3)
        delta = nn.functional.pad(delta, (0, 3 - dim))
        kinds = self._kinds.to(x.device)
        if not slopes:
            return self._energy(network, delta, kinds), None, None
        with torch.inference_mode(False), torch.enable_grad():
            leaf = delta if delta.requires_grad else delta.clone().requires_grad_()
            energy = self._energy(network, leaf, kinds)
            (slope,) = torch.autograd.grad(energy.sum(), leaf, create_graph=keep_graph)
        pull = slope.unflatten(2, (-1, n)).sum(2)[..., :dim]
        virial = -(slope * delta).sum((1, 2, 3))
        return energy if keep_graph else energy.detach(), pull.sum(2) - pull.sum(1), virial

    def _energy(self, network: nn.Module, delta: Tensor, kinds: Tensor) -> Tensor:
        return self._reference + self.model.scale * network(delta, kinds).sum(1)


class LearnedPotential:
    """Energies of one trained network in float64, with exact forces, for free space and torus.

    Energies and forces are smooth, and second derivatives continuous, where neighbours come and go. Nothing keeps the
    network right, or particles apart, beyond what it was trained on. Two particles in one place are a failed item; a
    particle outside the confining sphere of free space gives +inf.

    `train_potential` makes one, `open_engine` reads it from its card.

    Args:
        system: the particles; any number of the model's species.
        model: what the network's numbers mean.
        network: a trained `PotentialNetwork` with float64 weights; it is frozen.
        device: where the arithmetic runs.

    Raises:
        InputError: see `NetworkEnergy`.
    """

    differentiable = True

    def __init__(
        self, system: ParticleSystem, model: LearnedModel, network: nn.Module, device: torch.device | str = "cpu"
    ):
        self._terms, self._device = NetworkEnergy(system, model), torch.device(device)
        self.network = network.to(self._device).requires_grad_(False).eval()

    @property
    def name(self) -> str:
        return f"learned_{self.model.network.kind}"

    @property
    def system(self) -> ParticleSystem:
        return self._terms.system

    @property
    def model(self) -> LearnedModel:
        return self._terms.model

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def members(self) -> "tuple[LearnedPotential, ...]":
        """Itself, as the only member of a committee of one."""
        return (self,)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The model, a digest of the weights, and the versions behind the arithmetic."""
        return _settings(self)

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        """Energies `(batch,)`, forces `(batch, particle, dim)`, virial `(batch,)`, all float64.

        Where `positions` requires a gradient, so do energy, forces and virial.

        Raises:
            ValueError: positions of another N or dimension, or a quantity in `want` that does not exist.
        """
        size = max(1, _PAIRS_AT_ONCE // self._terms.pairs)
        return answer(self, positions, want, size, partial(self._terms, self.network))


class Committee:
    """The mean of several learned potentials, with their disagreement as a measure of what they do not know.

    The disagreement ranks configurations by how new they are. It is no error bar: members share their labels and
    their kind of network, and are often wrong together.

    Args:
        members: at least two, of one system and model.

    Raises:
        ValueError: fewer than two members, or members that differ in system or model.
    """

    differentiable = True

    def __init__(self, members: Sequence[LearnedPotential]):
        if len(members) < 2:
            raise ValueError(f"a committee needs at least two members, found {len(members)}")
        for member in members[1:]:
            if (member.system, member.model) != (members[0].system, members[0].model):
                raise ValueError("the members of a committee are of one system and one model")
        self.members = tuple(members)

    @property
    def name(self) -> str:
        return self.members[0].name

    @property
    def system(self) -> ParticleSystem:
        return self.members[0].system

    @property
    def model(self) -> LearnedModel:
        return self.members[0].model

    @property
    def device(self) -> torch.device:
        return self.members[0].device

    @property
    def settings(self) -> Mapping[str, Any]:
        """The model, a digest of all weights, and the versions behind the arithmetic."""
        return _settings(self)

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        """Means over the members, as `LearnedPotential.evaluate`; an item fails where it fails for one of them."""
        return self._mean([member.evaluate(positions, want) for member in self.members])

    def judge(self, positions: Positions, want: Sequence[str] = ("energy",)) -> tuple[EnergyResult, Disagreement]:
        """What `evaluate` gives, and the disagreement of energies and forces.

        Raises:
            ValueError: as `LearnedPotential.evaluate`.
        """
        found = [member.evaluate(positions, ("forces", *want)) for member in self.members]
        mean = self._mean(found)
        forces = torch.stack([part.forces for part in found if part.forces is not None])
        spread = torch.stack([part.energy for part in found]).var(0).sqrt()
        force_spread = forces.var(0).sum(2).amax(1).sqrt()
        failed = ~mean.energy.isfinite()
        disagreement = Disagreement(spread.masked_fill(failed, math.nan), force_spread.masked_fill(failed, math.nan))
        if "forces" not in want:
            mean = EnergyResult(mean.energy, None, mean.virial, mean.ok, mean.reasons)
        return mean, disagreement

    def deviation(self, positions: Positions) -> Float[Tensor, " batch"]:
        """Standard deviation of the members' energies; NaN where one of them has none."""
        energies = torch.stack([member.evaluate(positions).energy for member in self.members])
        return energies.var(0).sqrt().masked_fill(~energies.isfinite().all(0), math.nan)

    def _mean(self, found: Sequence[EnergyResult]) -> EnergyResult:
        told = zip(*(part.reasons for part in found), strict=True)
        return EnergyResult(
            energy=torch.stack([part.energy for part in found]).mean(0),
            forces=_mean([part.forces for part in found]),
            virial=_mean([part.virial for part in found]),
            ok=torch.stack([part.ok for part in found]).all(0),
            reasons=tuple(next(filter(None, texts), None) for texts in told),
        )


def _mean(arrays: Sequence[Tensor | None]) -> Tensor | None:
    """Over members; None where it was not asked for."""
    known = [array for array in arrays if array is not None]
    return torch.stack(known).mean(0) if known else None


def together(members: Sequence[LearnedPotential]) -> LearnedPotential | Committee:
    """The only member, or the committee of several."""
    return Committee(members) if len(members) > 1 else members[0]


def packed(members: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of all members under one set of names, `NUMBER.NAME`."""
    return {f"{number}.{name}": value for number, own in enumerate(members) for name, value in own.items()}


def unpacked(tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """The tensors of a member by their own names, from what `packed` returned."""
    return {name.removeprefix(f"{number}."): v for name, v in tensors.items() if name.startswith(f"{number}.")}


def _settings(potential: LearnedPotential | Committee) -> dict[str, Any]:
    model, members = potential.model, potential.members
    total = hashlib.sha256()
    for member in members:
        for name, value in sorted(member.network.state_dict().items()):
            total.update(f"{name} {tuple(value.shape)}\n".encode() + value.detach().cpu().numpy().tobytes())
    versions = {"particlegen": __version__} | {name: version(name) for name in _PACKAGES[model.network.kind]}
    content = {"model": model.model_dump(mode="json"), "weights": total.hexdigest()}
    return {"engine": "learned", "members": len(members), **content, "versions": versions}
