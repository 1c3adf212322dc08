"""Flows of one isomer: coupling layers on the vibrations of its Eckart frame, with a density over all labelled copies.

A configuration is an orientation and d, the 3N − 6 coordinates of the frame. The flow is a density f of d, averaged
over the point group, to which the isomer's Boltzmann weight is blind. What is reported is a density in Cartesian
coordinates of the centre-free subspace (3N − 3 dimensions), uniform over orientations and labelled copies:
log q(x) = log f(d) − log_volume(d).
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from particlegen.flow.contract import FlowSamples
from particlegen.geometry import Positions
from particlegen.isomers import EckartFrame
from particlegen.settings import InputError, Section
from particlegen.streams import stream_seed
from particlegen.system import ParticleSystem
from particlegen.training import TrainingSettings

__all__ = ["Coupling", "CouplingSettings", "IsomerFlow"]

Coordinates = Float[Tensor, "batch coordinate"]
Values = Float[Tensor, " batch"]

_ROWS = 1 << 14
"""Rows that the coupling layers take at once; it bounds the memory."""


def _training() -> TrainingSettings:
    return TrainingSettings(
        batch=256,
        steps=500,
        learning_rate=2e-3,
        warm_up=50,
        final_rate=0.02,
        ema=0.98,
        validation=512,
        validate_every=50,
        optimiser="adam",
    )


class CouplingSettings(Section):
    """The `flow` section of a workflow on isomers.

    Attributes:
        kind: `affine_coupling` (Dinh et al. 2017), or `spline_coupling` (rational quadratic splines, Durkan et al.
            2019), which bends more and costs several times as much.
        layers: couplings; each changes half of the coordinates as a function of the other half.
        hidden: widths of the network of each coupling.
        bins: of each spline.
        backward: share of the backward divergence in the loss; needs an engine with forces. 0 fits chain states alone.
        retraining: length of a later round of training as a share of the first one's.
        training: the loop; `compile` and `precision` are not for flows of isomers. By default 500 steps of 256 states,
            ema 0.98; what the section leaves out stays so.
    """

    kind: Literal["affine_coupling", "spline_coupling"] = "affine_coupling"
    layers: Annotated[int, Field(ge=2, le=64)] = 8
    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=8)] = (64, 64)
    bins: Annotated[int, Field(ge=2, le=64)] = 8
    backward: Annotated[float, Field(ge=0, le=1)] = 0.0
    retraining: Annotated[float, Field(gt=0, le=1)] = 0.25
    training: TrainingSettings = Field(default_factory=_training)

    @field_validator("training", mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        """What is not given of the section is as it is without the section."""
        if not isinstance(given, Mapping):
            return given
        own = _training().model_dump(exclude_unset=True)
        if given.get("minutes") is not None:
            del own["steps"]
        return own | dict(given)

    @field_validator("training")
    @classmethod
    def _double(cls, training: TrainingSettings) -> TrainingSettings:
        if training.compile or training.precision != "float32":
            raise ValueError("flows of isomers are trained in float64; leave out compile and precision")
        return training

    @model_validator(mode="after")
    def _one_worker(self) -> "CouplingSettings":
        if self.backward and self.training.workers > 1:
            raise ValueError("with 'backward' the engine shares a batch itself; leave training.workers at 1")
        return self


class Coupling(nn.Module):
    """A standard normal of `size` dimensions, carried by coupling layers of zuko; the identity before it is trained.

    Layers come in pairs: what the first leaves as it is, the second changes. Which coordinates these are is drawn anew
    for each pair. Parameters and densities are float64.

    Args:
        size: number of coordinates, two or more.
        settings: the workflow's `flow` section.
        seed: of weights and halves.

    Raises:
        InputError: zuko is missing.
    """

    def __init__(self, size: int, settings: CouplingSettings, seed: int):
        super().__init__()
        try:
            from zuko.flows.coupling import GeneralCouplingTransform
            from zuko.lazy import LazyComposedTransform
            from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform
        except ImportError as error:
            raise InputError(f"flow kind {settings.kind!r} needs zuko; pip install 'particlegen[flows]'") from error
        spline, bins = settings.kind == "spline_coupling", settings.bins
        layer: Any = partial(
            GeneralCouplingTransform,
            size,
            univariate=MonotonicRQSTransform if spline else MonotonicAffineTransform,
            shapes=[(bins,), (bins,), (bins - 1,)] if spline else [(), ()],
            hidden_features=settings.hidden,
            activation=nn.SiLU,
        )
        layers = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "flow.weights"))
            kept = torch.zeros(size, dtype=torch.bool)
            for number in range(settings.layers):
                kept = ~kept if number % 2 else torch.randperm(size) % 2 == 0
                layers.append(layer(mask=kept))
                nn.init.zeros_(layers[-1].hyper[-1].weight)
                nn.init.zeros_(layers[-1].hyper[-1].bias)
        self.layers, self.size = LazyComposedTransform(*layers).double(), size

    def forward(self, z: Coordinates) -> Values:
        """The log-density at `z`."""
        if not len(z):
            return z.new_zeros(0)  # zuko cannot sum over nothing
        u, log_det = self.layers().call_and_ladj(z)
        return log_det - 0.5 * (u.square().sum(1) + self.size * math.log(2 * math.pi))

    def to_base(self, z: Coordinates) -> Coordinates:
        """The point of the standard normal that is carried to `z`."""
        return self.layers()(z)

    def from_base(self, u: Coordinates) -> Coordinates:
        """Where a point of the standard normal is carried."""
        return self.layers().inv(u)


class IsomerFlow(nn.Module):
    """Configurations of one isomer with log q; keeps the contract of `Flow`.

    The coupling layers work on whitened coordinates z, d = mean + z axes, with the mean and covariance that chain
    states have (`fit_base`); before any training the flow is that Gaussian. f is the mean of the layers' density over
    the images under the point group, and samples are moved to a random image. Without that log q would not be a
    function of the configuration, since labels lead back to the frame's copy only up to the point group. It costs as
    many passes as the group has operations.

    A sample outside the frame's cell stands for nothing: its log q is +∞, its weight zero, and it counts in n.

    The error of log q is by how much it changes when the point goes to the standard normal and back.

    Args:
        system: particles in free space of three dimensions.
        frame: of one labelled copy of the isomer.
        settings: the workflow's `flow` section.
        seed: of the first weights.

    Raises:
        InputError: zuko is missing, or the system is not the frame's.
    """

    mean: Tensor
    axes: Tensor

    def __init__(self, system: ParticleSystem, frame: EckartFrame, settings: CouplingSettings, seed: int = 0):
        super().__init__()
        if system.geometry.periodic or system.dim != 3 or system.species != tuple(frame.species):
            raise InputError(
                f"system {system.name!r}: a flow of isomers needs particles in free space of three dimensions, of the "
                f"species {tuple(frame.species)} of its frame; found {system.dim} dimensions and {system.species}"
            )
        self.system, self.frame, self.settings = system, frame, settings
        self.coupling = Coupling(frame.dimensions, settings, seed)
        self.register_buffer("mean", torch.zeros(frame.dimensions, dtype=torch.float64))
        self.register_buffer("axes", torch.eye(frame.dimensions, dtype=torch.float64))

    def fit_base(self, states: Positions) -> None:
        """Takes mean and covariance from states of the isomer, averaged over the point group.

        Args:
            states: `(state, N, 3)`, labels and orientation as they come.

        Raises:
            InputError: there are too few for a covariance, or they do not move.
        """
        d = self.frame.symmetry_images(self.frame.fold(states)).flatten(0, 1)
        mean = d.mean(0)
        variances, directions = torch.linalg.eigh((d - mean).T @ (d - mean) / len(d))
        if len(states) <= self.frame.dimensions or not variances[0] > 1e-12 * variances[-1]:
            raise InputError(
                f"flow: {len(states)} states do not fix a covariance of {self.frame.dimensions} coordinates; sample "
                "the isomer for longer before its flow is made"
            )
        self.mean.copy_(mean)
        self.axes.copy_(variances.sqrt()[:, None] * directions.T)

    def whiten(self, d: Coordinates) -> Coordinates:
        """z of coordinates d of the frame."""
        return (d - self.mean) @ torch.linalg.inv(self.axes)

    def colour(self, z: Coordinates) -> Coordinates:
        """d of whitened coordinates."""
        return self.mean + z @ self.axes

    @property
    def images(self) -> Float[Tensor, "image coordinate coordinate"]:
        """The point group on whitened coordinates, `z @ images[k]`; orthogonal, as the Gaussian is symmetric."""
        return self.axes @ self.frame.images @ torch.linalg.inv(self.axes)

    def log_density(self, d: Coordinates) -> Values:
        """ln f: the log-density of coordinates d, averaged over the point group; its integral over all d is 1."""
        images, parts = self.images, []
        for z in self.whiten(d).split(max(1, _ROWS // len(self.images))):
            moved = torch.einsum("bd,hde->bhe", z, images)
            parts.append(self.coupling(moved.flatten(0, 1)).unflatten(0, moved.shape[:2]).logsumexp(1))
        scale = torch.linalg.slogdet(self.axes).logabsdet + math.log(len(images))
        return torch.cat(parts) - scale

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> FlowSamples:
        """`n` configurations in uniformly random orientations, centre at the origin, labels as in the frame.

        log q counts all labelled copies, as does the mean of exp(−βU)/q; +∞ outside the cell.
        """
        u = torch.randn(n, self.frame.dimensions, generator=generator, dtype=torch.float64)
        which = torch.randint(len(self.frame.images), (n,), generator=generator)
        turns = _random_rotations(n, generator)
        z = torch.cat([self.coupling.from_base(part) for part in u.split(_ROWS)])
        d = self.colour(torch.einsum("bd,bde->be", z, self.images[which]))
        log_f, error = self._with_error(d)
        log_q = torch.where(self.frame.in_cell(d), log_f - self.frame.log_volume(d), torch.inf)
        return FlowSamples(self.frame.to_cartesian(d) @ turns, log_q, error)

    @torch.no_grad()
    def log_prob(self, x: Positions) -> tuple[Values, Values]:
        """log q `(n,)` of configurations in any labels and orientation, and its error; −∞ where no sample can be."""
        d = self.frame.fold(x.double())
        log_f, error = self._with_error(d)
        return torch.where(self.frame.in_cell(d), log_f - self.frame.log_volume(d), -torch.inf), error

    def _with_error(self, d: Coordinates) -> tuple[Values, Values]:
        z = self.whiten(d)
        pairs = ((part, self.coupling.from_base(self.coupling.to_base(part))) for part in z.split(_ROWS))
        errors = [(self.coupling(back) - self.coupling(part)).abs() for part, back in pairs]
        return self.log_density(d), torch.cat(errors)


def _random_rotations(n: int, generator: torch.Generator) -> Float[Tensor, "n 3 3"]:
    """Rotations uniform over SO(3): those of unit quaternions with uniform direction."""
    q = nn.functional.normalize(torch.randn(n, 4, generator=generator, dtype=torch.float64), dim=1)
    w, v = q[:, 0, None, None], q[:, 1:]
    cross = torch.linalg.cross(torch.eye(3, dtype=torch.float64).expand(n, 3, 3), v[:, None].expand(n, 3, 3))
    eye = torch.eye(3, dtype=torch.float64)
    return (2 * w.square() - 1) * eye + 2 * v[:, :, None] * v[:, None] + 2 * w * cross
