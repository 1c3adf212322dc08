"""OpenMM and ASE behind the provider contract, held against the torch engine and against known answers."""

import sys

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.calculator import CalculationFailed, Calculator, get_calculator_class
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from test_energy_pair import lattice

from particlegen.energy import (
    ASEEnergy,
    OpenMMEnergy,
    ProviderCalculator,
    SystemSettings,
    TorchPairEnergy,
    ase_calculator,
    build_system,
)
from particlegen.geometry import FlatTorus, FreeSpace
from particlegen.settings import InputError
from particlegen.system import ParticleSystem
from particlegen.testing import check_energy_provider

openmm = pytest.importorskip("openmm", reason="pip install 'particlegen[openmm]'")
WANT = ("energy", "forces", "virial")
CARDS = [
    {"card": "ipl_binary_2d", "particles": 44},
    {"card": "ka_ternary_2d"},
    {"card": "ka_binary_3d"},
    {"card": "polydisperse_3d"},
    {"card": "lj_bulk"},
    {"card": "lj_cluster"},
]


def both(platform="Reference", **settings):
    built = build_system(SystemSettings(**settings))
    return TorchPairEnergy(built.system, built.potential), OpenMMEnergy.of_pairs(
        built.system, built.potential, platform
    )


def apart(one, other):
    """The largest relative difference of any quantity."""
    scale = [getattr(one, name).abs().max() for name in WANT]
    return max(float(((getattr(one, n) - getattr(other, n)).abs() / s).max()) for n, s in zip(WANT, scale, strict=True))


@pytest.mark.parametrize("settings", CARDS, ids=lambda s: s["card"])
def test_openmm_and_torch_agree(settings):
    ours, theirs = both(**settings)
    x = lattice(ours, 3)
    difference = apart(ours.evaluate(x, WANT), theirs.evaluate(x, WANT))
    assert difference < 1e-10
    # a sigma that is off in its ninth figure is noticed
    potential = ours.potential
    wrong = TorchPairEnergy(
        ours.system,
        type(potential)(
            **{
                **vars(potential),
                "cutoff": potential.cutoff,
                "epsilon": tuple(tuple(e * (1 + 1e-9) for e in row) for row in potential.epsilon),
            }
        ),
    )
    assert apart(wrong.evaluate(x, WANT), theirs.evaluate(x, WANT)) > 1e-10


@pytest.mark.parametrize("settings", CARDS, ids=lambda s: s["card"])
def test_openmm_keeps_the_contract(settings):
    provider = both(**settings)[1]
    check_energy_provider(provider, lattice(provider, 2))


def test_openmm_in_single_precision_is_near():
    ours, theirs = both("CPU", card="ka_ternary_2d")
    x = lattice(ours, 3)
    assert 1e-12 < apart(ours.evaluate(x, WANT), theirs.evaluate(x, WANT)) < 1e-5
    assert theirs.name == "openmm_cpu"


def lennard_jones_of_ase(system):
    return ASEEnergy(system, LennardJones(sigma=1.0, epsilon=1.0, rc=2.5, smooth=False), {"A": "Ar"})


def test_ase_and_torch_agree():
    built = build_system(SystemSettings(card="lj_bulk", potential="lj_cut_shift"))
    ours, theirs = TorchPairEnergy(built.system, built.potential), lennard_jones_of_ase(built.system)
    x = lattice(ours, 2)
    assert theirs.quantities == ("forces", "virial")
    assert apart(ours.evaluate(x, WANT), theirs.evaluate(x, WANT)) < 1e-10


@pytest.mark.parametrize("engine", ["torch", "openmm", "ase"])
def test_forces_across_the_cutoff_and_the_box_edge(engine):
    """Two particles, from well inside the cutoff to beyond it, with the box edge between them."""
    built = build_system(SystemSettings(card="lj_bulk", particles=2, lengths=(8.0, 8.0, 8.0), potential="lj_cut_shift"))
    provider = {
        "torch": lambda: TorchPairEnergy(built.system, built.potential),
        "openmm": lambda: OpenMMEnergy.of_pairs(built.system, built.potential),
        "ase": lambda: lennard_jones_of_ase(built.system),
    }[engine]()
    distances = torch.tensor([0.95, 1.12, 1.7, 2.2, 2.4999, 2.5001, 2.6], dtype=torch.float64)
    x = torch.zeros(len(distances), 2, 3, dtype=torch.float64)
    x[:, 0], x[:, 1] = torch.tensor([7.6, 0.1, 7.9]), torch.tensor([7.6, 0.1, 7.9])
    x[:, 1, 0] += distances
    x = built.system.geometry.wrap(x)
    forces, h = provider.evaluate(x, ("energy", "forces")).forces, 1e-5
    ends = []
    for sign in (1, -1):
        moved = x.clone()
        moved[:, 1, 0] += sign * h
        ends.append(provider.evaluate(moved).energy)
    expected = (ends[1] - ends[0]) / (2 * h)
    assert torch.allclose(forces[:, 1, 0], expected, rtol=1e-7, atol=1e-8)
    assert (forces[:5, 1, 0].abs() > 0.03).all() and (forces[5:] == 0).all()
    assert torch.allclose(forces[:, 0], -forces[:, 1], atol=1e-12)


def silver(n=6, radius=float("inf")):
    return ParticleSystem("silver", FreeSpace(3, radius), (0,) * n, ("Ag",), units="metal")


def octahedra(batch, seed=3):
    corners = 2.0 * torch.cat([torch.eye(3), -torch.eye(3)]).double()
    generator = torch.Generator().manual_seed(seed)
    return corners + 0.1 * torch.randn(batch, 6, 3, generator=generator, dtype=torch.float64)


def test_emt_keeps_the_contract():
    check_energy_provider(ASEEnergy(silver(), "emt"), octahedra(3))
    metal = bulk("Cu", cubic=True) * (2, 2, 2)
    system = ParticleSystem(
        "copper", FlatTorus(tuple(metal.cell.lengths().tolist())), (0,) * 32, ("Cu",), units="metal"
    )
    generator = torch.Generator().manual_seed(1)
    x = torch.from_numpy(metal.positions) + 0.05 * torch.randn(2, 32, 3, generator=generator, dtype=torch.float64)
    provider = ASEEnergy(system, EMT())
    check_energy_provider(provider, x)
    # the virial against the energies of the crystal strained by a hundred-thousandth
    virial, energies = provider.evaluate(x, WANT).virial, []
    for stretch in (1 + 1e-5, 1 - 1e-5):
        lengths = tuple(stretch * edge for edge in system.torus.lengths)
        strained = ParticleSystem("copper", FlatTorus(lengths), (0,) * 32, ("Cu",), units="metal")
        energies.append(ASEEnergy(strained, EMT()).evaluate(stretch * x).energy)
    assert torch.allclose(virial, -(energies[0] - energies[1]) / 2e-5, rtol=1e-5)


def test_an_openmm_system_from_a_file(tmp_path):
    """Two atoms on a spring, in OpenMM's units; the answer in eV and Å."""
    made, force = openmm.System(), openmm.HarmonicBondForce()
    for _ in range(2):
        made.addParticle(1.0)
    force.addBond(0, 1, 0.3, 5000.0)  # nm, kJ/mol/nm²
    made.addForce(force)
    path = tmp_path / "spring.xml"
    path.write_text(openmm.XmlSerializer.serialize(made))
    provider = OpenMMEnergy.of_xml(silver(2), path)
    x = torch.tensor([[[0.0, 0.0, 0.0], [3.5, 0.0, 0.0]], [[0.2, 0.0, 0.0], [0.0, 2.0, 2.0]]], dtype=torch.float64)
    found = provider.evaluate(x, WANT)
    stretched = (x[:, 1] - x[:, 0]).norm(dim=-1) - 3.0
    stiffness = 5000.0 / 96.48533212331002 / 100  # eV/Å²
    assert torch.allclose(found.energy, 0.5 * stiffness * stretched**2, rtol=1e-12)
    assert torch.allclose(found.forces[0, 0], torch.tensor([stiffness * 0.5, 0, 0], dtype=torch.float64), rtol=1e-12)
    check_energy_provider(provider, x)
    with pytest.raises(InputError, match=r"spring\.xml: has 2 particles, system 'silver' has 3"):
        OpenMMEnergy.of_xml(silver(3), path)
    path.write_text("<no openmm/>")
    with pytest.raises(InputError, match=r"spring\.xml: no serialised OpenMM system"):
        OpenMMEnergy.of_xml(silver(2), path)
    with pytest.raises(InputError, match="cannot be read"):
        OpenMMEnergy.of_xml(silver(2), tmp_path / "none.xml")


# --- our providers inside ASE -----------------------------------------------------------------------------------------


def cluster(n=13):
    built = build_system(SystemSettings(card="lj_cluster", particles=n))
    return TorchPairEnergy(built.system, built.potential)


def test_ase_optimises_and_moves_particles_of_ours():
    """The icosahedron of 13 atoms has U = −44.326801 ε (Hoare and Pal 1971); dynamics conserves the energy."""
    golden = (1 + 5**0.5) / 2
    corners = [(0.0, s, t * golden) for s in (1, -1) for t in (1, -1)]
    corners = [tuple(np.roll(c, shift)) for c in corners for shift in range(3)]
    x = np.array([(0.0, 0.0, 0.0), *corners]) * 0.55 + 0.03 * np.random.default_rng(1).normal(size=(13, 3))
    atoms = ase.Atoms("Ar13", positions=x, calculator=ProviderCalculator(cluster()))
    BFGS(atoms, logfile=None).run(fmax=1e-6, steps=500)
    assert abs(atoms.get_potential_energy() + 44.326801) < 1e-6
    atoms.rattle(0.02, seed=2)
    before = atoms.get_total_energy()
    VelocityVerlet(atoms, timestep=0.02).run(500)
    assert atoms.get_kinetic_energy() > 0.1 and abs(atoms.get_total_energy() - before) < 1e-3


def test_a_provider_survives_the_way_through_ase_and_back():
    ours = cluster(7)
    theirs = ASEEnergy(ours.system, ProviderCalculator(ours), {"A": "Ar"})
    x = lattice(ours, 3)
    assert apart(ours.evaluate(x, WANT), theirs.evaluate(x, WANT)) < 1e-12
    flat = build_system(SystemSettings(card="ka_ternary_2d"))
    ours = TorchPairEnergy(flat.system, flat.potential)
    theirs = ASEEnergy(flat.system, ProviderCalculator(ours), flat.card.data["elements"])
    check_energy_provider(theirs, lattice(ours, 2), quantities=("forces",))


def test_atoms_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="has 13 particles, the atoms are 2"):
        ase.Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 1.1]], calculator=ProviderCalculator(cluster())).get_forces()
    atoms = ase.Atoms("Ar13", positions=np.zeros((13, 3)), cell=[9, 9, 9], pbc=True)
    atoms.calc = ProviderCalculator(cluster())
    with pytest.raises(InputError, match="box of free space"):
        atoms.get_potential_energy()
    atoms = ase.Atoms("Ar13", positions=np.full((13, 3), np.nan), calculator=ProviderCalculator(cluster()))
    with pytest.raises(CalculationFailed, match="not finite"):
        atoms.get_potential_energy()


# --- failures and bad input -------------------------------------------------------------------------------------------


class Moody(Calculator):
    """Raises, or answers NaN, where the first particle is far out."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        x = atoms.positions[0, 0]
        if x > 2:
            raise RuntimeError("no convergence")
        self.results = {"energy": np.nan if x > 1 else 1.0, "forces": np.zeros((len(atoms), 3))}


def test_what_an_engine_raises_is_data():
    provider = ASEEnergy(silver(2, radius=5.0), Moody())
    x = torch.zeros(4, 2, 3, dtype=torch.float64)
    x[:, 0, 0] = torch.tensor([0.0, 1.5, 2.5, 6.0])
    found = provider.evaluate(x, WANT)
    assert found.ok.tolist() == [True, False, False, True]
    assert found.energy[0] == 1.0 and found.energy[3] == torch.inf and found.energy[1:3].isnan().all()
    assert found.reasons[1] == "the energy, a force or the virial is not a finite number"
    assert found.reasons[2] == "RuntimeError: no convergence" and found.reasons[3] is None


@pytest.mark.parametrize(
    ("name", "good", "wrong", "message"),
    [
        (
            "emt",
            {"asap_cutoff": True},
            {"asap_cutof": True},
            "unknown keyword 'asap_cutof': did you mean 'asap_cutoff'",
        ),
        (
            "lj",
            {"rc": 2.0, "ro": 1.5, "smooth": True},
            {"sigm": 1.0, "rcut": 2.0},
            "'sigm': did you mean 'sigma'.*'rcut'",
        ),
        ("morse", {"epsilon": 2.0, "rho0": 5.0}, {"rho": 5.0}, "unknown keyword 'rho': did you mean .*'rho0'"),
        ("ff", {"bonds": [object()]}, {"bonds": [object()], "angels": []}, "'angels': did you mean 'angles'"),
        ("tersoff", {"parameters": {}, "skin": 0.1}, {"parameters": {}, "skim": 0.1}, "'skim': did you mean 'skin'"),
    ],
)
def test_misspelt_keywords_that_ase_drops_are_refused(name, good, wrong, message):
    """ASE itself takes them without a word: the reason for the check."""
    ase_calculator(name, good)
    get_calculator_class(name)(**wrong)
    with pytest.raises(InputError, match=f"ASE calculator '{name}': .*{message}"):
        ase_calculator(name, wrong)


def test_keywords_that_ase_warns_of_or_refuses_are_refused():
    with pytest.raises(InputError, match=r"'dftd3' with .*unknown keywords: dampin"):
        ase_calculator("dftd3", {"xc": "pbe", "dampin": "bj"})
    assert ase_calculator("dftd3", {"xc": "pbe", "damping": "bj"}).dftd3.parameters["damping"] == "bj"
    for name in ("eam", "tip3p", "turbomole"):
        with pytest.raises(InputError, match="colour"):
            ase_calculator(name, {"colour": 1})


def test_wrong_engines_are_named(monkeypatch):
    with pytest.raises(InputError, match="did you mean 'emt'"):
        ase_calculator("emtt")
    with pytest.raises(InputError, match=r"ASE calculator 'lj' with \{'rc': 'far'\}: "):
        ase_calculator("lj", {"rc": "far"})
    with pytest.raises(InputError, match="ASE calculator 'asap' cannot be imported"):
        ase_calculator("asap")
    with pytest.raises(InputError, match="chemical symbol for the species A"):
        ASEEnergy(cluster().system, "emt")
    small = build_system(SystemSettings(card="ipl_binary_2d", particles=10))
    with pytest.raises(InputError, match="no cutoff beyond half the box"):
        OpenMMEnergy.of_pairs(small.system, small.potential)
    built = build_system(SystemSettings(card="lj_bulk"))
    with pytest.raises(InputError, match="did you mean 'Reference'"):
        OpenMMEnergy.of_pairs(built.system, built.potential, "reference")
    monkeypatch.setitem(sys.modules, "openmm", None)
    with pytest.raises(InputError, match=r"pip install 'particlegen\[openmm\]'"):
        OpenMMEnergy.of_pairs(built.system, built.potential)
