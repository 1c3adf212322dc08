"""Engine cards: an energy engine and its settings by name, and the engine that a card asks for."""

import hashlib
import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from particlegen import catalogue
from particlegen.catalogue import Card
from particlegen.energy.ase_engine import ASEEnergy
from particlegen.energy.cards import ENGINES, load_potential
from particlegen.energy.formulas import PairPotential
from particlegen.energy.learned_card import open_learned
from particlegen.energy.openmm_engine import OpenMMEnergy
from particlegen.energy.openmm_xml import LARGEST_XML
from particlegen.energy.pair import TorchPairEnergy
from particlegen.energy.provider import EnergyProvider
from particlegen.energy.pyscf_engine import PySCFEnergy
from particlegen.energy.pyscf_settings import PySCFSettings
from particlegen.energy.xtb_engine import xtb_energy
from particlegen.io.reading import Damaged, inside, read_bytes
from particlegen.settings import InputError, Section
from particlegen.system import ParticleSystem
from particlegen.validation import near_matches, parse_section

__all__ = ["ASECard", "OpenMMCard", "TbliteCard", "engine_digest", "open_engine"]

PLUGINS = "particlegen.energy_providers"

SCRIPTED = ("acemolecule", "kim", "lammpslib", "lammpsrun", "plumed")
"""ASE calculators whose parameters are scripts, or libraries to load."""
PROGRAM_KEYS = frozenset({"command", "profile", "binary", "executable", "directory", "label", "prefix", "restart"})
"""Parameters by which ASE calculators choose what they run and where they write."""
PLAIN = re.compile(r"[\w .,:()+*=-]{0,200}")


class _EngineCard(Section):
    version: Literal[1]
    title: str = ""
    citations: tuple[str, ...] = Field(min_length=1)


class OpenMMCard(_EngineCard):
    """`kind: openmm`.

    Args:
        platform: `Reference`, `CPU`, `CUDA`, ...
        threads: of the CPU platform; null leaves them to OpenMM.
        xml: a serialised OpenMM system, relative to the card; without it, the pair potential of the system's card.
    """

    kind: Literal["openmm"]
    platform: str = "Reference"
    threads: Annotated[int, Field(ge=1)] | None = 1
    xml: Path | None = None


class ASECard(_EngineCard):
    """`kind: ase`.

    A card may come from somebody else, so it names no program, no script and no file: numbers and plain words alone.
    `ASEEnergy` takes a calculator that was made with more.

    Args:
        calculator: a name that is registered with ASE.
        parameters: what the calculator is made with.
        elements: chemical symbol of each species whose name is none.
    """

    kind: Literal["ase"]
    calculator: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    elements: dict[str, str] = Field(default_factory=dict)

    @field_validator("calculator")
    @classmethod
    def _no_script(cls, name: str) -> str:
        if name in SCRIPTED:
            raise ValueError("it runs scripts, which a card may not hold; make the calculator in Python: ASEEnergy")
        return name

    @field_validator("parameters")
    @classmethod
    def _plain(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        waiting: list[Any] = [parameters]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                named = sorted(PROGRAM_KEYS & {str(key).lower() for key in value})
                if named:
                    raise ValueError(
                        f"{named[0]!r} names a program or a place for files, which a card may not: state it in ASE's "
                        "own configuration, or make the calculator in Python: ASEEnergy"
                    )
                waiting += [*value, *value.values()]
            elif isinstance(value, list | tuple):
                waiting += value
            elif isinstance(value, str) and (not PLAIN.fullmatch(value) or ".." in value):
                raise ValueError(
                    f"{value[:40]!r} is no plain word: paths, scripts and command lines have no place in a card; make "
                    "the calculator in Python: ASEEnergy"
                )
        return parameters


class TbliteCard(_EngineCard):
    """`kind: tblite`; the keys are the arguments of `xtb_energy`."""

    kind: Literal["tblite"]
    method: Literal["GFN1-xTB", "GFN2-xTB"]
    charge: int = 0
    multiplicity: Annotated[int, Field(ge=1)] | None = None
    accuracy: Annotated[float, Field(gt=0)] = 0.01
    electronic_temperature: Annotated[float, Field(gt=0)] = 300.0
    max_iterations: Annotated[int, Field(ge=1)] = 250


def open_engine(
    system: ParticleSystem, name: str, potential: PairPotential | None = None, relative_to: Path | None = None
) -> EnergyProvider:
    """The engine that a card of `potentials/` asks for, for one system.

    Cards of pair potentials are answered by torch. A `kind` that is not known here is looked up among the installed
    plug-ins (entry points of the group `particlegen.energy_providers`, each a function of the system and of the card's
    other keys), which are loaded then and not before.

    Args:
        system: the particles.
        name: of the card, or its path.
        potential: pair potential of the system's own card, for engines that need one.
        relative_to: folder that a card's path is relative to.

    Raises:
        InputError: unknown card or kind, a bad key, a missing package, or an engine that does not fit the system.
    """
    card = catalogue.load("potentials", name, relative_to)
    kind, where = card.data.get("kind"), str(card.path)
    if kind == "even_power":
        return TorchPairEnergy(system, load_potential(name, relative_to)[1])
    if kind == "openmm":
        return _openmm(system, parse_section(OpenMMCard, card.data, where), potential, card)
    if kind == "ase":
        section = parse_section(ASECard, card.data, where)
        symbols = {species: section.elements.get(species, species) for species in system.species_names}
        with _naming(card):
            return ASEEnergy(system, section.calculator, symbols, parameters=section.parameters)
    if kind == "tblite":
        settings = parse_section(TbliteCard, card.data, where).model_dump(exclude={*_EngineCard.model_fields, "kind"})
        with _naming(card):
            return xtb_energy(system, **settings)
    if kind == "pyscf":
        level = parse_section(PySCFSettings, card.data, where)
        with _naming(card):
            return PySCFEnergy(system, level)
    if kind in ("learned", "kernel"):
        return open_learned(system, card)
    return _plugin(system, card)


def engine_digest(name: str, relative_to: Path) -> str:
    """SHA-256 of an engine's card, and of the OpenMM system beside it that it may name."""
    card = catalogue.load("potentials", name, relative_to)
    xml = card.data.get("xml")
    files = [card.path] if xml is None else [card.path, inside(card.path.parent, str(xml), f"{card.path}: key 'xml'")]
    try:
        return hashlib.sha256(b"".join(read_bytes(file, LARGEST_XML) for file in files)).hexdigest()
    except Damaged as problem:
        raise InputError(f"{card.path}: key 'xml': {xml!r}: {problem}; restore it beside the card") from None


@contextmanager
def _naming(card: Card) -> Iterator[None]:
    """What an engine refuses was asked for by a card: the error names it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{card.path}: {error}") from error


def _openmm(system: ParticleSystem, section: OpenMMCard, potential: PairPotential | None, card: Card) -> OpenMMEnergy:
    with _naming(card):
        if section.xml is not None:
            xml = inside(card.path.parent, section.xml, "key 'xml'")
            return OpenMMEnergy.of_xml(system, xml, section.platform, section.threads)
        if potential is None:
            raise InputError("key 'xml' is missing, and there is no pair potential to take instead; give one")
        return OpenMMEnergy.of_pairs(system, potential, section.platform, section.threads)


def _plugin(system: ParticleSystem, card: Card) -> EnergyProvider:
    kind = str(card.data.get("kind"))
    plugins = {entry.name: entry for entry in importlib.metadata.entry_points(group=PLUGINS)}
    if kind not in plugins:
        known = near_matches(kind, ["even_power", *ENGINES, *plugins])
        raise InputError(f"{card.path}: key 'kind': no engine {kind!r} is known or installed: {known}")
    settings: Mapping[str, Any] = {key: value for key, value in card.data.items() if key not in ("version", "kind")}
    try:
        made = plugins[kind].load()(system, settings)
    except ImportError as error:
        raise InputError(f"{card.path}: plug-in {kind!r} cannot be imported: {error}; install what it needs") from error
    if not isinstance(made, EnergyProvider):
        raise InputError(f"{card.path}: plug-in {kind!r} made a {type(made).__name__}, which is no energy provider")
    return made
