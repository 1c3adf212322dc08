"""What production stored and the correction labelled, sorted by isomer."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from particlegen.io.store import RunStore
from particlegen.workflow.isomers.job import CORRECTION, IsomerJob
from particlegen.workflow.isomers.production import CHAINS, DRAWS, spread_states

__all__ = ["IsomerStates", "LabelledStates", "labelled_states", "stored_states", "weighted_states"]


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


@dataclass(frozen=True, eq=False)
class LabelledStates:
    """Independent states of one isomer's production that both the learned potential and the engine know.

    Args:
        positions: `(state, N, 3)` in the unit of length.
        exact, surrogate: energies of the engine and of the learned potential, `(state,)`.
        deviation: standard deviation of the energy that the potential tells, `(state,)`.
        log_weight: −β(U_engine − U_learned), which takes them to the engine's ensemble, `(state,)`.
    """

    positions: Float[np.ndarray, "state N 3"]
    exact: Float[np.ndarray, " state"]
    surrogate: Float[np.ndarray, " state"]
    deviation: Float[np.ndarray, " state"]
    log_weight: Float[np.ndarray, " state"]


def labelled_states(job: IsomerJob, index: int) -> LabelledStates | None:
    """Those of an isomer; None where the engine itself was sampled."""
    saved, name = job.load(CORRECTION), job.built.isomers[index].name
    if saved is None:
        return None
    x, exact, surrogate, deviation = (
        saved.tensors[f"{name}.{key}"].numpy() for key in ("labelled", "exact", "surrogate", "deviation")
    )
    return LabelledStates(x, exact, surrogate, deviation, -job.built.state.beta * (exact - surrogate))


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


def weighted_states(job: IsomerJob, index: int, count: int) -> tuple[Tensor, Tensor]:
    """States `(state, N, 3)` of an isomer in the engine's ensemble, and their log weights `(state,)` up to a constant.

    Evenly spread states of production: equally weighted where the engine itself was sampled; else those that it
    labelled. At most `count`.
    """
    if job.workflow.learned is None:
        x = torch.stack(list(spread_states(job, index, count)))
        return x, torch.zeros(len(x), dtype=torch.float64)
    labelled = labelled_states(job, index)
    if labelled is None:
        raise RuntimeError("the stage 'correction' has to run first")
    x, log_w = torch.from_numpy(labelled.positions), torch.from_numpy(labelled.log_weight)
    rows = torch.linspace(0, len(x) - 1, min(count, len(x))).round().long()
    return x[rows], log_w[rows]
