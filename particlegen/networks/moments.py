"""The moment network: energies of particles by dense tensors over all pairs, made for clusters and small boxes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from particlegen.networks.layers import mlp
from particlegen.networks.radial import RadialBasis, pair_distances

__all__ = ["MomentNetwork"]

_CROWD = 8.0**0.5
"""Root of a usual number of neighbours, which sums over neighbours are divided by."""


class _MomentRound(nn.Module):
    """Moments of each particle's surroundings, and what their invariants tell about its state."""

    def __init__(self, width: int, radial: int):
        super().__init__()
        self.radial = nn.Linear(radial, width, bias=False)
        self.send = nn.Linear(width, width)
        self.mix = nn.ModuleList([nn.Linear(width, width, bias=False) for _ in range(3)])
        self.update = mlp(7 * width, 2 * width, width)

    def forward(self, h: Tensor, basis: Tensor, shapes: Tensor, sender: Tensor) -> Tensor:
        weights = self.radial(basis) * self.send(h)[:, None, sender]
        moments = weights.transpose(-1, -2) @ shapes / _CROWD
        scalar, vector, tensor = (
            mix(part.transpose(-1, -2)) for mix, part in zip(self.mix, moments.split((1, 3, 9), -1), strict=True)
        )
        tensor = tensor.unflatten(2, (3, 3))
        along = (tensor * vector[:, :, None]).sum(3)
        squared = (tensor[:, :, :, :, None] * tensor[:, :, None]).sum(3)
        invariants = [
            scalar[:, :, 0],
            vector.square().sum(2),
            tensor.square().sum((2, 3)),
            (vector * along).sum(2),
            along.square().sum(2),
            (squared * tensor).sum((2, 3)),
        ]
        return h + self.update(torch.cat([h, *invariants], -1))


class MomentNetwork(nn.Module):
    """Energies of particles from moments of their surroundings; a `PotentialNetwork`.

    In every round, a particle's neighbours add up to a scalar, a vector and a traceless tensor per channel, weighted by
    learned functions of distance and by their own state. The invariants of these (up to vTTv and tr T³, that is, up
    to five bodies a round) enter its next state. Moments as in Shapeev 2016, Eq. 6, with learned states in place of
    products of moments.

    Args:
        cutoff: distance from which on particles do not see each other.
        species: number of species.
        width, rounds, radial: sizes.
    """

    def __init__(self, cutoff: float, species: int, width: int, rounds: int, radial: int):
        super().__init__()
        self.basis = RadialBasis(cutoff, radial)
        self.species = nn.Embedding(species, width)
        self.rounds = nn.ModuleList([_MomentRound(width, radial) for _ in range(rounds)])
        self.energy = mlp(width, width, 1)
        # torch's own weights keep a third of the variance, too little for products of moments to be felt
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def forward(
        self, delta: Float[Tensor, "batch particle image 3"], kinds: Int[Tensor, " particle"]
    ) -> Float[Tensor, "batch particle"]:
        """Energies of particles, dimensionless; see `PotentialNetwork`."""
        n, images = delta.shape[1:3]
        r, others = pair_distances(delta)
        basis = self.basis(r) * others[..., None]
        unit = delta / r[..., None]
        quadrupole = unit[..., :, None] * unit[..., None, :] - torch.eye(3).to(unit) / 3
        shapes = torch.cat([torch.ones_like(r)[..., None], unit, quadrupole.flatten(-2)], -1)
        sender = torch.arange(images, device=delta.device) % n
        h = self.species(kinds).expand(len(delta), n, -1)
        for step in self.rounds:
            h = step(h, basis, shapes, sender)
        return self.energy(h)[..., 0]
