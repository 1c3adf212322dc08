"""Every equilibrium energy that a card states, sampled anew."""

import math

import numpy as np
import pytest
import torch

from particlegen import catalogue
from particlegen.energy import SystemSettings, TorchPairEnergy, build_system
from particlegen.energy.cards import KnownValue, load_system_card
from particlegen.sampling import ReferenceSettings, diagnose, energies_by_chain, sample_reference

SAMPLER = {"polydisperse_3d": "swap", "ka_ternary_2d": "swap", "lj_cluster": "tempering"}


def stated() -> list[tuple[str, KnownValue]]:
    return [
        (name, known)
        for name in catalogue.names("systems")
        if "kind" not in catalogue.load("systems", name).data
        for known in load_system_card(name)[1].known_values
        if known.quantity == "energy_per_particle" and "temperature" in known.state
    ]


def test_every_equilibrium_energy_has_an_error_bar():
    assert stated() and all(known.stderr and known.stderr > 0 for _, known in stated())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "known"), stated())
def test_known_energies(name, known):
    particles, temperature = known.state["particles"], known.state["temperature"]
    assert isinstance(particles, float) and isinstance(temperature, float)
    built = build_system(SystemSettings(card=name, particles=int(particles), temperature=temperature))
    settings = ReferenceSettings(
        sampler=SAMPLER.get(name, "displacement"),  # type: ignore[arg-type]
        chains=12,
        frames=12 * 300,
        sweeps_between_frames=250,
        equilibration_sweeps=20_000,
        block_frames=3600,
    )
    energies, chains = [], []
    engine = TorchPairEnergy(built.system, built.potential)
    for block in sample_reference(built.system, built.potential, built.state, settings, seed=23):
        # Two engines that share nothing but V(r) agree on every frame.
        mine = engine.evaluate(torch.from_numpy(block.positions)).energy.numpy()
        np.testing.assert_allclose(block.energies, mine, rtol=1e-10, atol=1e-10)
        energies.append(block.energies)
        chains.append(block.chain)
    found = diagnose(energies_by_chain(np.concatenate(energies), np.concatenate(chains)))
    n = built.system.n_particles
    assert found.r_hat < 1.05
    assert found.stderr / n < 0.01 * abs(known.value)
    assert abs(found.mean / n - known.value) < 4 * math.hypot(found.stderr / n, known.stderr or 0.0)
