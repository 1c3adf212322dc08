"""Cards of clusters: the catalogue's isomers are minima of their engines; what a card must not be is refused."""

import json
import shutil

import pytest
import torch
import yaml
from typer.testing import CliRunner

from particlegen import catalogue
from particlegen.cli import app
from particlegen.energy import SystemSettings, build_system, open_engine
from particlegen.geometry import FreeSpace
from particlegen.isomers import (
    ClusterSettings,
    EckartFrame,
    build_cluster,
    cluster_energy_of_file,
    hessian,
    load_cluster_card,
    optimise,
)
from particlegen.settings import InputError
from particlegen.system import ThermodynamicState

CLUSTERS = [
    name for name in catalogue.names("systems") if catalogue.load("systems", name).data.get("kind") == "cluster"
]
LABELLED = [name for name in CLUSTERS if load_cluster_card(name)[1].known_values]
FORCE = {"lj": 1e-6, "metal": 2e-4}
STEP = {"lj": 1e-4, "metal": 5e-3}


def minima(name):
    """The optimised isomers of a card and the quadratic energies about them."""
    built = build_cluster(ClusterSettings(card=name))
    provider = open_engine(built.system, built.engine, relative_to=built.card.path.parent)
    found = {}
    for isomer in built.isomers:
        x, energy = optimise(provider, isomer.structure, FORCE[built.system.units])
        frame = EckartFrame(x, built.system.species, 0.01)
        found[isomer.name] = hessian(provider, frame, energy, STEP[built.system.units], isomer.name)
    return built, found


def test_the_required_clusters_are_there():
    assert set(CLUSTERS) >= {"lj6", "lj7", "ag5", "ag6", "ag6_emt"}


@pytest.mark.parametrize("name", LABELLED)
def test_isomers_of_a_card_are_minima_of_its_engine(name):
    _, card = load_cluster_card(name)
    if card.engine == "gfn2_xtb":
        pytest.importorskip("tblite")
    built, found = minima(name)
    stated = {str(known.state["isomer"]): known for known in card.known_values if known.quantity == "minimum_energy"}
    assert set(stated) == set(card.isomers) == set(found)
    for isomer, known in stated.items():
        # the structures of the files are the minima, so that nothing moves into another basin
        assert built.basins.assign(found[isomer].frame.reference[None]).tolist() == [list(found).index(isomer)]
        assert built.basins.distances(found[isomer].frame.reference[None]).min() < 0.01
        assert found[isomer].energy == pytest.approx(known.value, abs=2e-6)
        assert found[isomer].frame.symmetry.label == known.state["point_group"]
        assert found[isomer].curvatures.min() > 0
    for known in (known for known in card.known_values if known.quantity == "harmonic_free_energy_difference"):
        temperature = known.state["temperature"]
        assert isinstance(temperature, float)
        state = ThermodynamicState(temperature, card.units)
        b, a = (found[str(known.state[key])].free_energy(state) for key in ("isomer", "less"))
        assert b - a == pytest.approx(known.value, abs=6e-5)


def test_every_isomer_of_ag6_has_the_published_shape():
    """The minima of PBE with LANL2DZ; the published bonds are of another basis, some hundredths of an Å shorter."""
    built = build_cluster(ClusterSettings(card="ag6"))
    shapes = {isomer.name: isomer.structure for isomer in built.isomers}
    assert [EckartFrame(shapes[name], built.system.species).copies for name in ("triangle", "pyramid")] == [120, 144]
    for name, bonds in (("triangle", [2.68] * 6 + [2.79] * 3), ("pyramid", [2.69] * 5 + [2.81] * 5)):
        assert torch.pdist(shapes[name]).sort().values[: len(bonds)].tolist() == pytest.approx(bonds, abs=0.06)


def test_a_card_and_its_overrides():
    built = build_cluster(ClusterSettings(card="lj7"))
    assert [isomer.name for isomer in built.isomers] == list(load_cluster_card("lj7")[1].isomers)
    assert (built.state.temperature, built.system.geometry, built.engine) == (0.1, FreeSpace(3, 2.5), "lj_full")
    assert built.citations and built.symbols == {"A": "Ar"}
    structures = torch.stack([isomer.structure for isomer in built.isomers])
    assert built.basins.assign(structures).tolist() == [0, 1, 2, 3]
    assert structures.mean(1).abs().max() < 1e-12
    names = ("bicapped_bipyramid", "bipyramid")
    fewer = build_cluster(ClusterSettings(card="lj7", isomers=names, temperature=0.2, radius=3.0))
    assert tuple(isomer.name for isomer in fewer.isomers) == names
    # what is an isomer does not depend on which others are asked for
    assert fewer.basins.assign(structures).tolist() == [1, -1, -1, 0]
    assert (fewer.state.temperature, fewer.system.geometry) == (0.2, FreeSpace(3, 3.0))


def test_energies_of_structures_under_a_cluster_card(tmp_path):
    structures = catalogue.root() / "systems" / "structures"
    run = CliRunner().invoke(
        app, ["energy", "--system", "lj7", str(structures / "lj7_capped_octahedron.xyz"), "--json"]
    )
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)[0]["energy"] == pytest.approx(-15.935043, abs=1e-6)
    (row,) = cluster_energy_of_file("ag6_emt", structures / "ag6_emt_octahedron.xyz")
    assert row["energy"] == pytest.approx(4.219497, abs=1e-6)
    # another engine than the card's, and fewer particles than in the card
    (tmp_path / "pair.xyz").write_text("2\n\nAg 0 0 0\nAg 0 0 2.6\n")
    (pair,) = cluster_energy_of_file("ag6", tmp_path / "pair.xyz", engine="ase_emt")
    assert pair["n_particles"] == 2 and pair["energy"] > 0
    (tmp_path / "box.xyz").write_text('1\nLattice="9 0 0 0 9 0 0 0 9"\nAg 0 0 0\n')
    with pytest.raises(InputError, match=r"box\.xyz: frame 1: system 'ag6_emt': .* has no box"):
        cluster_energy_of_file("ag6_emt", tmp_path / "box.xyz")


# --- a user's own card ----------------------------------------------------------------------------------------------


XYZ = "4\n\nA 0 0 0\nA 1.1 0 0\nA 0.55 0.95 0\n{}\n"
TETRAHEDRON, PLANAR = XYZ.format("A 0.55 0.32 0.9"), XYZ.format("A 1.65 0.95 0")


def own_card(folder, structures=(TETRAHEDRON, PLANAR), **changes):
    """A card of LJ4 with one structure file per isomer a, b, ... in the user's folder; `...` removes a key."""
    names = "abcdefg"[: len(structures)]
    for name, text in zip(names, structures, strict=True):
        (folder / f"{name}.xyz").write_text(text)
    data = {**catalogue.load("systems", "lj6").data, "composition": {"A": 4}, "known_values": []}
    data |= {"isomers": {name: {"structure": f"{name}.xyz"} for name in names}} | changes
    data = {key: value for key, value in data.items() if value is not ...}
    (folder / "mine.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return ClusterSettings(card="mine.yaml")


def test_own_card_with_its_own_structures_and_engine(tmp_path):
    shutil.copy(catalogue.root() / "potentials" / "lj_full.yaml", tmp_path / "engine.yaml")
    built = build_cluster(own_card(tmp_path, engine="engine.yaml"), tmp_path)
    assert (built.system.name, built.engine, [isomer.name for isomer in built.isomers]) == (
        "mine",
        "engine.yaml",
        ["a", "b"],
    )


def test_particles_of_a_file_are_sorted_by_species(tmp_path):
    mixed = "4\n\nAu 1.65 0.95 0\nAg 0 0 0\nAg 1.1 0 0\nAu 0.55 0.95 0\n"
    changes = {"units": "metal", "engine": "ase_emt", "elements": ..., "composition": {"Ag": 2, "Au": 2}}
    built = build_cluster(own_card(tmp_path, (mixed,), **changes), tmp_path)
    expected = torch.tensor([[0.0, 0, 0], [1.1, 0, 0], [1.65, 0.95, 0], [0.55, 0.95, 0]], dtype=torch.float64)
    torch.testing.assert_close(built.isomers[0].structure, expected - expected.mean(0))
    assert built.system.species == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -1.0}, "'temperature'"),
        ({"isomers": {}}, "'isomers'"),
        ({"isomers": ...}, "key 'isomers' is missing"),
        ({"isomers": {"a-b": {"structure": "a.xyz"}}}, "'isomers"),
        ({"isomers": {"a": {"structur": "a.xyz"}}}, "did you mean 'structure'"),
        ({"isomers": {"a": {"structure": "z.xyz"}}}, r"'isomers\.a\.structure': .*z\.xyz: no such structure file"),
        ({"isomers": {"a": {"structure": 1000 * "z"}}}, r"'isomers\.a\.structure': .*z: no structure file"),
        ({"isomers": {"a": {"structure": "../a.xyz"}}}, r"isomer a .*inside the same folder"),
        ({"composition": {"A": 5}}, r"isomer a \(a\.xyz\): the file has {'A': 4}.* is {'A': 5}"),
        ({"composition": {"A": 0}}, r"'composition\.A'"),
        ({"composition": {"A": 90, "B": 90}, "elements": ...}, "more than 100 particles"),
        ({"elements": {"B": "Ar"}}, "are not those of composition"),
        ({"elements": ...}, "no chemical symbol for the species A of composition; state it in elements"),
        ({"engine": "lj_ful"}, r"key 'engine': unknown card 'lj_ful'.*did you mean 'lj_full'"),
        ({"engine": "ka_binary_3d"}, r"key 'engine': 'ka_binary_3d' is for the species \['A', 'B'\]"),
        ({"units": "metal"}, "key 'engine': 'lj_full' is for .* in lj units, the card has .* in metal units"),
        ({"basins": {"reach": 0.0}}, r"'basins\.reach'"),
        ({"radius": 0.7}, r"isomer b .*from the centroid, outside the confining sphere"),
        ({"kind": "glass"}, "'kind'"),
    ],
)
def test_bad_cluster_cards(tmp_path, changes, message):
    settings = own_card(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as error:
        build_cluster(settings, tmp_path)
    assert "mine.yaml" in str(error.value) or "z.xyz" in str(error.value)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (TETRAHEDRON.replace("A 0.55 0.32 0.9", "A 0.55 0.32 -0.9"), "isomers a and b have the same sorted distances"),
        (XYZ.format("A 0 0 0.01"), r"isomer b \(b\.xyz\): two particles are closer than"),
        ("4\n\nA 0 0 0\nA 1 0 0\nA 2 0 0\nA 3 0 0\n", r"isomer b \(b\.xyz\): .* not all on one line"),
        (XYZ.format("B 0.55 0.32 0.9"), r"isomer b \(b\.xyz\): the file has the species B; expected A"),
        (XYZ.replace("4", "3").format(""), r"isomer b \(b\.xyz\): the file has {'A': 3}"),
        (TETRAHEDRON + PLANAR, r"isomer b \(b\.xyz\): the file has 2 structures; keep one"),
        (TETRAHEDRON.replace("\n\n", '\nLattice="9 0 0 0 9 0 0 0 9"\n'), r"isomer b \(b\.xyz\): .* has no box"),
        (TETRAHEDRON.replace("1.1", "nan"), r"b\.xyz: line 4: a coordinate has to be a finite number"),
        ("", r"b\.xyz: line 1: the file is empty"),
    ],
)
def test_bad_structures(tmp_path, second, message):
    settings = own_card(tmp_path, (TETRAHEDRON, second))
    with pytest.raises(InputError, match=message):
        build_cluster(settings, tmp_path)


def test_bad_system_sections(tmp_path):
    with pytest.raises(InputError, match="no isomer 'octahedrn': did you mean 'octahedron'"):
        build_cluster(ClusterSettings(card="lj6", isomers=("octahedrn",)))
    with pytest.raises(InputError, match="'octahedron' is named twice"):
        build_cluster(ClusterSettings(card="lj6", isomers=("octahedron", "octahedron")))
    with pytest.raises(ValueError, match="at least 1"):
        ClusterSettings(card="lj6", isomers=())
    ten = "10\n\n" + "".join(f"A {k} {k * k / 10} {k**3 / 50}\n" for k in range(10))
    with pytest.raises(InputError, match=r"isomer a \(a\.xyz\): .* labelled copies, at most 50,000"):
        build_cluster(own_card(tmp_path, (ten,), composition={"A": 10}, radius=...), tmp_path)


def test_each_kind_of_workflow_refuses_the_other_kind_of_card():
    with pytest.raises(InputError, match=r"lj6\.yaml: key 'kind': 'cluster' .* workflows of kind 'isomers'"):
        build_system(SystemSettings(card="lj6"))
    with pytest.raises(InputError, match=r"lj_cluster\.yaml: key 'kind' is missing: .*lj6"):
        build_cluster(ClusterSettings(card="lj_cluster"))
