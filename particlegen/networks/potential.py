"""The networks of learned potentials behind one interface, and the settings section that describes them."""

from collections.abc import Iterator
from typing import Annotated, Literal, Protocol

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from particlegen.networks.moments import MomentNetwork
from particlegen.settings import InputError, Section
from particlegen.streams import stream_seed

__all__ = ["PotentialNetwork", "PotentialSettings", "build_potential_network"]


class PotentialSettings(Section):
    """The network of a learned potential.

    Attributes:
        kind: `moments` (dense, fast, no extra package) or `e3nn` (equivariant messages up to l = 2).
        cutoff: distance from which on particles do not see each other, in the unit of length.
        width: length of the feature vectors.
        rounds: of message passing; each adds a cutoff to the reach and raises the body order.
        radial: number of radial functions.
    """

    kind: Literal["moments", "e3nn"] = "moments"
    cutoff: Annotated[float, Field(gt=0, le=1e3)] = 6.0
    width: Annotated[int, Field(ge=4, le=512)] = 16
    rounds: Annotated[int, Field(ge=1, le=6)] = 2
    radial: Annotated[int, Field(ge=2, le=64)] = 8


class PotentialNetwork(Protocol):
    """What a learned potential needs of a network: invariant, smooth, blind to the order of the particles."""

    def forward(
        self, delta: Float[Tensor, "batch particle image 3"], kinds: Int[Tensor, " particle"]
    ) -> Float[Tensor, "batch particle"]:
        """Energies of particles, dimensionless.

        Args:
            delta: from each particle to all particles, and then again to each further set of their images, so that
                column c belongs to particle c modulo N; beyond the cutoff an entry changes nothing.
            kinds: species index per particle.
        """
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


def build_potential_network(settings: PotentialSettings, species: int, seed: int = 0) -> nn.Module:
    """A `PotentialNetwork` for any number of particles, with fresh float64 weights that `seed` alone decides.

    Args:
        settings: kind and sizes.
        species: how many there are.
        seed: of the weights.

    Raises:
        InputError: the package behind the kind is missing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "network"))
        sizes = settings.model_dump(exclude={"kind"})
        if settings.kind == "moments":
            return MomentNetwork(species=species, **sizes).double()
        try:
            from particlegen.networks.interaction import InteractionNetwork
        except ImportError as error:
            raise InputError(
                f"network kind 'e3nn' needs e3nn and torch-geometric ({error}); pip install 'particlegen[learned]', or "
                "use kind 'moments'"
            ) from error
        return InteractionNetwork(species=species, **sizes).double()
