"""Schemas of system and potential cards, and the checks that a card has to pass."""

import math
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator

from particlegen import catalogue
from particlegen.energy.formulas import PairPotential, even_power_energy
from particlegen.settings import Cited, InputError, Section
from particlegen.units import Units
from particlegen.validation import parse_section

__all__ = [
    "ENGINES",
    "Coefficients",
    "DiameterLaw",
    "KnownValue",
    "PotentialCard",
    "SystemCard",
    "cutoff_derivatives",
    "load_potential",
    "load_system_card",
]

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Lengths = Annotated[tuple[Positive, ...], Field(min_length=2, max_length=3)]

_CLAIMS = ("energy", "force", "curvature")

ENGINES = ("openmm", "ase", "tblite", "pyscf", "learned", "kernel")
"""Kinds of card in `potentials/` that name an engine and no pair potential."""


class Coefficients(Section):
    """Those of `even_power_energy`: V = ε·prefactor·[c12 s¹² + c6 s⁶ + c0 + c2 s⁻² + c4 s⁻⁴], s = σ/r."""

    c12: float
    c6: float = 0.0
    c0: float = 0.0
    c2: float = 0.0
    c4: float = 0.0


class PotentialCard(Section):
    """A pair potential: its form, its parameters for every pair of species, and what it claims at the cutoff."""

    version: Literal[1]
    kind: Literal["even_power"]
    title: str
    units: Units
    species: tuple[str, ...] = Field(min_length=1)
    sigma: tuple[tuple[Positive, ...], ...] | None = None
    epsilon: tuple[tuple[Positive, ...], ...]
    prefactor: float = 1.0
    coefficients: Coefficients
    cutoff: Positive | None
    nonadditivity: float | None = None
    continuous_at_cutoff: tuple[Literal["energy", "force", "curvature"], ...] = ()
    citations: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> "PotentialCard":
        n = len(self.species)
        if len(set(self.species)) != n:
            raise ValueError(f"species names have to differ, found {list(self.species)}")
        if (self.sigma is None) == (self.nonadditivity is None):
            raise ValueError("give either sigma (by species) or nonadditivity (sigma from per-particle diameters)")
        for key, matrix in (("sigma", self.sigma), ("epsilon", self.epsilon)):
            if matrix is None:
                continue
            if len(matrix) != n or any(len(row) != n for row in matrix):
                raise ValueError(f"{key} has to be a {n} x {n} matrix, one row per species {list(self.species)}")
            for a in range(n):
                for b in range(a):
                    if matrix[a][b] != matrix[b][a]:
                        raise ValueError(
                            f"{key} is not symmetric: {self.species[b]}{self.species[a]} is {matrix[b][a]} but "
                            f"{self.species[a]}{self.species[b]} is {matrix[a][b]}; a pair has one value"
                        )
        return self

    def potential(self, name: str) -> PairPotential:
        """The parameters bound for the energy engines."""
        c, p, n = self.coefficients, self.prefactor, len(self.species)
        return PairPotential(
            name=name,
            coefficients=(p * c.c12, p * c.c6, p * c.c0, p * c.c2, p * c.c4),
            sigma=self.sigma or tuple((1.0,) * n for _ in range(n)),
            epsilon=self.epsilon,
            cutoff=math.inf if self.cutoff is None else self.cutoff,
            nonadditivity=self.nonadditivity,
        )


class DiameterLaw(Section):
    """Per-particle diameters as the quantiles (k + ½)/N of P(σ) ∝ σ⁻³ on [minimum, maximum], scaled to mean 1.

    Quantiles rather than draws, so that a card means one system and not an ensemble of them.
    """

    law: Literal["inverse_cube"]
    minimum: Positive
    maximum: Positive

    @model_validator(mode="after")
    def _ordered(self) -> "DiameterLaw":
        if not self.minimum < self.maximum:
            raise ValueError(f"minimum has to be below maximum, found {self.minimum} and {self.maximum}")
        return self

    def diameters(self, n: int) -> tuple[float, ...]:
        """N diameters in ascending order, mean 1 (the unit of length).

        >>> d = DiameterLaw(law="inverse_cube", minimum=0.73, maximum=1.62).diameters(4)
        >>> round(sum(d) / 4, 12), round(d[0], 3)
        (1.0, 0.77)
        """
        low, high = self.minimum**-2, self.maximum**-2
        raw = [(low - (k + 0.5) / n * (low - high)) ** -0.5 for k in range(n)]
        mean = math.fsum(raw) / n
        return tuple(d / mean for d in raw)


class KnownValue(Section):
    """A number that the system has to reproduce, where it holds, and where it comes from."""

    quantity: str
    value: float
    stderr: float | None = None
    state: dict[str, float | str | tuple[float, ...]] = Field(default_factory=dict)
    source: str


class SystemCard(Section):
    """A system: which particles in what box at which temperature, under which potential."""

    version: Literal[1]
    title: str
    units: Units
    dimensions: Literal[2, 3]
    potential: Cited
    composition: dict[str, Count] = Field(min_length=1)
    published_compositions: tuple[dict[str, Count], ...] = ()
    density: Positive | None = None
    lengths: Lengths | None = None
    radius: Positive | None = None
    temperature: Positive
    truncated_image: bool = False
    diameters: DiameterLaw | None = None
    elements: dict[str, str] = Field(default_factory=dict)
    known_values: tuple[KnownValue, ...] = ()
    citations: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> "SystemCard":
        given = [key for key in ("density", "lengths", "radius") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of density, lengths (periodic) or radius (free space), found {given}")
        if self.lengths is not None and len(self.lengths) != self.dimensions:
            raise ValueError(f"lengths: {self.dimensions} numbers expected (dimensions), found {len(self.lengths)}")
        if sum(self.composition.values()) == 0:
            raise ValueError("composition has no particles")
        for other in (*self.published_compositions, self.elements):
            if set(other) != set(self.composition):
                raise ValueError(f"the species {sorted(other)} are not those of composition {sorted(self.composition)}")
        return self

    @property
    def periodic(self) -> bool:
        return self.radius is None

    def composition_for(self, n: int) -> dict[str, int]:
        """Counts that add up to `n`: a published composition, or the card's ratio where it gives whole numbers.

        Raises:
            InputError: the ratio does not divide `n`.
        """
        for known in (self.composition, *self.published_compositions):
            if sum(known.values()) == n:
                return {name: known[name] for name in self.composition}
        total = sum(self.composition.values())
        if any(count * n % total for count in self.composition.values()):
            ratio = " : ".join(str(count) for count in self.composition.values())
            raise InputError(
                f"particles: {n} cannot be split in the card's ratio {ratio}; give `composition` "
                f"({', '.join(self.composition)}) yourself"
            )
        return {name: count * n // total for name, count in self.composition.items()}


def cutoff_derivatives(potential: PairPotential) -> tuple[float, float, float]:
    """(V, V', V'') just inside the cutoff, in units of ε and σ; zeros where there is no cutoff."""
    if math.isinf(potential.cutoff):
        return 0.0, 0.0, 0.0
    r = torch.tensor(potential.cutoff, dtype=torch.float64, requires_grad=True)
    energy = even_power_energy(1.0 / r**2, 1.0, *potential.coefficients)
    (slope,) = torch.autograd.grad(energy, r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, r)
    return float(energy.detach()), float(slope.detach()), float(curvature)


def load_potential(name: str, relative_to: Path | None = None) -> tuple[PotentialCard, PairPotential]:
    """A potential card by name or path, checked, and its bound parameters.

    Raises:
        InputError: unknown card, a bad key, an asymmetric matrix, or a smoothness claim that does not hold.
    """
    raw = catalogue.load("potentials", name, relative_to)
    kind = raw.data.get("kind")
    if kind in ENGINES:
        raise InputError(
            f"{raw.path}: key 'kind': {kind!r} is an engine, a pair potential is needed here; the card is for "
            "particlegen.energy.open_engine"
        )
    card = parse_section(PotentialCard, raw.data, str(raw.path))
    potential = card.potential(raw.name)
    for claim, value in zip(_CLAIMS, cutoff_derivatives(potential), strict=True):
        # Published coefficients carry about ten digits.
        if claim in card.continuous_at_cutoff and abs(value) > 1e-8:
            raise InputError(
                f"{raw.path}: key 'continuous_at_cutoff' claims a continuous {claim}, but it jumps by {value:.3g} at "
                f"the cutoff {card.cutoff}; correct the coefficients or drop the claim"
            )
    return card, potential


def load_system_card(name: str, relative_to: Path | None = None) -> tuple[catalogue.Card, SystemCard]:
    """A system card by name or path, as found and validated.

    Raises:
        InputError: unknown card, or a bad key; names the file and every offending key.
    """
    raw = catalogue.load("systems", name, relative_to)
    if raw.data.get("kind") == "cluster":
        raise InputError(
            f"{raw.path}: key 'kind': 'cluster' is a card of isomers, for workflows of kind 'isomers' and "
            "particlegen.isomers.build_cluster; here a card without 'kind' is needed"
        )
    return raw, parse_section(SystemCard, raw.data, str(raw.path))
