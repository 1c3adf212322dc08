"""One training loop for every network: Muon and Adam, warm-up and cosine decay, clipping, running average, validation.

The loop is a generator that yields its progress; whoever runs it decides when to store `Trainer.state()`. Every step
draws its random numbers from a stream of its own, so a resumed run repeats the uninterrupted one to the byte.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from particlegen.settings import RunError, Section
from particlegen.streams import torch_stream

__all__ = ["Loss", "Trainer", "TrainingProgress", "TrainingSettings"]

Loss = Callable[[nn.Module, Tensor, torch.Generator], Tensor]
"""`loss(network, batch of data on the CPU, generator)` → scalar to be minimised."""

_MUON_SHARE = 5.0
"""Muon's rate over Adam's."""
_MUON_LEAST = 8
"""Fewest rows and columns of a matrix that Muon takes."""
_TIMED_STEPS = (10, 30)
"""Steps between which the speed is measured that turns `minutes` into a number of steps."""
_OUTLIER = 5.0
"""Most that a gradient's norm may be of its running mean: one singular configuration would lead momenta far astray."""
_NORMS = 100
"""Steps over which that mean is taken."""
_MOST_BAD_STEPS = 20
"""Steps in a row with a non-finite gradient, each skipped, after which the training gives up."""


class TrainingSettings(Section):
    """The `training` section of a workflow.

    Attributes:
        batch: configurations per step.
        steps, minutes: length of the training; exactly one. `minutes` is turned into a number of steps once, after the
            first 30, and stored, so that only that number depends on the machine.
        learning_rate: peak of Adam's rate, reached after `warm_up` steps, then cosine decay to `final_rate` times it;
            Muon's, for the matrices, is 5 times as high.
        ema: decay of the running average of the weights that is validated and used for sampling.
        clip: largest norm of the gradient, which never exceeds five times its running mean either.
        validation: frames set aside for the validation loss.
        validate_every: steps between validations.
        optimiser: `muon` for the matrices and Adam for all else, or `adam` for all: Muon fits faster, Adam generalises
            better from a few hundred labels.
        patience: validations without improvement after which training stops; 0 never stops early.
        precision: `bfloat16` computes activations of training at half precision (faster on recent CPUs and GPUs).
        compile: compile the training step with torch.compile; needs a C++ compiler and about a minute, then runs about
            twice as fast on a CPU.
        workers: equal parts of each batch whose gradients are taken side by side, one thread each, and added in order:
            part of the answer's definition, however many cores there are. On a GPU leave it at 1.
    """

    batch: Annotated[int, Field(ge=1, le=1 << 20)] = 256
    steps: Annotated[int, Field(ge=1)] | None = None
    minutes: Annotated[float, Field(gt=0, le=1e5)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3
    warm_up: Annotated[int, Field(ge=0)] = 200
    final_rate: Annotated[float, Field(ge=0, le=1)] = 0.005
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    clip: Annotated[float, Field(gt=0)] = 1.0
    validation: Annotated[int, Field(ge=1)] = 1024
    validate_every: Annotated[int, Field(ge=1)] = 250
    optimiser: Literal["muon", "adam"] = "muon"
    patience: Annotated[int, Field(ge=0)] = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    workers: Annotated[int, Field(ge=1, le=64)] = 1

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingSettings":
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give exactly one of 'steps' and 'minutes'")
        if self.batch % self.workers:
            raise ValueError(f"'batch' {self.batch} cannot be cut into {self.workers} equal parts, see 'workers'")
        return self


@dataclass(frozen=True)
class TrainingProgress:
    """State of the loop after `step` steps: `loss` is a mean over the finite steps since the last report,
    `validation_loss` that of the averaged weights."""

    step: int
    total_steps: int
    loss: float
    validation_loss: float
    seconds: float
    seconds_left: float
    done: bool


def _one_thread() -> None:
    torch.set_num_threads(1)


def _optimisers(network: nn.Module, kind: Literal["muon", "adam"]) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024: momentum, made orthogonal) for the matrices if it is asked for, Adam for all else."""
    matrices, others = [], []
    for parameter in network.parameters():
        is_matrix = kind == "muon" and parameter.ndim == 2 and min(parameter.shape) >= _MUON_LEAST
        (matrices if is_matrix else others).append(parameter)
    muon = [torch.optim.Muon([{"params": matrices, "share": _MUON_SHARE}], weight_decay=0.0)] if matrices else []
    adam = [torch.optim.Adam([{"params": others, "share": 1.0}])] if others else []
    return [*muon, *adam]


class Trainer:
    """Minimises a loss over a data set; yields progress, and can be stored and restored at any yield.

    Args:
        network: trained in place.
        loss: see `Loss`.
        settings: the workflow's `training` section.
        seed: the workflow's seed.
        data: `(frames, ...)` float64 on the CPU, such as positions `(frames, particle, dim)`.
        validation: frames of the same kind; without them `settings.validation` of the data, at most 1/5, are set aside.

    Raises:
        RunError: the loss stays non-finite, or the step cannot be compiled.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        settings: TrainingSettings,
        seed: int,
        data: Tensor,
        validation: Tensor | None = None,
    ):
        self.network, self.loss, self.settings, self.seed = network, loss, settings, seed
        order = torch.randperm(len(data), generator=torch_stream(seed, "training.split"))
        held = max(1, min(settings.validation, len(data) // 5)) if validation is None else 0
        self.validation = data[order[:held]] if validation is None else validation
        self.data = data[order[held:]]
        if not len(self.data):
            raise RunError("training needs at least two frames of data")
        self.optimisers = _optimisers(network, settings.optimiser)
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.best = copy.deepcopy(self.average.state_dict())
        self._compiled = cast(nn.Module, torch.compile(network)) if settings.compile else network
        self.step, self.total_steps = 0, settings.steps or 0
        self.best_loss, self.last_loss, self.since_best = math.inf, math.nan, 0
        self.seconds, self.bad_steps, self.usual_norm = 0.0, 0, settings.clip
        self._parts = ThreadPoolExecutor(settings.workers, initializer=_one_thread) if settings.workers > 1 else None

    def run(self) -> Iterator[TrainingProgress]:
        """Train to the end, yielding every `validate_every` steps, every few seconds in between, and when done."""
        total, count = 0.0, 0
        report = clock = time.perf_counter()
        timed_from = math.nan
        while not self._finished():
            value = self._train_step()
            self.step += 1
            if math.isfinite(value):
                total, count = total + value, count + 1
            now = time.perf_counter()
            self.seconds, clock = self.seconds + now - clock, now
            if not self.total_steps:
                if self.step == _TIMED_STEPS[0]:
                    timed_from = self.seconds
                elif self.step >= _TIMED_STEPS[1]:
                    self._plan(timed_from)
            validate = self.step % self.settings.validate_every == 0 or self.step == self.total_steps
            if validate:
                self._validate()
            if validate or now - report > 2.0:
                yield self._progress(total / count if count else math.nan)
                total, count, report, clock = 0.0, 0, time.perf_counter(), time.perf_counter()

    def ema_weights(self) -> dict[str, Tensor]:
        """The running average of the weights at its lowest validation loss."""
        return {name: value.detach().cpu().clone() for name, value in self.best.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that `restore` needs: named tensors, and JSON-serialisable numbers."""
        parts = {"network": self.network.state_dict(), "average": self.average.state_dict(), "best": self.best}
        tensors = {f"{part}.{name}": v.detach().cpu().clone() for part, d in parts.items() for name, v in d.items()}
        for which, optimiser in enumerate(self.optimisers):
            for index, entry in optimiser.state_dict()["state"].items():
                moments = {f"optimiser.{which}.{index}.{name}": value for name, value in entry.items()}
                tensors |= {name: value.detach().cpu().clone() for name, value in moments.items()}
        names = ("step", "total_steps", "best_loss", "last_loss", "since_best", "seconds", "bad_steps", "usual_norm")
        return tensors, {name: getattr(self, name) for name in names}

    def restore(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            RuntimeError, ValueError: it is the state of another network or of other optimisers.
        """

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix + "."): v for k, v in tensors.items() if k.startswith(prefix + ".")}

        self.network.load_state_dict(part("network"))
        self.average.load_state_dict(part("average"))
        self.best = {k: v.to(next(self.network.parameters()).device) for k, v in part("best").items()}
        for which, optimiser in enumerate(self.optimisers):
            saved = optimiser.state_dict()
            for key, value in part(f"optimiser.{which}").items():
                index, name = key.split(".", 1)
                saved["state"].setdefault(int(index), {})[name] = value
            optimiser.load_state_dict(saved)
        if self.state()[0].keys() != tensors.keys():
            raise ValueError("the state of other optimisers")
        for name, value in metadata.items():
            setattr(self, name, value)

    def _finished(self) -> bool:
        patience = self.settings.patience
        exhausted = bool(patience) and self.since_best >= patience
        return exhausted or bool(self.total_steps and self.step >= self.total_steps)

    def _plan(self, timed_from: float) -> None:
        if math.isnan(timed_from):  # resumed inside the timed steps
            per_step = self.seconds / self.step
        else:
            per_step = (self.seconds - timed_from) / (_TIMED_STEPS[1] - _TIMED_STEPS[0])
        left = 60 * (self.settings.minutes or 0) - self.seconds
        self.total_steps = self.step + max(1, round(left / per_step))

    def _rate(self) -> float:
        s = self.settings
        fraction = self.step / self.total_steps if self.total_steps else 0.0
        decay = s.final_rate + (1 - s.final_rate) * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
        return s.learning_rate * min(1.0, (self.step + 1) / max(s.warm_up, 1)) * decay

    def _train_step(self) -> float:
        workers, generator = self.settings.workers, torch_stream(self.seed, "training", self.step)
        batch = self.data[torch.randint(len(self.data), (self.settings.batch,), generator=generator)]
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self._rate() * group["share"]
        generators = [generator, *(torch_stream(self.seed, "training", self.step, part) for part in range(1, workers))]
        try:
            shares = list((self._parts.map if self._parts else map)(self._gradient, batch.chunk(workers), generators))
        except TorchDynamoException as error:
            raise RunError(f"the training step cannot be compiled ({error}); set training.compile: false") from error
        losses, gradients = zip(*shares, strict=True)
        for parameter, parts in zip(self.network.parameters(), zip(*gradients, strict=True), strict=True):
            parameter.grad = torch.stack(parts).mean(0)
        largest = min(self.settings.clip, _OUTLIER * self.usual_norm)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), largest)
        if not torch.isfinite(norm):
            self.bad_steps += 1
            if self.bad_steps > _MOST_BAD_STEPS:
                raise RunError("training: the loss is not finite again and again; lower training.learning_rate")
            return math.nan
        self.bad_steps = 0
        if norm > 0:
            self.usual_norm += (min(float(norm), largest) - self.usual_norm) / min(self.step + 1, _NORMS)
        for optimiser in self.optimisers:
            optimiser.step()
        keep = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for average, current in zip(self.average.parameters(), self.network.parameters(), strict=True):
                average.lerp_(current, 1 - keep)
        return sum(losses) / workers

    def _gradient(self, batch: Tensor, generator: torch.Generator) -> tuple[float, tuple[Tensor, ...]]:
        """Loss and gradient of a part of the batch."""
        device = next(self.network.parameters()).device
        half = self.settings.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = self.loss(self._compiled, batch, generator)
        gradients = torch.autograd.grad(loss, list(self.network.parameters()), materialize_grads=True)
        return loss.item(), gradients

    def _validate(self) -> None:
        total, batch = 0.0, self.settings.batch
        with torch.no_grad():
            for chunk, data in enumerate(self.validation.split(batch)):
                generator = torch_stream(self.seed, "training.validation", chunk)
                total += self.loss(self.average, data, generator).item() * len(data)
        self.last_loss = total / len(self.validation)
        if self.last_loss < self.best_loss:
            self.best_loss, self.since_best = self.last_loss, 0
            self.best = copy.deepcopy(self.average.state_dict())
        else:
            self.since_best += 1

    def _progress(self, loss: float) -> TrainingProgress:
        if self.total_steps:
            left = (self.total_steps - self.step) * self.seconds / self.step
        else:
            left = max(0.0, 60 * (self.settings.minutes or 0) - self.seconds)
        done = self._finished()
        return TrainingProgress(
            self.step, self.total_steps, loss, self.last_loss, self.seconds, 0.0 if done else left, done
        )
