"""The hollow network: exact divergence at the price of d Jacobian products of its last block.

Particle i is told about each neighbour j only what was computed without i; x_i itself enters through the edge vectors
of its own star, in the last block. So ∂v_i/∂x_i needs that block alone (Gloy & Olsson 2025 for the principle, there by
pruning the graph; here the leave-one-out form on the complete graph). Cost O(N²) for velocity and divergence alike.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from particlegen.geometry import FlatTorus, Positions
from particlegen.networks.features import as_features, as_rows
from particlegen.networks.layers import TorusNetwork, mlp, pair_displacements, remove_drift

__all__ = ["HollowNetwork"]

_EDGES_AT_ONCE = 1 << 15
"""Edges whose activations the divergence keeps at a time, about 7 kB each at the default sizes."""


class _StarRound(nn.Module):
    """One attention round on the star around each particle; it may move its own particle for the next round."""

    def __init__(self, width: int, invariants: int, vectors: int, outputs: int):
        super().__init__()
        self.told = nn.Linear(width, width)
        self.own = nn.Linear(width, width, bias=False)
        self.edge = nn.Linear(invariants, width, bias=False)
        self.mix = nn.Linear(width, width)
        self.gate = nn.Linear(width, 1)
        self.update = mlp(2 * width, width, width)
        self.own_weight = nn.Linear(width, width)
        self.weight = nn.Linear(width, outputs * vectors)
        nn.init.zeros_(self.weight.bias)
        with torch.no_grad():
            self.weight.weight.mul_(0.1)

    def forward(self, g: Tensor, h: Tensor, invariants: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Node states `(batch, N, width)` updated, and the weights of the vectors `(outputs vectors, batch, N, N)`."""
        q = nn.functional.silu(self.told(h) + self.own(g)[:, :, None] + self.edge(as_rows(invariants)))
        q = nn.functional.silu(self.mix(q))
        pooled = (q * (torch.sigmoid(self.gate(q)) * mask)).sum(2)
        g = g + self.update(torch.cat([g, pooled], -1))
        weights = as_features(self.weight, nn.functional.silu(q + self.own_weight(g)[:, :, None]))
        return g, weights * mask[..., 0]


class HollowNetwork(TorusNetwork):
    """Velocity field of particle systems on a torus with a cheap exact divergence.

    Equivariant to translations, to permutations within a species and to the box's point group; analytic on the torus.
    The mean velocity is removed, which changes neither the divergence (the mean is translation invariant) nor the law
    of translation-invariant systems.

    Args:
        torus: the box.
        species: species index per particle.
        width, rounds, harmonics, radial, channels: sizes; `channels` counts the vectors told about each neighbour.
    """

    def __init__(
        self,
        torus: FlatTorus,
        species: tuple[int, ...],
        width: int = 64,
        rounds: int = 3,
        harmonics: int = 3,
        radial: int = 16,
        channels: int = 8,
    ):
        super().__init__(torus, species, width, harmonics, radial)
        self.channels, self.rounds = channels, rounds
        k, classes, inv = self.features.vectors, self.features.classes, self.features.invariants
        self.sender, self.receiver = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.edge = nn.Linear(inv, width, bias=False)
        self.message = mlp(width, width, width)
        self.message_vector = nn.Linear(width, classes * channels * k)
        self.environment_own = nn.Linear(width, width)
        self.environment = nn.Linear(width + channels * classes, width, bias=False)
        self.environment_out = mlp(width, width)
        self.start = nn.Linear(width, width)
        n_dots, n_vectors = 2 * classes * channels, k + channels
        self.star = nn.ModuleList(
            [_StarRound(width, inv + n_dots, classes * n_vectors, 2 if r + 1 < rounds else 1) for r in range(rounds)]
        )

    def _told(self, t: Tensor, features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """What i is told about j without i, `(B, N, N, width)` and `(channels, dim, B, N, N)`; and the node states."""
        invariants, vectors = features
        node = self.clock(t, self.species)
        edge = self.sender(node)[:, None] + self.receiver(node)[:, :, None] + self.edge(as_rows(invariants))
        m = self.message(nn.functional.silu(edge)) * (self.mask / self.crowd)
        # the linear map's bias would give the diagonal a weight, but its vectors vanish there
        weights = as_features(self.message_vector, m).view(
            self.features.classes, self.channels, self.features.vectors, *m.shape[:-1]
        )
        mv = self.features.weigh(vectors, weights.transpose(0, 1))
        scalar = m.sum(2)[:, None] - m.transpose(1, 2)
        vector = mv.sum(-1)[..., None, :] - mv.transpose(-1, -2)
        told = torch.cat([scalar, as_rows(self.features.dot(vector, vector))], -1)
        h = self.environment(told) + self.environment_own(node)[:, None]
        return self.environment_out(nn.functional.silu(h)), vector, node

    def _star(self, delta: Tensor, features: tuple[Tensor, Tensor], told: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        h, vector, node = told
        g, velocity = self.start(node), torch.zeros_like(delta[..., 0])
        for r, star in enumerate(self.star):
            invariants, vectors = features if r == 0 else self.features(delta)
            dots = [self.features.dot(vector, vectors[k]) for k in (0, 2)]
            g, weights = star(g, h, torch.cat([invariants, *dots]), self.mask)
            arrows = torch.cat([vectors, vector])
            weights = weights.view(-1, self.features.classes, len(arrows), *delta.shape[1:])
            moves = self.features.weigh(arrows, weights).sum(-1) / self.crowd
            velocity = velocity + moves[0]
            if r + 1 < self.rounds:
                delta = delta - moves[1][..., None]
        return as_rows(velocity)

    def forward(self, t: Float[Tensor, " batch"], x: Positions) -> Positions:
        """Velocities at times `t` in [0, 1] and positions `x`, in lengths per unit of t."""
        delta = pair_displacements(x)
        features = self.features(delta)
        return remove_drift(self._star(delta, features, self._told(t, features)))

    def with_divergence(self, t: Float[Tensor, " batch"], x: Positions) -> tuple[Positions, Float[Tensor, " batch"]]:
        """Velocities and the exact divergence Σ_i ∂·v_i/∂x_i, detached; memory is bounded whatever the batch."""
        pieces = max(1, -(-len(x) * x.shape[1] ** 2 // _EDGES_AT_ONCE))
        parts = [self._differentiate(*part) for part in zip(t.chunk(pieces), x.chunk(pieces), strict=True)]
        velocity, divergence = (torch.cat(column) for column in zip(*parts, strict=True))
        return velocity, divergence

    def _differentiate(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Row i of `delta` enters v_i alone, so one reverse product per axis holds that axis' slopes of all particles.

        Reverse mode, because the tangents of forward mode cost half as much again here.
        """
        with torch.inference_mode(False), torch.enable_grad():
            delta = pair_displacements(x).requires_grad_()
            features = self.features(delta)
            with torch.no_grad():
                told = self._told(t, features)
            velocity = self._star(delta, features, told)
            divergence = torch.zeros_like(velocity[:, 0, 0])
            for axis, along in enumerate(velocity.unbind(-1)):
                (slopes,) = torch.autograd.grad(along.sum(), delta, retain_graph=axis + 1 < x.shape[-1])
                divergence = divergence - slopes[axis].sum((1, 2))
        return remove_drift(velocity).detach(), divergence.detach()
