"""The standard network: message passing in which every round moves the particles, divergence by the full Jacobian."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from particlegen.geometry import FlatTorus, Positions
from particlegen.networks.features import as_features, as_rows
from particlegen.networks.layers import TorusNetwork, mlp, pair_displacements, remove_drift

__all__ = ["StandardNetwork"]


class _MessageRound(nn.Module):
    def __init__(self, width: int, invariants: int, vectors: int):
        super().__init__()
        self.sender, self.receiver = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.edge = nn.Linear(invariants, width, bias=False)
        self.mix = nn.Linear(width, width)
        self.gate = nn.Linear(width, 1)
        self.update = mlp(2 * width, width, width)
        self.weight = nn.Linear(width, 2 * vectors)
        nn.init.zeros_(self.weight.bias)
        with torch.no_grad():
            self.weight.weight.mul_(0.1)

    def forward(self, h: Tensor, invariants: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        q = nn.functional.silu(self.sender(h)[:, None] + self.receiver(h)[:, :, None] + self.edge(as_rows(invariants)))
        q = nn.functional.silu(self.mix(q))
        h = h + self.update(torch.cat([h, (q * (torch.sigmoid(self.gate(q)) * mask)).sum(2)], -1))
        return h, as_features(self.weight, q) * mask[..., 0]


class StandardNetwork(TorusNetwork):
    """Velocity field by equivariant message passing on the complete graph (Satorras et al. 2021), on torus features.

    The same symmetries and smoothness as `HollowNetwork`; more expressive per parameter, but its exact divergence costs
    one Jacobian product per coordinate, O(N³) in all.

    Args:
        torus: the box.
        species: species index per particle.
        diameters: diameter per particle (polydisperse systems), or None.
        width, rounds, harmonics, radial: sizes.
    """

    def __init__(
        self,
        torus: FlatTorus,
        species: tuple[int, ...],
        diameters: tuple[float, ...] | None = None,
        width: int = 64,
        rounds: int = 3,
        harmonics: int = 3,
        radial: int = 16,
    ):
        super().__init__(torus, species, diameters, width, harmonics, radial)
        vectors = self.features.classes * self.features.vectors
        self.messages = nn.ModuleList([_MessageRound(width, self.features.invariants, vectors) for _ in range(rounds)])

    def forward(self, t: Float[Tensor, " batch"], x: Positions) -> Positions:
        """Velocities at times `t` in [0, 1] and positions `x`, in lengths per unit of t."""
        h, velocity, moved = self.clock(t, self.traits), torch.zeros_like(x), x
        for r, message in enumerate(self.messages):
            invariants, vectors = (self.moved_features if r else self.features)(pair_displacements(moved))
            h, weights = message(h, invariants, self.mask)
            weights = weights.view(2, self.features.classes, len(vectors), *invariants.shape[1:])
            moves = self.features.weigh(vectors, weights).sum(-1) / self.crowd
            velocity, moved = velocity + as_rows(moves[0]), moved + as_rows(moves[1])
        return remove_drift(velocity)

    def with_divergence(self, t: Float[Tensor, " batch"], x: Positions) -> tuple[Positions, Float[Tensor, " batch"]]:
        """Velocities and the exact divergence, by one forward-mode product per coordinate."""
        divergence = torch.zeros_like(t, dtype=x.dtype)
        velocity = torch.zeros_like(x)
        for i in range(x.shape[1]):
            for a in range(x.shape[2]):
                tangent = torch.zeros_like(x)
                tangent[:, i, a] = 1.0
                velocity, slope = torch.func.jvp(lambda y: self(t, y), (x,), (tangent,))[:2]
                divergence = divergence + slope[:, i, a]
        return velocity, divergence
