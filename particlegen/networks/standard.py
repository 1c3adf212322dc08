"""The standard network: message passing in which every round moves the particles, divergence by the full Jacobian."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from particlegen.geometry import FlatTorus, Positions
from particlegen.networks.features import as_features, as_rows
from particlegen.networks.layers import TorusNetwork, mlp, pair_displacements, remove_drift, require_denoiser

__all__ = ["StandardNetwork"]


class _MessageRound(nn.Module):
    def __init__(self, width: int, invariants: int, vectors: int, outputs: int):
        super().__init__()
        self.sender, self.receiver = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.edge = nn.Linear(invariants, width, bias=False)
        self.mix = nn.Linear(width, width)
        self.gate = nn.Linear(width, 1)
        self.update = mlp(2 * width, width, width)
        self.weight = nn.Linear(width, outputs * vectors)
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
        denoiser: whether it has a second head, see `forward`.
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
        denoiser: bool = False,
    ):
        super().__init__(torus, species, diameters, width, harmonics, radial)
        self.heads = 2 if denoiser else 1
        vectors, invariants = self.features.classes * self.features.vectors, self.features.invariants
        self.messages = nn.ModuleList(
            [_MessageRound(width, invariants, vectors, self.heads + 1) for _ in range(rounds)]
        )

    def forward(
        self, t: Float[Tensor, " batch"], x: Positions, denoiser: bool = False
    ) -> Float[Tensor, "*heads batch particle dim"]:
        """Velocities at times `t` in [0, 1] and positions `x`, in lengths per unit of t.

        With `denoiser` both heads, `(2, batch, N, dim)`: velocities, and E[z | x_t = x] of the noise γ(t) z.

        Raises:
            TypeError: the network was made without the second head.
        """
        require_denoiser(denoiser, self.heads)
        h, out, moved = self.clock(t, self.traits), x.new_zeros(self.heads, *x.shape), x
        for r, message in enumerate(self.messages):
            invariants, vectors = (self.moved_features if r else self.features)(pair_displacements(moved))
            h, weights = message(h, invariants, self.mask)
            weights = weights.view(self.heads + 1, self.features.classes, len(vectors), *invariants.shape[1:])
            moves = (self.features.weigh(vectors, weights).sum(-1) / self.crowd).movedim(1, -1)
            out, moved = out + moves[:-1], moved + moves[-1]
        heads = remove_drift(out)
        return heads if denoiser else heads[0]

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
