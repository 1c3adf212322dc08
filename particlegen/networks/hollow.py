"""The hollow network: exact divergence at the price of d Jacobian products of its last block.

Particle i is told about each neighbour j only what was computed without i; x_i itself enters through the edge vectors
of its own star, in the last block. So ∂v_i/∂x_i needs that block alone (Gloy & Olsson 2025 for the principle, there by
pruning the graph; here the leave-one-out form on the complete graph). Cost O(N²) for velocity and divergence alike, but
for one product of N×N matrices per feature, which costs as much as all else only at N of about 16 times the width.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from particlegen.geometry import FlatTorus, Positions
from particlegen.networks.features import TorusFeatures, as_features, as_rows
from particlegen.networks.layers import TorusNetwork, mlp, pair_displacements, remove_drift, require_denoiser

__all__ = ["HollowNetwork"]

_EDGES_AT_ONCE = 1 << 13
"""Edges whose activations the divergence keeps at a time, about 7 kB each at the default sizes."""


class _Surroundings(nn.Module):
    """What particle i is told about each neighbour j, none of it computed with x_i.

    First what is near j: the messages to it, summed, less the one from i. Then what lies beyond: the same of any
    other k, passed on to j and summed over k ≠ i. Last where j is heading, a shift of j along the vectors around it.
    """

    def __init__(self, width: int, features: TorusFeatures, channels: int):
        super().__init__()
        self.features, self.channels, classes = features, channels, features.classes
        self.sender, self.receiver = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.edge = nn.Linear(features.invariants, width, bias=False)
        self.message = mlp(width, width, width)
        self.message_vector = nn.Linear(width, classes * channels * features.vectors)
        self.own = nn.Linear(width, width)
        self.near = nn.Linear(width + channels * classes, width, bias=False)
        self.near_out = nn.Linear(width, width)
        self.passed_on = nn.Linear(width, width)
        self.beyond = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.heading = nn.Linear(width, classes * channels)
        with torch.no_grad():
            self.heading.weight.mul_(0.1)

    def forward(self, node: Tensor, delta: Tensor, mask: Tensor, crowd: float) -> tuple[Tensor, Tensor, Tensor]:
        """Scalars `(batch, N, N, width)`, vectors `(channels, dim, batch, N, N)`, shifts of j `(dim, batch, N, N)`."""
        invariants, vectors = self.features(delta)
        edge = self.sender(node)[:, None] + self.receiver(node)[:, :, None] + self.edge(as_rows(invariants))
        m = self.message(nn.functional.silu(edge)) * (mask / crowd)
        # the linear map's bias would give the diagonal a weight, but its vectors vanish there
        weights = self._per_class(self.message_vector, m)
        mv = self.features.weigh(vectors, weights.unflatten(1, (self.channels, -1)).transpose(0, 1))
        vector = mv.sum(-1)[..., None, :] - mv.transpose(-1, -2)
        scalar = m.sum(2)[:, None] - m.transpose(1, 2)
        near = self.near(torch.cat([scalar, as_rows(self.features.dot(vector, vector))], -1))
        h = as_features(self.near_out, nn.functional.silu(near + self.own(node)[:, None]))
        passed_on = as_features(self.passed_on, m) * mask[..., 0]
        beyond = (nn.functional.silu(h) * mask[..., 0]) @ passed_on.transpose(-1, -2)
        h = self.out(as_rows(nn.functional.silu(h + as_features(self.beyond, as_rows(beyond)))))
        heading = self._per_class(self.heading, h) * (mask[..., 0] / crowd)
        return h, vector, self.features.weigh(vector, heading)

    def _per_class(self, layer: nn.Linear, rows: Tensor) -> Tensor:
        return as_features(layer, rows).unflatten(0, (self.features.classes, -1))


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
        return g, weights


class HollowNetwork(TorusNetwork):
    """Velocity field of particle systems on a torus with a cheap exact divergence.

    Equivariant to translations, to permutations of like particles and to the box's point group; analytic on the torus.
    The mean velocity is removed, which changes neither the divergence (the mean is translation invariant) nor the law
    of translation-invariant systems.

    Args:
        torus: the box.
        species: species index per particle.
        diameters: diameter per particle (polydisperse systems), or None.
        width, rounds, harmonics, radial, channels: sizes; `channels` counts the vectors told about each neighbour.
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
        channels: int = 8,
        denoiser: bool = False,
    ):
        super().__init__(torus, species, diameters, width, harmonics, radial)
        self.rounds, self.heads = rounds, 2 if denoiser else 1
        k, classes, inv = self.features.vectors, self.features.classes, self.features.invariants
        self.surroundings = _Surroundings(width, self.features, channels)
        self.start = nn.Linear(width, width)
        n_dots, n_vectors = 2 * classes * channels, k + channels
        outputs = [self.heads + (r + 1 < rounds) for r in range(rounds)]
        self.star = nn.ModuleList([_StarRound(width, inv + n_dots, classes * n_vectors, n) for n in outputs])

    def _told(self, t: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Node states that know time, species and size alone, and what each particle is told about each neighbour."""
        node = self.clock(t, self.traits)
        return node, *self.surroundings(node, delta, self.mask, self.crowd)

    def _star(self, delta: Tensor, node: Tensor, h: Tensor, vector: Tensor, heading: Tensor) -> Tensor:
        """Both heads, or the one, `(heads, batch, N, dim)`."""
        g, out = self.start(node), delta.new_zeros(self.heads, *delta.shape[:-1])
        delta = delta + heading
        for r, star in enumerate(self.star):
            invariants, vectors = (self.moved_features if r else self.features)(delta)
            dots = [self.features.dot(vector, vectors[k]) for k in (0, 2)]
            g, weights = star(g, h, torch.cat([invariants, *dots]), self.mask)
            arrows = torch.cat([vectors, vector])
            weights = weights.view(-1, self.features.classes, len(arrows), *delta.shape[1:])
            moves = (self.features.weigh(arrows, weights) * (self.mask[..., 0] / self.crowd)).sum(-1)
            out = out + moves[: self.heads]
            if r + 1 < self.rounds:
                delta = delta - moves[-1][..., None]
        return out.movedim(1, -1)

    def forward(
        self, t: Float[Tensor, " batch"], x: Positions, denoiser: bool = False
    ) -> Float[Tensor, "*heads batch particle dim"]:
        """Velocities at times `t` in [0, 1] and positions `x`, in lengths per unit of t.

        With `denoiser` both heads, `(2, batch, N, dim)`: velocities, and E[z | x_t = x] of the noise γ(t) z.

        Raises:
            TypeError: the network was made without the second head.
        """
        require_denoiser(denoiser, self.heads)
        delta = pair_displacements(x)
        heads = remove_drift(self._star(delta, *self._told(t, delta)))
        return heads if denoiser else heads[0]

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
            with torch.no_grad():
                told = self._told(t, delta)
            velocity = self._star(delta, *told)[0]
            divergence = torch.zeros_like(velocity[:, 0, 0])
            for axis, along in enumerate(velocity.unbind(-1)):
                (slopes,) = torch.autograd.grad(along.sum(), delta, retain_graph=axis + 1 < x.shape[-1])
                divergence = divergence - slopes[axis].sum((1, 2))
        return remove_drift(velocity).detach(), divergence.detach()
