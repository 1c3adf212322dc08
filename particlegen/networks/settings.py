"""The `network` section of a workflow, and the network that it describes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from particlegen.geometry import Positions
from particlegen.networks.hollow import HollowNetwork
from particlegen.networks.standard import StandardNetwork
from particlegen.settings import Section
from particlegen.streams import stream_seed
from particlegen.system import ParticleSystem

__all__ = ["DenoisingNetwork", "NetworkSettings", "NetworkSize", "VelocityNetwork", "build_network", "network_size"]


class NetworkSettings(Section):
    """The `network` section of a workflow.

    Attributes:
        kind: `hollow` (exact divergence at the price of d Jacobian products of its last block) or `standard` (one
            product per coordinate).
        width: length of the feature vectors.
        rounds: attention rounds on the star (hollow), or message-passing rounds (standard).
        harmonics: Fourier orders of the torus features.
        radial: Gaussian radial functions.
        channels: vectors told about each neighbour (hollow only).
        denoiser: a second head for the noise of the interpolant, which `generation.likelihood: path` needs.
    """

    kind: Literal["hollow", "standard"] = "hollow"
    width: Annotated[int, Field(ge=4, le=1024)] = 64
    rounds: Annotated[int, Field(ge=1, le=12)] = 3
    harmonics: Annotated[int, Field(ge=1, le=8)] = 3
    radial: Annotated[int, Field(ge=2, le=128)] = 16
    channels: Annotated[int, Field(ge=1, le=64)] = 8
    denoiser: bool = False


@runtime_checkable
class VelocityNetwork(Protocol):
    """What a flow needs of a network."""

    def forward(self, t: Float[Tensor, " batch"], x: Positions) -> Positions:
        """Velocities at times `t` in [0, 1], in lengths per unit of t."""
        ...

    def with_divergence(self, t: Float[Tensor, " batch"], x: Positions) -> tuple[Positions, Float[Tensor, " batch"]]:
        """Velocities and the exact divergence over all coordinates; neither has to carry gradients."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


@runtime_checkable
class DenoisingNetwork(VelocityNetwork, Protocol):
    """What a flow with noise needs of a network."""

    def forward(
        self, t: Float[Tensor, " batch"], x: Positions, denoiser: bool = False
    ) -> Float[Tensor, "*heads batch particle dim"]:
        """Velocities, and with `denoiser` η = E[z | x_t = x] too: `(2, batch, N, dim)`. The score at t is −η/γ(t)."""
        ...


@dataclass(frozen=True)
class NetworkSize:
    """What a network takes.

    Args:
        parameters: numbers that are trained.
        activations: bytes that one configuration of a batch keeps for the gradient, in float32.
    """

    parameters: int
    activations: int


def network_size(settings: NetworkSettings, system: ParticleSystem) -> NetworkSize:
    """The size of a network for a system, from a pass without numbers: nothing of that size is allocated.

    Raises:
        TypeError: the system is not periodic.
    """
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.device("meta"):
        network = _assembled(settings, system)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            velocity = network(torch.zeros(1), torch.zeros(1, system.n_particles, system.dim))
    for parameter in network.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    del velocity
    saved = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return NetworkSize(sum(parameter.numel() for parameter in network.parameters()), saved)


def build_network(settings: NetworkSettings, system: ParticleSystem, seed: int = 0) -> HollowNetwork | StandardNetwork:
    """A network with fresh float32 weights that `seed` alone decides.

    Raises:
        TypeError: the system is not periodic.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "network"))
        return _assembled(settings, system)


def _assembled(settings: NetworkSettings, system: ParticleSystem) -> HollowNetwork | StandardNetwork:
    sizes = settings.model_dump(exclude={"kind"} if settings.kind == "hollow" else {"kind", "channels"})
    kind = HollowNetwork if settings.kind == "hollow" else StandardNetwork
    return kind(system.torus, system.species, system.diameters, **sizes)
