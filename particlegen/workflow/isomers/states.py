"""What production stored, sorted by isomer; each array is read from the run store once."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from particlegen.io.store import RunStore
from particlegen.workflow.isomers.production import CHAINS, DRAWS

__all__ = ["IsomerStates", "stored_states"]


@dataclass(frozen=True, eq=False)
class IsomerStates:
    """States of one isomer's chains, in the order of time, and draws of its flow.

    Args:
        positions: `(chain, step, N, 3)` in the unit of length.
        energy: `(chain, step)` in the unit of energy.
        log_q: of the states under the isomer's flow, `(chain, step)`.
        drawn_energy: `(draw,)`; NaN for a draw without a weight.
        log_weight: of the draws, `(draw,)`; −inf for a draw without a weight.
    """

    positions: Float[np.ndarray, "chain step N 3"]
    energy: Float[np.ndarray, "chain step"]
    log_q: Float[np.ndarray, "chain step"]
    drawn_energy: Float[np.ndarray, " draw"]
    log_weight: Float[np.ndarray, " draw"]


def stored_states(store: RunStore, isomers: int, chains: int) -> tuple[IsomerStates, ...]:
    """States and draws of every isomer, by index.

    Args:
        store: of the run, with its production done.
        isomers: how many there are.
        chains: of each isomer.
    """
    owner, chain = store.read(CHAINS, "isomer"), store.read(CHAINS, "chain")
    positions, energy, log_q = (store.read(CHAINS, name) for name in ("position", "energy", "log_q"))
    drawn_by = store.read(DRAWS, "isomer")
    drawn_energy, log_weight = store.read(DRAWS, "energy"), store.read(DRAWS, "log_weight")
    found = []
    for number in range(isomers):
        # Blocks are stored one after the other, each by chain; a stable sort gives each chain in the order of time.
        rows = np.flatnonzero(owner == number)
        rows = rows[np.argsort(chain[rows], kind="stable")].reshape(chains, -1)
        mine = drawn_by == number
        found.append(IsomerStates(positions[rows], energy[rows], log_q[rows], drawn_energy[mine], log_weight[mine]))
    return tuple(found)
