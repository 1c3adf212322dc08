"""Cards of clusters, `kind: cluster` in `systems/`, and what a workflow's system section means with them."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from ase.data import atomic_masses, atomic_numbers
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from particlegen import catalogue
from particlegen.catalogue import Card
from particlegen.energy.build import checked_state, species_of_file
from particlegen.energy.cards import KnownValue, Positive, load_potential
from particlegen.geometry import FreeSpace
from particlegen.io.reading import inside
from particlegen.io.structures import Structure, read_structures
from particlegen.isomers.basins import Basins
from particlegen.isomers.frame import EckartFrame
from particlegen.settings import Cited, InputError, Section
from particlegen.system import Isomer, ParticleSystem, ThermodynamicState
from particlegen.units import Units
from particlegen.validation import near_matches, parse_section

__all__ = ["BuiltCluster", "ClusterCard", "ClusterSettings", "build_cluster", "check_free", "load_cluster_card"]

IsomerName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Number = Annotated[int, Field(ge=1, le=100)]

_MOST_PARTICLES = 100


class IsomerCard(Section):
    """One isomer.

    Args:
        structure: its structure file, relative to the card; near the minimum, which the target engine optimises.
        title: what it is.
        scale: factor on its distances when the nearest isomer is looked for; above 1 for a shallow basin beside a
            deep one, whose quenches end elsewhere otherwise.
    """

    structure: str
    title: str = ""
    scale: Positive = 1.0


class BasinCard(Section):
    """Which configurations are an isomer's.

    Args:
        reach: largest root mean square difference of sorted distances from the nearest isomer, in the unit of length;
            null for no limit.
    """

    reach: Positive | None = None


class ClusterCard(Section):
    """A cluster in free space and its isomers, under an engine.

    Args:
        engine: card of `potentials/`: a pair potential or an engine.
        composition: particles of each species.
        elements: chemical symbol of each species; may be left out where the species' names are symbols.
        radius: of a hard sphere about the centroid that confines the cluster; null for none.
        isomers: by name, which results carry.
    """

    version: Literal[1]
    kind: Literal["cluster"]
    title: str
    units: Units
    engine: Cited
    composition: dict[str, Number] = Field(min_length=1)
    elements: dict[str, str] = Field(default_factory=dict)
    radius: Positive | None = None
    temperature: Positive
    basins: BasinCard = BasinCard()
    isomers: dict[IsomerName, IsomerCard] = Field(min_length=1)
    known_values: tuple[KnownValue, ...] = ()
    citations: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> "ClusterCard":
        if sum(self.composition.values()) > _MOST_PARTICLES:
            raise ValueError(f"composition has more than {_MOST_PARTICLES} particles; clusters have fewer")
        if self.elements and set(self.elements) != set(self.composition):
            raise ValueError(
                f"the species {sorted(self.elements)} of elements are not those of composition "
                f"{sorted(self.composition)}"
            )
        wrong = [name for name, symbol in self.symbols.items() if symbol not in atomic_numbers]
        if wrong:
            raise ValueError(
                f"no chemical symbol for the species {', '.join(wrong)} of composition; state it in elements"
            )
        return self

    @property
    def symbols(self) -> dict[str, str]:
        """Chemical symbol of each species."""
        return {name: self.elements.get(name, name) for name in self.composition}


class ClusterSettings(Section):
    """The `system` section of workflows of `kind: isomers`.

    Args:
        card: name in the catalogue, or the path of your own card ending in `.yaml`.
        isomers: names of those that are asked for, in this order; default all of the card.
        temperature: in the unit system's own unit.
        radius: of the confining sphere about the centroid.
    """

    card: str
    isomers: tuple[str, ...] | None = Field(default=None, min_length=1)
    temperature: Positive | None = None
    radius: Positive | None = None


@dataclass(frozen=True, eq=False)
class BuiltCluster:
    """What a system section of `kind: isomers` means.

    Args:
        system: the particles in free space; species ascending, in the card's order.
        state: temperature.
        isomers: those that are asked for, centred, particles in the system's order.
        basins: by index of `isomers`. The card's other isomers keep what is nearest to them: what an isomer is does
            not depend on which others are asked for.
        symbols: chemical symbol of each species.
        engine: card of the target engine, as the system's card cites it (relative to `card.path.parent`).
        card: the system card as found.
        citations: of the system; the engine's are in its card.
    """

    system: ParticleSystem
    state: ThermodynamicState
    isomers: tuple[Isomer, ...]
    basins: Basins
    symbols: dict[str, str]
    engine: str
    card: Card
    citations: tuple[str, ...]

    @property
    def masses(self) -> Float[Tensor, " N"]:
        """Of the particles: standard atomic weights in u, 1 in reduced units."""
        if self.system.units == "lj":
            return torch.ones(self.system.n_particles, dtype=torch.float64)
        symbols = [self.symbols[self.system.species_names[kind]] for kind in self.system.species]
        return torch.tensor([float(atomic_masses[atomic_numbers[name]]) for name in symbols], dtype=torch.float64)


def load_cluster_card(name: str, relative_to: Path | None = None) -> tuple[Card, ClusterCard]:
    """A cluster's card by name or path, as found and validated.

    Raises:
        InputError: unknown card, no card of a cluster, or a bad key; names the file and every offending key.
    """
    raw = catalogue.load("systems", name, relative_to)
    if "kind" not in raw.data:
        clusters = [n for n in catalogue.names("systems") if catalogue.load("systems", n).data.get("kind") == "cluster"]
        raise InputError(
            f"{raw.path}: key 'kind' is missing: isomers need a card of 'kind: cluster' with its isomers, such as "
            f"{', '.join(clusters)}; this is a card for workflows of kind 'glass'"
        )
    return raw, parse_section(ClusterCard, raw.data, str(raw.path))


def build_cluster(settings: ClusterSettings, relative_to: Path | None = None) -> BuiltCluster:
    """The system, the isomers and the basins of a cluster's card with its overrides.

    Raises:
        InputError: names the card, the isomer, the key or the structure file that does not fit, and what to do.
    """
    raw, card = load_cluster_card(settings.card, relative_to)
    where = f"system {settings.card!r}"
    _check_engine(raw, card)
    asked = tuple(card.isomers) if settings.isomers is None else settings.isomers
    for name in asked:
        if name not in card.isomers:
            raise InputError(f"{where}: key 'isomers': no isomer {name!r}: {near_matches(name, list(card.isomers))}")
        if asked.count(name) > 1:
            raise InputError(f"{where}: key 'isomers': {name!r} is named twice; name it once")
    radius = settings.radius or card.radius or float("inf")
    counts = list(card.composition.values())
    species = tuple(index for index, count in enumerate(counts) for _ in range(count))
    system = ParticleSystem(raw.name, FreeSpace(3, radius), species, tuple(card.composition), units=card.units)
    found = {name: _structure(raw, card, name, system) for name in card.isomers}
    for a, b in itertools.combinations(found, 2):
        try:
            Basins(torch.stack([found[a], found[b]]), species)
        except ValueError as error:
            raise InputError(
                f"{raw.path}: isomers {a} and {b} have the same sorted distances: they are one isomer (or mirror "
                "images, which are counted as its copies); remove one"
            ) from error
    others = [name for name in found if name not in asked]
    return BuiltCluster(
        system=system,
        state=checked_state(where, settings.temperature or card.temperature, card.units),
        isomers=tuple(Isomer(name, found[name], card.isomers[name].title) for name in asked),
        basins=Basins(
            torch.stack([found[name] for name in (*asked, *others)]),
            species,
            card.basins.reach or float("inf"),
            others=len(others),
            scales=tuple(card.isomers[name].scale for name in (*asked, *others)),
        ),
        symbols=card.symbols,
        engine=card.engine,
        card=raw,
        citations=card.citations,
    )


def check_free(where: str, frame: Structure) -> None:
    """Raises InputError, beginning with `where`, for a structure in a box or a plane."""
    if frame.lengths is not None or frame.dim != 3:
        raise InputError(f"{where}: a cluster is three-dimensional and has no box; write a plain xyz file")


def _check_engine(raw: Card, card: ClusterCard) -> None:
    """The engine's card is there; a pair potential is for these species in these units."""
    try:
        if catalogue.load("potentials", card.engine, raw.path.parent).data.get("kind") != "even_power":
            return
        pair, _ = load_potential(card.engine, raw.path.parent)
    except InputError as error:
        raise InputError(f"{raw.path}: key 'engine': {error}") from error
    if (pair.species, pair.units) != (tuple(card.composition), card.units):
        raise InputError(
            f"{raw.path}: key 'engine': {card.engine!r} is for the species {list(pair.species)} in {pair.units} units, "
            f"the card has {list(card.composition)} in {card.units} units; they have to be the same, in one order"
        )


def _structure(raw: Card, card: ClusterCard, name: str, system: ParticleSystem) -> Float[Tensor, "N 3"]:
    """One isomer, centred, its particles in the order of the system."""
    where = f"{raw.path}: isomer {name} ({card.isomers[name].structure[:200]})"
    path = inside(raw.path.parent, card.isomers[name].structure, where)
    try:
        frames = read_structures(path)
    except InputError as error:
        raise InputError(f"{raw.path}: key 'isomers.{name}.structure': {error}") from error
    if len(frames) != 1:
        raise InputError(f"{where}: the file has {len(frames)} structures; keep one")
    frame = frames[0]
    check_free(where, frame)
    species = species_of_file(where, card.symbols, frame)
    if sorted(species) != list(system.species):
        read = {kind: species.count(index) for index, kind in enumerate(card.composition)}
        raise InputError(f"{where}: the file has {read}, the card's composition is {dict(card.composition)}")
    positions = torch.from_numpy(frame.positions).to(torch.float64)
    x = positions[torch.tensor(species).argsort(stable=True)]
    x = x - x.mean(0)
    try:
        EckartFrame(x, system.species)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    if not system.geometry.contains(x[None]).all():
        raise InputError(
            f"{where}: a particle lies {float(x.norm(dim=1).max()):.4g} from the centroid, outside the confining "
            f"sphere; raise 'radius' well above that"
        )
    return x
