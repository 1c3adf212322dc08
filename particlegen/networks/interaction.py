"""The interaction network: equivariant message passing by e3nn, batches as one graph of torch-geometric."""

import itertools
from typing import Any

import torch
from e3nn import o3
from e3nn.nn import FullyConnectedNet, Gate
from e3nn.util.jit import disable_e3nn_codegen
from torch import Tensor, nn
from torch.nn.functional import one_hot, silu
from torch_geometric.nn import MessagePassing

from particlegen.networks.layers import mlp
from particlegen.networks.radial import CROWD, RadialBasis

__all__ = ["InteractionNetwork"]


def _irreps(content: Any) -> Any:
    """e3nn's `Irreps`, which type checkers cannot follow."""
    return o3.Irreps(content)


_HARMONICS = _irreps("0e + 1o + 2e")


class _Interaction(MessagePassing):
    """Messages are tensor products of the sender's features with the edge's harmonics, weighted by the distance."""

    def __init__(self, told: Any, kept: Any, species: int, radial: int, width: int):
        super().__init__(aggr="add")
        scalars = _irreps([(mul, ir) for mul, ir in kept if ir.l == 0])
        gated = _irreps([(mul, ir) for mul, ir in kept if ir.l > 0])
        gates = _irreps([(gated.num_irreps, "0e")] if gated.num_irreps else [])
        self.gate = Gate(scalars, [silu], gates, [torch.sigmoid] if gated.num_irreps else [], gated)
        gated_in: Any = self.gate.irreps_in
        wanted = {ir for _, ir in gated_in}
        paths = [
            (i, j, mul, ir)
            for i, (mul, one) in enumerate(told)
            for j, (_, other) in enumerate(_HARMONICS)
            for ir in one * other
            if ir in wanted
        ]
        made, place, _ = _irreps([(mul, ir) for *_, mul, ir in paths]).sort()
        steps = [(i, j, place[k], "uvu", True) for k, (i, j, _, _) in enumerate(paths)]
        self.send = o3.Linear(told, told)
        self.product = o3.TensorProduct(told, _HARMONICS, made, steps, shared_weights=False, internal_weights=False)
        self.weights = FullyConnectedNet([radial, width, self.product.weight_numel], silu)
        self.receive = o3.Linear(made.simplify(), gated_in)
        self.keep = o3.FullyConnectedTensorProduct(told, _irreps([(species, "0e")]), gated_in)

    def forward(self, h: Tensor, species: Tensor, edges: Tensor, basis: Tensor, harmonics: Tensor) -> Tensor:
        found = self.propagate(edges, h=self.send(h), weights=self.weights(basis), harmonics=harmonics)
        return self.gate(self.receive(found / CROWD) + self.keep(h, species))

    def message(self, h_j: Tensor, weights: Tensor, harmonics: Tensor) -> Tensor:
        return self.product(h_j, harmonics, weights)


class InteractionNetwork(nn.Module):
    """Energies of particles by equivariant messages up to l = 2 (Batzner et al. 2022); a `PotentialNetwork`.

    Features are `width` scalars, half as many vectors and a quarter as many tensors, of the parities of polynomials.
    The last round makes scalars only, which an energy is read from. e3nn's code runs as it is and not through
    TorchScript, which torch has deprecated and which compiles anew for every shape.

    Args:
        cutoff: distance from which on particles do not see each other.
        species: number of species.
        width, rounds, radial: sizes.
    """

    def __init__(self, cutoff: float, species: int, width: int, rounds: int, radial: int):
        super().__init__()
        self.species, self.cutoff = species, cutoff
        self.basis = RadialBasis(cutoff, radial)
        scalars = _irreps(f"{width}x0e")
        inner = _irreps(f"{width}x0e + {width // 2}x1o + {width // 4}x2e")
        features = [scalars, *[inner] * (rounds - 1), scalars]
        self.embedding = nn.Embedding(species, width)
        with disable_e3nn_codegen():
            self.harmonics = o3.SphericalHarmonics(_HARMONICS, normalize=True, normalization="component")
            self.rounds = nn.ModuleList(
                [_Interaction(told, kept, species, radial, 2 * width) for told, kept in itertools.pairwise(features)]
            )
        self.energy = mlp(width, width, 1)

    def forward(self, delta: Tensor, kinds: Tensor) -> Tensor:
        """Energies of particles, dimensionless; see `PotentialNetwork`. All configurations make one graph."""
        batch, n, images = delta.shape[:3]
        others = torch.ones(n, images, dtype=torch.bool, device=delta.device).fill_diagonal_(False)
        near = delta.detach().square().sum(-1) < self.cutoff**2
        item, receiver, column = (near & others).nonzero(as_tuple=True)
        edge = delta[item, receiver, column]
        graph = torch.stack([item * n + column % n, item * n + receiver])
        species = one_hot(kinds, self.species).to(delta).repeat(batch, 1)
        basis, harmonics = self.basis(edge.norm(dim=1)), self.harmonics(edge)
        h = self.embedding(kinds).repeat(batch, 1)
        for step in self.rounds:
            h = step(h, species, graph, basis, harmonics)
        return self.energy(h).view(batch, n)
