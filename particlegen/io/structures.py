"""Structure files: our own small reader."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Structure"]


@dataclass(frozen=True)
class Structure:
    positions: np.ndarray
    lengths: tuple[float, ...] | None
    species: tuple[str | int, ...]
    diameters: np.ndarray | None = None

    @property
    def dim(self) -> int:
        return self.positions.shape[1]

    @property
    def periodic(self) -> bool:
        return self.lengths is not None
