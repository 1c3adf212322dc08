"""What chains of isomers sample: Boltzmann's law of an engine, cut to the basin of each chain's isomer."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from particlegen.energy.provider import EnergyProvider
from particlegen.geometry import Geometry, Positions
from particlegen.sampling.leapfrog import Engine

__all__ = ["Indicator", "IsomerTarget", "centred"]

Indicator = Callable[[Tensor], Tensor]


def centred(x: Tensor) -> Tensor:
    """Vectors `(..., N, dim)` less their mean over particles: positions at their centroid, momenta without drift."""
    return x - x.mean(-2, keepdim=True)


class IsomerTarget:
    """π(x, k) ∝ exp(−βU(x)) where the basin of x is isomer k and x lies in the confining sphere about its centroid.

    A density over centred positions, in orthonormal Cartesian coordinates of that subspace. With one isomer it is the
    law of that basin. With several, chains carry the label k; where none moves it, each stays in its isomer, and where
    a kernel does, the labels' shares are those of the isomers' partition functions.

    Args:
        provider: the engine; its system's geometry confines. Wrap it in `Counted` for the ledger.
        beta: 1/kT.
        basins: index of the isomer `(batch,)` int64 of positions `(batch, N, dim)`, a negative one for none. It has to
            be independent of the engine, so that all engines share one support.
        isomers: indices of the isomers that chains may be in.

    Raises:
        ValueError: no isomers, the same one twice, or a system on a torus, which has no centroid.
    """

    def __init__(self, provider: EnergyProvider, beta: float, basins: Indicator, isomers: Sequence[int]):
        if not isomers or len(set(isomers)) < len(isomers):
            raise ValueError(f"isomers: expected different indices, at least one, found {tuple(isomers)}")
        if provider.system.geometry.periodic:
            raise ValueError(f"system {provider.system.name!r} is periodic; isomers live in free space")
        self.engine, self.beta, self.basins, self.isomers = Engine(provider), beta, basins, tuple(isomers)

    @property
    def geometry(self) -> Geometry:
        return self.engine.provider.system.geometry

    def inside(self, x: Positions, labels: Int64[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Which centred positions have a weight for the isomers in `labels`; not those with NaN."""
        inside = self.geometry.contains(x)
        rows = inside.nonzero()[:, 0]
        inside[rows] = self.basins(x[rows]).cpu() == labels[rows]
        return inside

    def evaluate(self, x: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """Energies, forces without that on the centroid, and whether they can be used; inside or not."""
        energies, forces, ok = self.engine.evaluate(x)
        return energies, centred(forces), ok

    def weigh(
        self, x: Positions, labels: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, " batch"], Bool[Tensor, " batch"], Bool[Tensor, " batch"]]:
        """Energies of centred positions, NaN without a weight; which are outside; which have no energy.

        The engine is not asked for those outside.
        """
        inside = self.inside(x, labels)
        energies, failed = torch.full((len(x),), torch.nan, dtype=torch.float64), torch.zeros_like(inside)
        rows = inside.nonzero()[:, 0]
        if len(rows):
            found, _, ok = self.engine.evaluate(x[rows], forces=False)
            energies[rows], failed[rows] = torch.where(ok, found, torch.nan), ~ok
        return energies, ~inside, failed
