"""The pair engine as an EnergyProvider: contract, invariances, failures."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from particlegen.energy import (
    Counted,
    EnergyProvider,
    Ledger,
    LedgerEntry,
    SystemSettings,
    TorchPairEnergy,
    build_system,
)
from particlegen.geometry import FreeSpace
from particlegen.streams import torch_stream
from particlegen.testing import ContractViolation, check_energy_provider

CARDS = ["ipl_binary_2d", "ka_ternary_2d", "ka_binary_3d", "polydisperse_3d", "lj_bulk", "lj_cluster"]


def engine(device="cpu", **overrides) -> TorchPairEnergy:
    built = build_system(SystemSettings(**overrides))
    return TorchPairEnergy(built.system, built.potential, device=device)


def lattice(provider: TorchPairEnergy, batch: int, seed: int = 0, jitter: float = 0.05) -> torch.Tensor:
    """Jittered grid configurations: no overlaps, all symmetries broken."""
    system = provider.system
    per_side = 1
    while per_side**system.dim < system.n_particles:
        per_side += 1
    grid = torch.cartesian_prod(*[torch.arange(per_side, dtype=torch.float64)] * system.dim)[: system.n_particles]
    if isinstance(system.geometry, FreeSpace):
        x = (grid - grid.mean(0)) * 1.1
    else:
        x = grid * torch.tensor(system.geometry.lengths, dtype=torch.float64) / per_side
    noise = torch.randn(batch, *x.shape, generator=torch_stream(seed, "test"), dtype=torch.float64)
    return system.geometry.wrap(x + jitter * noise)


@pytest.mark.parametrize("card", CARDS)
def test_contract(card, device):
    provider = engine(device=device, card=card)
    check_energy_provider(provider, lattice(provider, 3))


def test_contract_with_a_neighbour_list():
    built = build_system(SystemSettings(card="ka_ternary_2d"))
    provider = TorchPairEnergy(built.system, built.potential, dense_limit=0)
    check_energy_provider(provider, lattice(provider, 2))


class Broken(TorchPairEnergy):
    """The engine with one clause of the contract broken."""

    def __init__(self, system, potential, fault: str):
        super().__init__(system, potential)
        self.fault = fault

    def evaluate(self, positions, want=("energy",)):
        result = super().evaluate(positions, want)
        changes = {
            "dtype": lambda: {"energy": result.energy.float()},
            "forces": lambda: {"forces": None if result.forces is None else -result.forces},
            "silent": lambda: {"ok": torch.ones_like(result.ok)},
            "reason": lambda: {"reasons": ("",) * len(result.reasons)},
            "place": lambda: {"energy": result.energy + 1e-3 * torch.arange(len(result.energy))},
            "labels": lambda: {"energy": result.energy + positions[:, 0, 0]},
            "virial": lambda: {"virial": None if result.virial is None else 0.5 * result.virial},
        }
        return dataclasses.replace(result, **changes[self.fault]())


@pytest.mark.parametrize("fault", ["dtype", "forces", "silent", "reason", "place", "labels", "virial"])
def test_contract_notices(fault):
    built = build_system(SystemSettings(card="lj_cluster"))
    provider = Broken(built.system, built.potential, fault)
    with pytest.raises((ContractViolation, TypeError)):
        check_energy_provider(provider, lattice(provider, 3))


# --- invariances ------------------------------------------------------------------------------------------------------

SMALL = {2: engine(card="ipl_binary_2d"), 3: engine(card="lj_bulk", particles=16, density=0.5)}
DTYPES = st.sampled_from([torch.float64, torch.float32])


def drawn(dim: int, seed: int, dtype: torch.dtype) -> tuple[TorchPairEnergy, torch.Tensor]:
    provider = SMALL[dim]
    return provider, lattice(provider, 2, seed=seed, jitter=0.08).to(dtype)


def same(provider: TorchPairEnergy, x: torch.Tensor, y: torch.Tensor, dtype: torch.dtype) -> None:
    """Equal energies: float32 positions are rounded when they are moved, float64 ones to 1e-15."""
    a, b = provider.evaluate(x).energy, provider.evaluate(y).energy
    assert a.dtype == b.dtype == torch.float64
    tolerance = 1e-11 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@settings(max_examples=200, deadline=None)
@given(dim=st.sampled_from([2, 3]), seed=st.integers(0, 10**6), dtype=DTYPES, data=st.data())
def test_invariances(dim, seed, dtype, data):
    provider, x = drawn(dim, seed, dtype)
    geometry = provider.system.torus
    generator = torch_stream(seed, "moves")
    kind = data.draw(st.sampled_from(["species", "translation", "lattice", "point group", "batch"]))
    if kind == "species":
        a, b = provider.system.composition if len(provider.system.composition) == 2 else (16, 0)
        order = torch.cat([torch.randperm(a, generator=generator), a + torch.randperm(b, generator=generator)])
        same(provider, x, x[:, order], dtype)
    elif kind == "translation":
        shift = torch.rand(1, 1, dim, generator=generator, dtype=dtype) * 10
        same(provider, x, geometry.wrap(x + shift), dtype)
    elif kind == "lattice":
        jumps = torch.randint(-3, 4, x.shape, generator=generator).to(dtype)
        same(provider, x, x + jumps * torch.tensor(geometry.lengths, dtype=dtype), dtype)
    elif kind == "point group":
        group = geometry.point_group()
        assert len(group) == {2: 8, 3: 48}[dim]
        element = group[data.draw(st.integers(0, len(group) - 1))].to(dtype)
        same(provider, x, geometry.wrap(x @ element.T), dtype)
    else:
        assert torch.equal(provider.evaluate(x.flip(0)).energy, provider.evaluate(x).energy.flip(0))


def test_invariances_notice_a_wrong_exchange():
    provider, x = drawn(2, 3, torch.float64)
    order = torch.arange(10)
    order[[0, 9]] = torch.tensor([9, 0])  # one A with one B
    with pytest.raises(AssertionError):
        same(provider, x, x[:, order], torch.float64)


# --- edges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("dense_limit", [400, 0])
def test_coincident_particles_have_zero_weight_and_finite_forces(card, dense_limit):
    built = build_system(SystemSettings(card=card))
    provider = TorchPairEnergy(built.system, built.potential, dense_limit=dense_limit)
    x = lattice(provider, 2)
    x[0, 1] = x[0, 0]
    leaf = x.clone().requires_grad_()
    result = provider.evaluate(leaf, ("energy", "forces", "virial"))
    assert bool(result.ok.all())
    assert result.energy[0].item() == float("inf") and bool(torch.isfinite(result.energy[1]))
    assert bool(torch.isfinite(result.forces).all())
    (gradient,) = torch.autograd.grad(result.energy.sum(), leaf)
    assert bool(torch.isfinite(gradient).all())


def test_particles_outside_the_confining_sphere_have_zero_weight():
    provider = engine(card="lj_cluster")
    x = lattice(provider, 2)
    x[1, 0] = torch.tensor([2.6, 0.0, 0.0])
    energy = provider.evaluate(x).energy
    assert bool(torch.isfinite(energy[0])) and float(energy[1]) == float("inf")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dense_limit", [400, 0])
def test_non_finite_positions_are_failures(value, dense_limit):
    built = build_system(SystemSettings(card="ka_ternary_2d"))
    provider = TorchPairEnergy(built.system, built.potential, dense_limit=dense_limit)
    x = lattice(provider, 3)
    x[1, 7, 1] = value
    result = provider.evaluate(x, ("energy", "forces", "virial"))
    assert result.ok.tolist() == [True, False, True]
    assert result.reasons == (None, "positions are not finite", None)
    assert bool(result.energy[1].isnan()) and bool(result.forces[1].isnan().all()) and bool(result.virial[1].isnan())


def test_truncated_image_counts_each_pair_once():
    # In a box of side 2 with a cutoff of 3, the untruncated sum would also meet the images of both particles.
    provider = engine(card="ipl_binary_2d", composition={"A": 2}, lengths=[2.0, 2.0])
    x = torch.tensor([[[0.1, 0.0], [1.9, 0.9]]], dtype=torch.float64)
    r2 = 0.2**2 + 0.9**2
    assert float(provider.evaluate(x).energy) == pytest.approx(r2**-6 - 2.5**-12, rel=1e-13)


def test_chunks_and_empty_batches():
    provider = engine(card="ka_binary_3d")
    x = lattice(provider, 13)
    together = provider.evaluate(x, ("energy", "forces"))
    for k in range(13):
        alone = provider.evaluate(x[k : k + 1], ("energy", "forces"))
        torch.testing.assert_close(alone.energy, together.energy[k : k + 1], rtol=1e-13, atol=0.0)
    assert provider.evaluate(x[:0], ("energy", "forces", "virial")).forces.shape == (0, 150, 3)


def test_works_without_gradients_and_in_inference_mode():
    provider = engine(card="ipl_binary_2d")
    x = lattice(provider, 2)
    expected = provider.evaluate(x, ("forces",)).forces
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(provider.evaluate(x.clone(), ("forces",)).forces, expected)


def test_ledger_counts_calls_and_failures():
    ledger = Ledger()
    provider = Counted(engine(card="ipl_binary_2d"), ledger, "reference")
    assert isinstance(provider, EnergyProvider)
    x = lattice(SMALL[2], 4)
    x[0] = float("nan")
    provider.evaluate(x)
    provider.evaluate(x[1:])
    provider.add_cached(2)
    Counted(engine(card="ipl_binary_2d"), ledger, "generation").evaluate(x[:3])
    entry, other = ledger.entries[("torch_pair", "reference")], ledger.entries[("torch_pair", "generation")]
    assert (entry.calls, entry.failures, entry.cached) == (7, 1, 2) and entry.seconds > 0
    assert (other.calls, other.failures, other.cached) == (3, 1, 0) and ledger.total_calls("torch_pair") == 10
    elsewhere = Ledger()
    for _ in range(2):
        elsewhere.include(ledger)
    assert elsewhere.entries[("torch_pair", "reference")] == LedgerEntry(14, 2 * entry.seconds, 2, 4)
    assert ledger.take("reference") == {"torch_pair": entry} and list(ledger.entries) == [("torch_pair", "generation")]
