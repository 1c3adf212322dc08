"""Learned potentials as energy providers: the contract, images, failures, committees, sums, cards, the command line."""

import json
import shutil

import pytest
import torch
import yaml
from test_energy_engines import octahedra, silver
from typer.testing import CliRunner

from particlegen.cli import app
from particlegen.energy import (
    Committee,
    LabelSet,
    LearnedModel,
    LearnedPotential,
    LinearEnergy,
    SystemSettings,
    TorchPairEnergy,
    build_system,
    learned_errors,
    open_engine,
    save_learned,
    settings_hash,
)
from particlegen.geometry import FlatTorus, FreeSpace
from particlegen.networks import PotentialSettings, build_potential_network
from particlegen.settings import InputError
from particlegen.system import ParticleSystem
from particlegen.testing import ContractViolation, check_energy_provider

KINDS = ["moments", "e3nn"]


def potential(system, kind="moments", seed=0, cutoff=3.0, species=None, spoil=None):
    """Untrained, with forces of order one: fresh weights are as good as trained ones for what is tested here."""
    if kind == "e3nn":
        pytest.importorskip("e3nn", reason="pip install 'particlegen[learned]'")
    species = species or system.species_names
    network = build_potential_network(PotentialSettings(kind=kind, cutoff=cutoff, width=8), len(species), seed)
    model = LearnedModel(
        network=PotentialSettings(kind=kind, cutoff=cutoff, width=8),
        units=system.units,
        species=species,
        reference_energies=tuple(-1.0 - k for k in range(len(species))),
        scale=20.0,
    )
    return LearnedPotential(system, model, network if spoil is None else spoil(network))


def box(*lengths, n=5, species=2):
    names = ("A", "B")[:species]
    return ParticleSystem("box", FlatTorus(lengths), tuple(sorted(k % species for k in range(n))), names)


def uniform(system, batch=3, seed=1):
    return system.torus.uniform((batch, system.n_particles), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "lengths", [(7.0, 6.5, 8.0), (3.1, 4.0, 5.0), (4.0, 3.5)], ids=["nearest images", "further images", "2D"]
)
def test_potentials_on_the_torus_keep_the_contract(kind, lengths):
    system = box(*lengths)
    check_energy_provider(potential(system, kind), uniform(system), step=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_potentials_in_free_space_keep_the_contract(kind):
    check_energy_provider(potential(silver(), kind, cutoff=5.0), octahedra(3), step=1e-4)


class Spoiled(torch.nn.Module):
    def __init__(self, network, more):
        super().__init__()
        self.network, self.more = network, more

    def forward(self, delta, kinds):
        return self.network(delta, kinds) + self.more(delta)


@pytest.mark.parametrize(
    ("more", "clause"),
    [
        (lambda delta: 1e-3 * torch.arange(delta.shape[1]) * delta.square().sum((2, 3)), "the exchange of like"),
        (lambda delta: 1e-3 * delta.detach().square().sum((2, 3)), "forces differ from central differences"),
        (lambda delta: 1e-3 * torch.cumsum(delta.square().sum((2, 3)), 0), "place in the batch"),
    ],
)
def test_a_network_that_breaks_the_contract_is_found(more, clause):
    provider = potential(silver(), cutoff=5.0, spoil=lambda network: Spoiled(network, more))
    with pytest.raises(ContractViolation, match=clause):
        check_energy_provider(provider, octahedra(3), step=1e-4)


def check_path(provider, start, particle, along, length):
    """The energy along a straight path is the work of the forces on it, by Simpson's rule on 400 pieces."""
    s = torch.linspace(0, length, 801, dtype=torch.float64)
    x = start.repeat(len(s), 1, 1)
    x[:, particle] += s[:, None] * along
    found = provider.evaluate(x, ("energy", "forces"))
    slope = -(found.forces[:, particle] * along).sum(1)
    h = s[1] - s[0]
    pieces = h / 3 * (slope[:-2:2] + 4 * slope[1:-1:2] + slope[2::2])
    work = torch.cat([torch.zeros(1, dtype=torch.float64), pieces.cumsum(0)])
    error = (found.energy[::2] - found.energy[0] - work).abs().max()
    assert found.energy.std() > 1e-3
    assert error < 1e-5 * found.energy.std(), f"energy and work differ by {float(error):.2g}"


class NearestOnly(FlatTorus):
    """A box that forgets further images."""

    def images(self, reach):
        return torch.zeros(1, self.dim, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_forces_are_the_slope_of_the_energy_across_cutoff_and_box_edge(kind):
    along = torch.tensor([1.0, 0.3, 0.2], dtype=torch.float64)
    for lengths in ((7.0, 6.5, 8.0), (3.1, 4.0, 5.0)):
        system = box(*lengths)
        x = uniform(system, 1)
        x[:, 0] = torch.tensor(lengths) - 1e-3
        check_path(potential(system, kind), x, 0, along, 7.0)
    free = silver()
    check_path(potential(free, kind), octahedra(1), 0, along, 7.0)
    small = ParticleSystem("box", NearestOnly((3.1, 4.0, 5.0)), system.species, system.species_names)
    with pytest.raises(AssertionError, match="energy and work differ"):
        check_path(potential(small, kind), x, 0, along, 7.0)


@pytest.mark.parametrize("kind", KINDS)
def test_further_images_and_the_virial(kind):
    """A box smaller than twice the cutoff holds half the energy of its double; W = −dU/ds of a stretch by s at 1."""
    one = box(3.1, 4.0, 5.0, n=3)
    two = ParticleSystem("double", FlatTorus((6.2, 4.0, 5.0)), one.species * 2, one.species_names)
    x = uniform(one)
    y = torch.cat([x, x + torch.tensor([3.1, 0.0, 0.0])], 1)
    found = potential(one, kind).evaluate(x, ("energy", "virial"))
    assert torch.allclose(potential(two, kind).evaluate(y).energy, 2 * found.energy, rtol=1e-12)
    ends = []
    for s in (1 - 1e-5, 1 + 1e-5):
        stretched = ParticleSystem("s", FlatTorus((3.1 * s, 4.0 * s, 5.0 * s)), one.species, one.species_names)
        ends.append(potential(stretched, kind).evaluate(s * x).energy)
    assert torch.allclose(found.virial, -(ends[1] - ends[0]) / 2e-5, rtol=1e-6)


def test_the_reference_energies_and_the_scale():
    """Particles out of each other's sight: the sum of what each is worth alone."""
    system = ParticleSystem("far", FreeSpace(3), (0, 1, 1), ("A", "B"))
    provider = potential(system)
    x = 50.0 * torch.eye(3, dtype=torch.float64)[None]
    alone = provider.network(torch.zeros(1, 2, 2, 3, dtype=torch.float64) + 1e3, torch.tensor([0, 1]))[0]
    assert torch.allclose(provider.evaluate(x).energy, -5.0 + 20.0 * (alone[0] + 2 * alone[1]), rtol=1e-12)


def test_failures_are_data():
    provider = potential(silver(radius=6.0), cutoff=5.0)
    x = octahedra(4)
    x[0, 1] = x[0, 2]
    x[1, 0, 0] = float("nan")
    x[2, 0, 0] = 7.0
    found = provider.evaluate(x, ("energy", "forces", "virial"))
    assert found.ok.tolist() == [False, False, True, True]
    assert "coincide" in found.reasons[0] and "not finite" in found.reasons[1]
    assert found.energy[2] == torch.inf and found.energy[3].isfinite() and found.energy[:2].isnan().all()
    assert found.forces[:2].isnan().all() and found.forces[2:].isfinite().all()


def test_what_does_not_fit_is_refused():
    trained = potential(silver())
    gold = ParticleSystem("gold", FreeSpace(3), (0,), ("Au",), units="metal")
    reduced = ParticleSystem("reduced", FreeSpace(3), (0,), ("Ag",))
    sized = ParticleSystem("sized", FreeSpace(3), (0,), ("Ag",), diameters=(1.0,), units="metal")
    for system, message in ((gold, "does not fit"), (reduced, "lj units"), (sized, "no diameters")):
        with pytest.raises(InputError, match=message):
            LearnedPotential(system, trained.model, trained.network)
    with pytest.raises(ValueError, match="at least two"):
        Committee([trained])
    with pytest.raises(ValueError, match="one system and one model"):
        Committee([trained, potential(silver(), cutoff=4.0)])


def test_a_committee_is_the_mean_and_knows_its_disagreement():
    members = [potential(silver(), cutoff=5.0, seed=seed) for seed in range(3)]
    committee, x = Committee(members), octahedra(3)
    check_energy_provider(committee, x, step=1e-4)
    single = [member.evaluate(x, ("energy", "forces")) for member in members]
    mean, apart = committee.judge(x, ("energy", "forces"))
    energies = torch.stack([one.energy for one in single])
    assert torch.allclose(mean.energy, energies.mean(0)) and torch.allclose(apart.energy, energies.std(0))
    offsets = torch.stack([one.forces for one in single]) - mean.forces
    largest = (offsets.square().sum((0, 3)) / 2).sqrt().amax(1)
    assert torch.allclose(apart.force, largest) and (apart.force > 1e-3).all()
    assert committee.judge(x)[0].forces is None and torch.equal(committee.judge(x)[0].energy, mean.energy)
    alike = Committee([members[0], members[0]]).judge(x)[1]
    assert alike.energy.max() == 0 and alike.force.max() == 0
    x[0, 0, 0] = float("nan")
    mean, apart = committee.judge(x)
    assert mean.ok.tolist() == [False, True, True] and apart.energy.isnan().tolist() == [True, False, False]
    assert settings_hash(committee.settings) != settings_hash(members[0].settings)
    assert settings_hash(members[0].settings) != settings_hash(members[1].settings)


def test_a_baseline_and_a_correction_add_up():
    built = build_system(SystemSettings(card="lj_cluster", particles=6))
    baseline, correction = TorchPairEnergy(built.system, built.potential), potential(built.system)
    total, x = LinearEnergy((1.0, baseline), (1.0, correction)), 0.6 * octahedra(3)
    check_energy_provider(total, x)
    apart = baseline.evaluate(x).energy + correction.evaluate(x).energy
    assert torch.allclose(total.evaluate(x).energy, apart)
    assert total.settings["terms"][1][1]["engine"] == "learned"


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_brings_back_the_same_potential(tmp_path, kind):
    system, x = silver(), octahedra(3)
    committee = Committee([potential(system, kind, seed, 5.0) for seed in (1, 2)])
    labels = LabelSet(system, x, committee.evaluate(x).energy + 0.1, torch.full_like(x, torch.nan))
    save_learned(tmp_path / "mine.yaml", committee, learned_errors(committee, labels), "a test", ["somebody 2020"])
    again = open_engine(system, "mine.yaml", relative_to=tmp_path)
    want = ("energy", "forces", "virial")
    ours, theirs = committee.evaluate(x, want), again.evaluate(x, want)
    assert all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in want)
    assert settings_hash(again.settings) == settings_hash(committee.settings)
    card = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert card["held_out"]["energy_rmse"] == pytest.approx(0.1) and card["held_out"]["force_rmse"] is None
    assert card["citations"][0] == "somebody 2020" and len(card["citations"]) > 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.safetensors", "mine.yaml"]
    # the same atoms in other numbers, and in a box
    for other in (silver(4), ParticleSystem("box", FlatTorus((9.0,) * 3), (0,) * 5, ("Ag",), units="metal")):
        y = 8.0 * torch.rand(2, other.n_particles, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        assert open_engine(other, "mine.yaml", relative_to=tmp_path).evaluate(y).ok.all()
    with pytest.raises(InputError, match="exists already"):
        save_learned(tmp_path / "mine.yaml", committee)
    one = potential(system, kind, 1, 5.0)
    save_learned(tmp_path / "one.yaml", one)
    assert torch.equal(open_engine(system, str(tmp_path / "one.yaml")).evaluate(x).energy, one.evaluate(x).energy)


def test_a_wrong_card_is_an_error_that_names_what_is_wrong(tmp_path):
    save_learned(tmp_path / "mine.yaml", potential(silver()))
    good = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    shutil.copy(tmp_path / "mine.safetensors", tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "mine.safetensors").read_bytes()[:-8])
    for change, message in (
        ({"scale": 21.0}, "'scale'; the card was edited"),
        ({"network": {**good["network"], "cutoff": 4.0}}, "'network'; the card was edited"),
        ({"members": 2}, "weights are not those of 2 such networks"),
        ({"weights": "cut.safetensors"}, "damaged, its checksum"),
        ({"weights": "no.safetensors"}, "No such file"),
        ({"weights": "../mine.safetensors"}, "leads outside"),
        ({"reference_energies": [1.0, 2.0]}, "2 reference energies for 1 species"),
        ({"cutof": 4.0}, "unknown key 'cutof'"),
    ):
        (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**good, **change}))
        with pytest.raises(InputError, match=message):
            open_engine(silver(), "bad.yaml", relative_to=tmp_path)
    gold = ParticleSystem("gold", FreeSpace(3), (0,), ("Au",), units="metal")
    with pytest.raises(InputError, match="does not fit a learned potential of Ag"):
        open_engine(gold, "mine.yaml", relative_to=tmp_path)


def test_the_energy_command_opens_a_learned_potential(tmp_path):
    system = build_system(SystemSettings(card="lj_cluster", particles=6)).system
    provider, x = potential(system, cutoff=2.0), 0.6 * octahedra(1)
    save_learned(tmp_path / "mine.yaml", provider)
    rows = "".join(f"A {a:.17g} {b:.17g} {c:.17g}\n" for a, b, c in x[0])
    (tmp_path / "x.xyz").write_text(f"6\n\n{rows}")
    command = ["energy", "--system", "lj_cluster", str(tmp_path / "x.xyz"), "--json"]
    found = CliRunner().invoke(app, [*command, "--engine", str(tmp_path / "mine.yaml")])
    (row,) = json.loads(found.stdout)
    expected = provider.evaluate(x, ("energy", "virial"))
    assert row["energy"] == pytest.approx(float(expected.energy), rel=1e-12)
    assert row["virial"] == pytest.approx(float(expected.virial), rel=1e-12)
