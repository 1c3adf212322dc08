"""The moment network: energies of particles by dense tensors over all pairs, made for clusters and small boxes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from particlegen.networks.layers import mlp
from particlegen.networks.radial import CROWD, RadialBasis, pair_distances

__all__ = ["MomentNetwork"]


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
        moments = weights.transpose(-1, -2) @ shapes / CROWD
        scalar, vector, tensor = (
            mix(part.transpose(-1, -2)) for mix, part in zip(self.mix, moments.split((1, 3, 6), -1), strict=True)
        )
        xx, yy, zz, xy, xz, yz = tensor.unbind(2)
        x, y, z = vector.unbind(2)
        along_x, along_y, along_z = xx * x + xy * y + xz * z, xy * x + yy * y + yz * z, xz * x + yz * y + zz * z
        square_xy, square_xz, square_yz = xy * xy, xz * xz, yz * yz
        invariants = [
            scalar[:, :, 0],
            x * x + y * y + z * z,
            xx * xx + yy * yy + zz * zz + 2.0 * (square_xy + square_xz + square_yz),
            x * along_x + y * along_y + z * along_z,
            along_x * along_x + along_y * along_y + along_z * along_z,
            xx * (yy * zz - square_yz) - yy * square_xz - zz * square_xy + 2.0 * xy * xz * yz,
        ]
        return h + self.update(torch.cat([h, *invariants], -1))


class MomentNetwork(nn.Module):
    """Energies of particles from moments of their surroundings; a `PotentialNetwork`.

    In every round, a particle's neighbours add up to a scalar, a vector and a traceless tensor per channel, weighted by
    learned functions of distance and by their own state. The invariants of these (v², T:T, vTv, vTTv, det T: up to five
    bodies a round) enter its next state. Moments as in Shapeev 2016, Eq. 6, with learned states in place of
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
        x, y, z = unit.unbind(-1)
        quadrupole = [x * x - 1 / 3, y * y - 1 / 3, z * z - 1 / 3, x * y, x * z, y * z]
        shapes = torch.stack([torch.ones_like(r), x, y, z, *quadrupole], -1)
        sender = torch.arange(images, device=delta.device) % n
        h = self.species(kinds).expand(len(delta), n, -1)
        for step in self.rounds:
            h = step(h, basis, shapes, sender)
        return self.energy(h)[..., 0]
