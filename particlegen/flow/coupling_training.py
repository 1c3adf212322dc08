"""Training of isomers' flows: on chain states and their images under the point group, and on an engine's energies."""

import copy
import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from particlegen.energy.provider import EnergyProvider
from particlegen.flow.coupling import Coupling, IsomerFlow
from particlegen.geometry import Positions
from particlegen.settings import InputError
from particlegen.streams import stream_seed
from particlegen.training import Trainer, TrainingProgress, TrainingSettings

__all__ = ["FlowTraining", "train_flow"]


class _Loss:
    """The forward divergence on whitened chain states, and a share of the backward one on the flow's own samples.

    Forward: −⟨log f⟩ over states, each moved to a random image under the point group. Backward: ⟨log q + βU⟩ over
    samples, differentiated along the samples with the engine's forces; validation leaves it out. It knows the frame's
    cell and no basins: where a neighbouring isomer reaches into the cell, samples are drawn there too.
    """

    def __init__(self, flow: IsomerFlow, provider: EnergyProvider | None, beta: float):
        self.flow, self.provider, self.beta, self.images = flow, provider, beta, flow.images

    def __call__(self, network: nn.Module, batch: Tensor, generator: torch.Generator) -> Tensor:
        share = self.flow.settings.backward
        which = torch.randint(len(self.images), (len(batch),), generator=generator)
        forward = -network(torch.einsum("bd,bde->be", batch, self.images[which])).mean()
        if self.provider is None or not share or not torch.is_grad_enabled():
            return forward
        u = torch.randn(math.ceil(share * len(batch)), batch.shape[1], generator=generator, dtype=batch.dtype)
        return (1 - share) * forward + share * self._backward(cast(Coupling, network), self.provider, u)

    def _backward(self, network: Coupling, provider: EnergyProvider, u: Tensor) -> Tensor:
        """⟨log q + βU⟩ over the samples that lie in the cell and have an energy.

        Energies more than one kT per coordinate above the median count by their logarithm (Noé et al. 2019): overlaps
        would drown all else.
        """
        z = network.from_base(u)
        d = self.flow.colour(z)
        x = self.flow.frame.to_cartesian(d)
        found = provider.evaluate(x.detach().to(provider.device), ("energy", "forces"))
        if found.forces is None:
            raise InputError(f"flow.backward: {provider.name} gives no forces; set it to 0")
        energy, forces = self.beta * found.energy.detach().to(x), self.beta * found.forces.detach().to(x)
        usable = found.ok.to(x.device) & self.flow.frame.in_cell(d.detach()) & forces.isfinite().all(2).all(1)
        if not usable.any():
            return z.sum() * 0.0
        energy = energy[usable] - (forces[usable] * (x[usable] - x[usable].detach())).sum((1, 2))
        limit = energy.detach().median() + network.size
        energy = torch.where(energy > limit, limit + (energy - limit).clamp_min(0.0).log1p(), energy)
        return (network(z[usable]) - self.flow.frame.log_volume(d[usable]) + energy).mean()


class FlowTraining:
    """Trains a flow on states of its isomer; can be stored and restored at any yield.

    The same flow, states, settings and seed give the same weights. The flow that is given stays as it is. A later
    round goes on from its weights, with optimisers that begin anew, for a share (`retraining`) of the first round's
    length, at the first round's rate divided by 1 + `number`: what adapts to the chains that it feeds has to settle
    down (Andrieu and Moulines 2006). Mean and covariance are those of the first round.

    Args:
        flow: to be trained; its `fit_base` was called.
        states: `(state, N, 3)` of the isomer, in any labels and orientation; the recent ones in a later round.
        seed: of everything random.
        number: of the round, from 0.
        provider: engine with forces in the place of U, where `backward` asks for it.
        beta: of the Boltzmann weight exp(−βU), with `provider`.

    Raises:
        InputError: `backward` without an engine.
    """

    def __init__(
        self,
        flow: IsomerFlow,
        states: Positions,
        seed: int = 0,
        number: int = 0,
        provider: EnergyProvider | None = None,
        beta: float = 0.0,
    ):
        settings = flow.settings
        if settings.backward and (provider is None or not beta > 0):
            raise InputError("flow.backward: the backward divergence needs an engine and a temperature; set it to 0")
        self._flow = copy.deepcopy(flow).requires_grad_(True)
        data = self._flow.whiten(self._flow.frame.fold(states.double()))
        loss = _Loss(self._flow, provider, beta)
        round_seed = stream_seed(seed, "flow.round", number)
        schedule = _schedule(settings.training, settings.retraining, number)
        self._trainer = Trainer(self._flow.coupling, loss, schedule, round_seed, data)

    def run(self) -> Iterator[TrainingProgress]:
        """Train to the end; losses are −⟨log f⟩ in whitened coordinates, with the backward part where it is asked for.

        Raises:
            RunError: the loss stays non-finite.
        """
        return self._trainer.run()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that `restore` needs: named tensors, and JSON-serialisable numbers."""
        return self._trainer.state()

    def restore(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            RuntimeError, ValueError: it is the state of another flow.
        """
        self._trainer.restore(tensors, metadata)

    def flow(self) -> IsomerFlow:
        """A flow with the averaged weights at their lowest validation loss so far, that no training changes."""
        found = copy.deepcopy(self._flow).requires_grad_(False)
        found.coupling.load_state_dict(self._trainer.ema_weights())
        return found


def _schedule(first: TrainingSettings, share: float, number: int) -> TrainingSettings:
    """Settings of a round."""
    if number == 0:
        return first
    change: dict[str, Any] = {"learning_rate": first.learning_rate / (1 + number)}
    if first.steps is not None:
        change["steps"] = math.ceil(share * first.steps)
    if first.minutes is not None:
        change["minutes"] = share * first.minutes
    return first.model_copy(update=change)


def train_flow(
    flow: IsomerFlow,
    states: Positions,
    seed: int = 0,
    number: int = 0,
    provider: EnergyProvider | None = None,
    beta: float = 0.0,
) -> tuple[IsomerFlow, TrainingProgress]:
    """Train to the end: the flow and the last progress; see `FlowTraining`."""
    training = FlowTraining(flow, states, seed, number, provider, beta)
    *_, progress = training.run()
    return training.flow(), progress
