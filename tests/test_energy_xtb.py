"""Tight binding by tblite behind the provider contract."""

import re
import sys

import numpy as np
import pytest
import torch
from test_energy_electrons import REFUSED, molecule
from test_energy_engines import octahedra, silver

from particlegen.energy import SystemSettings, build_system, xtb_energy
from particlegen.settings import InputError
from particlegen.testing import check_energy_provider

interface = pytest.importorskip("tblite.interface", reason="pip install 'particlegen[xtb]'")


@pytest.mark.parametrize("method", ["GFN1-xTB", "GFN2-xTB"])
def test_silver_keeps_the_contract(method):
    provider = xtb_energy(silver(), method)
    x = octahedra(2)
    check_energy_provider(provider, x, rtol=1e-8, step=1e-3, force_rtol=1e-4)
    assert provider.name == method.lower().replace("-", "_")
    # tblite's own interface, in Hartree and Bohr
    theirs = interface.Calculator(method, np.full(6, 47), x[0].numpy() / 0.529177210903)
    theirs.set("verbosity", 0)
    theirs.set("accuracy", 0.01)
    assert abs(float(provider.evaluate(x).energy[0]) / 27.211386245988 - theirs.singlepoint().get("energy")) < 1e-6


def test_the_spin_follows_from_the_electrons():
    """The hydrogen atom and the molecule: a bond of a few eV, and the atom has no spin-paired state."""
    atom, pair = xtb_energy(molecule(["H"])), xtb_energy(molecule(["H", "H"]))
    x = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]], dtype=torch.float64)
    bond = 2 * atom.evaluate(x[:, :1]).energy - pair.evaluate(x).energy
    assert 3.0 < float(bond) < 6.0


@pytest.mark.parametrize(("symbols", "charge", "multiplicity", "message"), REFUSED)
def test_electrons_that_cannot_be_are_refused(symbols, charge, multiplicity, message):
    with pytest.raises(InputError, match=re.escape(message)):
        xtb_energy(molecule(symbols), charge=charge, multiplicity=multiplicity)


def test_an_energy_does_not_depend_on_what_was_computed_before():
    """To the last bit: the self-consistent charges of the configuration before are no start for the next."""
    x, want = octahedra(2), ("energy", "forces")
    used = xtb_energy(silver()).evaluate(x.flip(0), want)
    for k in range(2):
        fresh = xtb_energy(silver()).evaluate(x[k : k + 1], want)
        assert fresh.energy.item() == used.energy[1 - k].item()
        assert fresh.forces.numpy().tobytes() == used.forces[1 - k : 2 - k].numpy().tobytes()


def test_what_does_not_converge_is_data():
    provider = xtb_energy(silver(), max_iterations=2)
    found = provider.evaluate(octahedra(2))
    assert not found.ok.any() and found.energy.isnan().all() and all("Calculat" in r for r in found.reasons)


def test_wrong_input_is_named(monkeypatch):
    with pytest.raises(InputError, match="needs metal units"):
        xtb_energy(build_system(SystemSettings(card="lj_cluster")).system)
    with pytest.raises(InputError, match="GFN1-xTB or GFN2-xTB"):
        xtb_energy(silver(), "GFN0-xTB")
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(InputError, match=r"pip install 'particlegen\[xtb\]'"):
        xtb_energy(silver())
