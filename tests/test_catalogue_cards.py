"""The catalogue's cards hold what they claim; the loader refuses what a card must not be."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from particlegen import catalogue
from particlegen.energy import SystemSettings, TorchPairEnergy, build_system, load_pyscf_settings
from particlegen.energy.cards import cutoff_derivatives, load_potential, load_system_card
from particlegen.geometry import FlatTorus
from particlegen.settings import InputError
from particlegen.system import ParticleSystem

REQUIRED = {"ipl_binary_2d", "ka_ternary_2d", "ka_binary_3d", "polydisperse_3d", "lj_bulk", "lj_cluster"}


def test_the_required_systems_are_there():
    assert set(catalogue.names("systems")) >= REQUIRED


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_system_cards(name):
    built = build_system(SystemSettings(card=name))
    _, card = load_system_card(name)
    assert built.citations and card.known_values
    assert built.system.units == "lj"
    assert built.system.species == tuple(sorted(built.system.species))
    assert built.state.temperature == card.temperature
    assert math.isfinite(TorchPairEnergy(built.system, built.potential).potential.largest_cutoff(built.system)) == (
        name != "lj_cluster"
    )


def test_every_potential_card_is_of_a_known_kind():
    kinds = {name: catalogue.load("potentials", name).data["kind"] for name in catalogue.names("potentials")}
    assert set(kinds.values()) == {"even_power", "openmm", "ase", "tblite", "pyscf"}
    for name in (name for name, kind in kinds.items() if kind != "even_power"):
        with pytest.raises(InputError, match="is an engine, a pair potential is needed here"):
            load_potential(name)
    with pytest.raises(InputError, match="'even_power'; a level of theory has kind 'pyscf'"):
        load_pyscf_settings("lj_cut")


PAIRS = [
    name for name in catalogue.names("potentials") if catalogue.load("potentials", name).data["kind"] == "even_power"
]


@pytest.mark.parametrize("name", PAIRS)
def test_smoothness_claims(name):
    """U, U', U'' of every pair of species just inside the cutoff, by automatic differentiation of the engine."""
    card, potential = load_potential(name)
    if math.isinf(potential.cutoff):
        assert card.continuous_at_cutoff == ()
        return
    for a in range(len(card.species)):
        for b in range(a, len(card.species)):
            diameters = (0.8, 1.3) if potential.nonadditivity is not None else None
            system = ParticleSystem("pair", FlatTorus((20.0, 20.0)), (a, b), card.species, diameters)
            scale = float(potential.pair_sigma(system)[0, 1])
            engine = TorchPairEnergy(system, potential)
            r = torch.tensor(potential.cutoff * scale * (1 - 1e-12), dtype=torch.float64, requires_grad=True)
            x = torch.stack([torch.zeros(2, dtype=torch.float64), torch.stack([r, torch.zeros_like(r)])])[None]
            energy = engine.evaluate(x).energy.sum()
            (slope,) = torch.autograd.grad(energy, r, create_graph=True)
            (curvature,) = torch.autograd.grad(slope, r)
            jumps = {"energy": energy.item(), "force": slope.item(), "curvature": curvature.item()}
            for claim, jump in jumps.items():
                # A claim holds to the digits of the published coefficients; what is not claimed is a real jump.
                assert (abs(jump) < 1e-8) == (claim in card.continuous_at_cutoff), (name, a, b, claim, jump)


def test_smoothness_check_notices_a_wrong_coefficient():
    _, potential = load_potential("ka_ternary_2d")
    c12, c6, c0, c2, c4 = potential.coefficients
    mutant = dataclasses.replace(potential, coefficients=(c12, c6, c0, c2 * 1.001, c4))
    assert max(map(abs, cutoff_derivatives(potential))) < 1e-8 < min(map(abs, cutoff_derivatives(mutant)))


def test_polydisperse_diameters_are_quantiles_of_the_inverse_cube():
    built = build_system(SystemSettings(card="polydisperse_3d", particles=2000))
    d = np.asarray(built.system.diameters)
    assert d.mean() == pytest.approx(1.0, abs=1e-12)
    assert d.max() / d.min() == pytest.approx(1.62 / 0.73, rel=1e-3)
    assert d.std() == pytest.approx(0.23, abs=0.005)
    # P(σ) ∝ σ⁻³ makes 1/σ² uniform.
    assert np.diff(1 / d**2) == pytest.approx(np.diff(1 / d**2).mean())


# --- the strict loader ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3.*'a' is given twice"),
        ("a:\n  b: 1\n  b: 2\n", "line 3.*'b' is given twice"),
        ("- 1\n- 2\n", "expected a mapping"),
        ("", "expected a mapping"),
        ("a: &x [1]\nb: *x\n", "line 1: anchors"),
        ("a: *nothing\n", "line 1: anchors"),
        ("a: [1, 2\nb: 3\n", "line 2.*not valid YAML"),
        ("a: 1\n  b: 2\n", "line 2.*not valid YAML"),
        ("1: 2\n", "line 1.*not text"),
        ("yes: 2\n", "line 1.*not text"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1: the tag .*python/object"),
        ("a: 1\nb: !!bool x\n", "line 2: the tag"),
        ("a: 1\nb: " + 5000 * "9", "line 2: .*4300 digits"),
        ('a: 1\nb: "\\ud800"\n', "line 2: a text with control characters"),
        ('a: "\\e[31m"\n', "line 1: a text with control characters"),
        ("a: 1\n<<: {b: 2}\n", "line 2: '<<' has a meaning of its own"),
        ("a: 1\nb: \x07\n", "line 2: special characters"),
        ("a: " + "[" * 500 + "]" * 500, "nested deeper"),
        ("a: " + "{b: " * 2000, "nested deeper"),
        ("? [a, b]\n: 1\n", "not text"),
    ],
)
def test_yaml_that_is_refused(tmp_path, text, message):
    path = tmp_path / "card.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        catalogue.parse_yaml(path)
    assert "card.yaml" in str(error.value)


def test_files_that_are_refused(tmp_path):
    binary, huge = tmp_path / "binary.yaml", tmp_path / "huge.yaml"
    binary.write_bytes(b"a: 1\nb: \xff\xfe\n")
    huge.write_text("#" * 1_000_001)
    with pytest.raises(InputError, match=r"binary\.yaml: line 2: not UTF-8"):
        catalogue.parse_yaml(binary)
    with pytest.raises(InputError, match="more than the 1000000"):
        catalogue.parse_yaml(huge)
    with pytest.raises(InputError, match="cannot be read"):
        catalogue.parse_yaml(tmp_path / "missing.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        catalogue.parse_yaml(tmp_path)


def test_numbers_without_a_dot_are_numbers(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text("a: 1e-3\nb: 2E5\nc: e5\nd: 2026-01-01\n")
    assert catalogue.parse_yaml(path) == {"a": 1e-3, "b": 2e5, "c": "e5", "d": "2026-01-01"}


def test_unknown_names_list_what_is_close():
    with pytest.raises(InputError, match="did you mean 'ipl_binary_2d'"):
        catalogue.load("systems", "ipl_binary_2D")
    with pytest.raises(InputError, match="expected one of"):
        catalogue.load("potentials", "../../etc/passwd")


# --- a user's own card ----------------------------------------------------------------------------------------------


def own_card(folder: Path, kind: str, base: str, **changes) -> str:
    """A copy of a catalogue card in the user's folder, with keys changed or (None) removed."""
    data = {**catalogue.load(kind, base).data, **changes}
    data = {key: value for key, value in data.items() if value is not ...}
    (folder / f"my_{kind}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return f"my_{kind}.yaml"


def test_own_card_is_cited_by_relative_path(tmp_path):
    own_card(tmp_path, "potentials", "ipl12_binary")
    name = own_card(tmp_path, "systems", "ipl_binary_2d", potential="my_potentials.yaml", temperature=0.5)
    built = build_system(SystemSettings(card=name), relative_to=tmp_path)
    assert (built.system.name, built.state.temperature) == ("my_systems", 0.5)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "link.yaml").symlink_to(tmp_path / name)
    for bad in (f"../{name}", "link.yaml"):
        with pytest.raises(InputError, match="leads outside"):
            build_system(SystemSettings(card=bad), relative_to=tmp_path / "inner")


@pytest.mark.parametrize("leads", ["../my_potentials.yaml", "/etc/my_potentials.yaml"])
def test_a_card_names_nothing_outside_of_its_folder(tmp_path, leads):
    name = own_card(tmp_path, "systems", "ipl_binary_2d", potential=leads)
    with pytest.raises(InputError, match=r"key 'potential'.*relative to the file that names it"):
        build_system(SystemSettings(card=name), relative_to=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": [[1.0, 1.2], [1.3, 1.4]]}, r"sigma is not symmetric: AB is 1\.2 but BA is 1\.3"),
        ({"epsilon": [[1.0, 1.0]]}, "epsilon has to be a 2 x 2 matrix"),
        ({"continuous_at_cutoff": ["energy", "force"]}, "claims a continuous force, but it jumps"),
        ({"coefficients": {"c12": 1.0}}, "claims a continuous energy"),
        ({"cutoff": -1.0}, "'cutoff'.*greater than 0"),
        ({"cutoff": float("nan")}, "'cutoff'.*finite"),
        ({"cutof": 2.5}, "unknown key 'cutof': did you mean 'cutoff'"),
        ({"sigma": [[1.0, "x"], [1.2, 1.4]]}, r"'sigma\[0\]\[1\]'"),
        ({"species": ["A", "A"]}, "species names have to differ"),
        ({"nonadditivity": 0.2}, "either sigma"),
        ({"citations": []}, "'citations'"),
        ({"citations": ...}, "key 'citations' is missing"),
        ({"units": "si"}, "'units'"),
    ],
)
def test_bad_potential_cards(tmp_path, changes, message):
    name = own_card(tmp_path, "potentials", "ipl12_binary", **changes)
    with pytest.raises(InputError, match=message) as error:
        load_potential(name, tmp_path)
    assert "my_potentials.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"density": ...}, "exactly one of density, lengths"),
        ({"lengths": [3.0, 3.0]}, "exactly one of density, lengths"),
        ({"density": ..., "lengths": [3.0, 3.0, 3.0]}, "2 numbers expected"),
        ({"composition": {"A": 0, "B": 0}}, "no particles"),
        ({"composition": {"A": -5, "B": 5}}, r"'composition\.A'"),
        ({"composition": {"B": 5, "A": 5}}, "names and their order"),
        ({"elements": {"A": "Ar"}}, "are not those of composition"),
        ({"potential": "ka_ternary_2d", "truncated_image": True}, "its potential is for"),
        ({"potential": "ipl13"}, "unknown card 'ipl13'"),
        ({"temperature": 0.0}, "'temperature'"),
        ({"truncated_image": False}, "cutoff 3.5 exceeds half the box length 2.236"),
        ({"diameters": {"law": "inverse_cube", "minimum": 2.0, "maximum": 1.0}}, "minimum has to be below"),
        ({"dimensions": 4}, "'dimensions'"),
    ],
)
def test_bad_system_cards(tmp_path, changes, message):
    name = own_card(tmp_path, "systems", "ipl_binary_2d", **changes)
    with pytest.raises(InputError, match=message):
        build_system(SystemSettings(card=name), relative_to=tmp_path)
