"""torch-sim both ways: any of its models as an energy provider, and any provider as one of its models."""

import functools
import importlib
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from ase.data import atomic_masses
from torch import Tensor

from particlegen.energy.electrons import nuclear_charges
from particlegen.energy.provider import EnergyProvider, EnergyResult, check_request
from particlegen.geometry import FlatTorus, Positions
from particlegen.settings import InputError, RunError
from particlegen.system import ParticleSystem

__all__ = ["TorchSimEnergy", "torchsim_model", "torchsim_state"]

_CELL_TOLERANCE = 1e-9


def _torch_sim(module: str = "") -> Any:
    try:
        return importlib.import_module(f"torch_sim{module}")
    except ImportError as error:
        raise InputError("torch-sim is not installed; pip install 'particlegen[torchsim]'") from error


def torchsim_state(system: ParticleSystem, positions: Positions, elements: Mapping[str, str] | None = None) -> Any:
    """torch-sim's `SimState` of configurations, on the device and in the precision of `positions`.

    Args:
        system: three-dimensional; one σ is 1 Å and one ε 1 eV where units are reduced.
        positions: `(batch, particle, 3)`.
        elements: chemical symbol of every species whose name is none. Masses are those of the elements, in u.

    Raises:
        InputError: torch-sim is missing, two dimensions, or species without a chemical symbol.
        ValueError: positions of another N or dimension.
    """
    torch_sim = _torch_sim()
    if system.dim != 3:
        raise InputError(f"system {system.name!r}: torch-sim needs three dimensions, it has {system.dim}")
    check_request(system, positions, ())
    batch, n = len(positions), system.n_particles
    numbers = torch.tensor(nuclear_charges(system, elements), device=positions.device).repeat(batch)
    lengths = positions.new_tensor(getattr(system.geometry, "lengths", (0.0, 0.0, 0.0)))
    return torch_sim.SimState(
        positions=positions.reshape(-1, 3).clone(),
        masses=positions.new_tensor(atomic_masses)[numbers],
        cell=torch.diag(lengths).repeat(batch, 1, 1),
        pbc=system.geometry.periodic,
        atomic_numbers=numbers,
        system_idx=torch.arange(batch, device=positions.device).repeat_interleave(n),
    )


class TorchSimEnergy:
    """Energies of a torch-sim model in batches, on its device, in its units (eV, Å; or read as ε, σ).

    The model computes in its own precision; what it answers is raised to float64. Forces and, from them, the virial of
    free space are offered where it has forces; the virial in a box where it has stresses. Where a batch raises, its
    configurations are asked for one by one, and what still raises becomes a failed item with that reason.

    Args:
        system: three-dimensional.
        model: a torch-sim `ModelInterface`.
        elements: chemical symbol of every species whose name is none.
        chunk: configurations per call of the model; bounds the memory.
        name: what the ledger calls this engine; default `torchsim_` and the model's name.
        stated: what the model's answers depend on, for label stores: method, weights, versions.

    Raises:
        InputError: torch-sim is missing, no model of torch-sim, two dimensions, or species without a chemical symbol.
    """

    differentiable = False

    def __init__(
        self,
        system: ParticleSystem,
        model: Any,
        elements: Mapping[str, str] | None = None,
        chunk: int = 64,
        name: str | None = None,
        stated: Mapping[str, Any] | None = None,
    ):
        if not isinstance(model, _torch_sim(".models.interface").ModelInterface):
            raise InputError(f"model: found a {type(model).__name__}; give a torch-sim ModelInterface")
        if chunk < 1:
            raise InputError(f"chunk: found {chunk}; give a positive number")
        torchsim_state(system, torch.zeros(0, system.n_particles, system.dim), elements)  # refuses what does not fit
        self._system, self._model, self._elements, self._chunk = system, model, elements, chunk
        self._name, self._stated = name or f"torchsim_{type(model).__name__.lower()}", stated

    @property
    def name(self) -> str:
        return self._name

    @property
    def system(self) -> ParticleSystem:
        return self._system

    @property
    def device(self) -> torch.device:
        return torch.device(self._model.device)

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is offered beside the energy."""
        forces = self._model.compute_forces
        virial = self._model.compute_stress if self._system.geometry.periodic else forces
        return tuple(name for name, has in (("forces", forces), ("virial", virial)) if has)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was stated, with the elements and torch-sim's version.

        Raises:
            InputError: nothing was stated: what a model's answers depend on cannot be read off it.
        """
        if self._stated is None:
            raise InputError(
                f"{self.name}: what the answers of a torch-sim model depend on cannot be read off it; state method, "
                "weights and versions: TorchSimEnergy(..., stated={...})"
            )
        known = {
            "engine": "torchsim",
            "numbers": list(nuclear_charges(self._system, self._elements)),
            "versions": {"torch-sim": importlib.metadata.version("torch-sim-atomistic")},
        }
        return known | dict(self._stated)

    def evaluate(self, positions: Positions, want: Sequence[str] = ("energy",)) -> EnergyResult:
        """Energies `(batch,)`, and forces `(batch, particle, 3)` and virial `(batch,)` where offered; float64.

        Outside the confining sphere of free space the energy is +inf, and the model is not asked.

        Raises:
            ValueError: positions of another N or dimension, or a quantity in `want` that is not offered.
        """
        check_request(self._system, positions, want, self.quantities)
        x = self._system.geometry.wrap(positions.detach().to(self.device, torch.float64))
        forces = torch.full_like(x, torch.nan)
        energy, virial = forces.new_full((2, len(x)), torch.nan)
        reasons: list[str | None] = [None] * len(x)
        finite = x.isfinite().all(2).all(1)
        outside = ~self._system.geometry.contains(x) & finite
        energy[outside], forces[outside], virial[outside] = torch.inf, 0.0, torch.inf
        for item in (~finite).nonzero()[:, 0].tolist():
            reasons[item] = "positions are not finite"
        asked = (finite & ~outside).nonzero()[:, 0]
        for start in range(0, len(asked), self._chunk):
            for some, found in self._answers(x, asked[start : start + self._chunk], want):
                if isinstance(found, Exception):
                    reasons[int(some)] = f"{type(found).__name__}: {found}"
                    continue
                energy[some], forces[some], virial[some] = found
                lost = ~(energy[some].isfinite() & forces[some].isfinite().all(2).all(1) & virial[some].isfinite())
                for item in some[lost].tolist():
                    reasons[item] = "the energy, a force or the virial is not a finite number"
        ok = torch.tensor([reason is None for reason in reasons], dtype=torch.bool, device=self.device)
        return EnergyResult(
            energy=energy.masked_fill(~ok, torch.nan),
            forces=forces.masked_fill(~ok[:, None, None], torch.nan) if "forces" in want else None,
            virial=virial.masked_fill(~ok, torch.nan) if "virial" in want else None,
            ok=ok,
            reasons=tuple(reasons),
        )

    def _answers(
        self, x: Tensor, items: Tensor, want: Sequence[str]
    ) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor, Tensor] | Exception]]:
        """What the model says of some items at once, or, where it raises, of each by itself."""
        try:
            yield items, self._ask(x[items], want)
        except Exception as error:  # as in `evaluate_frames`: whatever the engine raises becomes data
            if len(items) == 1:
                yield items, error
            else:
                for item in items.split(1):
                    yield from self._answers(x, item, want)

    def _ask(self, x: Tensor, want: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Energies, forces and virial of a batch; zeros in place of what is not wanted."""
        found = self._model(torchsim_state(self._system, x.to(self._model.dtype), self._elements))
        energy = found["energy"].detach().double().reshape(len(x))
        forces, virial = torch.zeros_like(x), torch.zeros_like(energy)
        if {"forces", "virial"} & set(want) and self._model.compute_forces:
            forces = found["forces"].detach().double().reshape(x.shape)
        if "virial" in want:
            geometry = self._system.geometry
            if isinstance(geometry, FlatTorus):
                stress = found["stress"].detach().double()
                virial = -geometry.volume * stress.diagonal(dim1=1, dim2=2).sum(1)
            else:
                virial = (x * forces).sum((1, 2))
        return energy, forces, virial


def torchsim_model(provider: EnergyProvider, elements: Mapping[str, str] | None = None) -> Any:
    """An energy provider as a torch-sim `ModelInterface`, so that torch-sim's optimisers and integrators run on it.

    In `metal` units these are torch-sim's own eV and Å; in reduced units one ε is read as 1 eV and one σ as 1 Å. It has
    energies and forces, in float64 and detached; the box of a provider is fixed, so there is no stress.

    A state may hold any number of configurations of the provider's system, as `torchsim_state` makes them. Called with
    another, the model raises InputError; RunError where the provider fails, with its reason.

    Args:
        provider: of a three-dimensional system.
        elements: chemical symbol of every species whose name is none.

    Raises:
        InputError: torch-sim is missing, two dimensions, or species without a chemical symbol.
    """
    return _model_class()(provider, elements)


@functools.cache
def _model_class() -> type:
    class ProviderModel(_torch_sim(".models.interface").ModelInterface):
        def __init__(self, provider: EnergyProvider, elements: Mapping[str, str] | None):
            super().__init__()
            system = provider.system
            self._expected = torchsim_state(system, torch.zeros(1, system.n_particles, system.dim).double(), elements)
            self.provider, self._device, self._dtype = provider, provider.device, torch.float64
            self._compute_forces, self._compute_stress, self._memory_scales_with = True, False, "n_atoms"

        def forward(self, state: Any) -> dict[str, Tensor]:
            _check_state(self.provider.system, self._expected, state)
            system, given = self.provider.system, state.positions
            x = given.detach().to(self.provider.device, torch.float64).reshape(-1, system.n_particles, 3)
            found = self.provider.evaluate(x, ("energy", "forces"))
            failed = [(item, reason) for item, reason in enumerate(found.reasons) if reason]
            if failed or found.forces is None:
                item, reason = failed[0] if failed else (0, "no forces")
                raise RunError(
                    f"{self.provider.name}: {len(failed)} of {len(x)} configurations have no energy; number {item}: "
                    f"{reason}"
                )
            return {"energy": found.energy.detach().to(given), "forces": found.forces.detach().to(given).reshape(-1, 3)}

    return ProviderModel


def _check_state(system: ParticleSystem, expected: Any, state: Any) -> None:
    """Raises InputError unless every configuration of a state is one of the system."""
    n = system.n_particles
    counts = state.n_atoms_per_system.tolist()
    if any(count != n for count in counts):
        raise InputError(f"system {system.name!r} has {n} particles, the configurations of the state have {counts[:5]}")
    numbers = state.atomic_numbers.reshape(-1, n)
    if not bool((numbers.cpu() == expected.atomic_numbers).all()):
        raise InputError(f"system {system.name!r} has other elements than the state, or in another order")
    periodic = torch.as_tensor(state.pbc).reshape(-1).tolist()
    cells = state.cell.detach().cpu().double()
    if any(axis != system.geometry.periodic for axis in periodic) or not (
        not system.geometry.periodic or torch.allclose(cells, expected.cell, rtol=_CELL_TOLERANCE, atol=_CELL_TOLERANCE)
    ):
        box = getattr(system.geometry, "lengths", "of free space")
        raise InputError(
            f"system {system.name!r} has the box {box}, the state has {cells[0].tolist()} with pbc {periodic}; give it "
            "the system's, as torchsim_state does"
        )
