"""Energies of structure files under a card."""

import json

import pytest
import torch
from ase.build import bulk
from ase.io import write as ase_write

from particlegen.energy import SystemSettings, TorchPairEnergy, build_system, energy_of_file, files
from particlegen.settings import InputError
from particlegen.streams import torch_stream


def atooms(positions, species, lengths) -> str:
    rows = "".join(
        f"{s} " + " ".join(repr(float(c)) for c in r) + "\n" for s, r in zip(species, positions, strict=True)
    )
    return f"{len(species)}\nstep:0 columns:id,pos cell:{','.join(repr(length) for length in lengths)}\n{rows}"


@pytest.fixture(scope="module")
def ternary():
    built = build_system(SystemSettings(card="ka_ternary_2d"))
    x = built.system.geometry.uniform((3, 44), torch_stream(1, "test"))
    return built, x, TorchPairEnergy(built.system, built.potential).evaluate(x).energy


@pytest.mark.parametrize("labels", [("1", "2", "3"), ("A", "B", "C"), ("Ar", "Ne", "Kr")])
def test_frames_in_any_species_order(tmp_path, ternary, labels):
    built, x, expected = ternary
    order = torch.randperm(44, generator=torch_stream(2, "test"))
    species = [labels[built.system.species[k]] for k in order]
    # Unwrapped coordinates, as published frames often have them.
    frames = [atooms(frame[order] + built.system.torus.lengths[0], species, built.system.torus.lengths) for frame in x]
    path = tmp_path / "frames.xyz"
    path.write_text("".join(frames))
    rows = energy_of_file("ka_ternary_2d", path)
    assert [row["energy"] for row in rows] == pytest.approx(expected.tolist(), rel=1e-9)
    assert [row["energy_per_particle"] for row in rows] == pytest.approx((expected / 44).tolist(), rel=1e-9)
    json.dumps(rows, allow_nan=False)


def test_frames_of_different_sizes_and_boxes(tmp_path):
    path = tmp_path / "frames.xyz"
    path.write_text(
        atooms([[0, 0], [1.5, 0]], "12", (3.0, 3.0))
        + atooms([[0, 0], [0, 1.0]], "11", (9.0, 8.0))
        + atooms([[0, 0], [0, 0], [2, 2]], "112", (9.0, 8.0))
        + atooms([[0, 0]], "1", (9.0, 8.0))
    )
    rows = energy_of_file("ipl_binary_2d", path)
    assert rows[0]["energy"] == pytest.approx(0.8**12 - 2.5**-12, rel=1e-12)
    assert rows[1]["energy"] == pytest.approx(1.0 - 2.5**-12, rel=1e-12)
    assert rows[1]["energy_per_particle"] == pytest.approx(0.5 * (1.0 - 2.5**-12), rel=1e-12)
    assert rows[2]["energy"] is None and rows[2]["reason"] == "two particles coincide"
    assert rows[3]["energy"] == 0.0
    assert [row["n_particles"] for row in rows] == [2, 2, 3, 1]


@pytest.mark.parametrize("engine", [None, "ka_ternary"])
def test_an_engine_is_opened_once_for_frames_that_are_alike(tmp_path, monkeypatch, ternary, engine):
    """However many batches they make; each batch is bounded. Another box or order of species is another system."""
    built, x, expected = ternary
    opened, asked = [], []

    class Watched(TorchPairEnergy):
        def __init__(self, system, potential):
            opened.append(system)
            super().__init__(system, potential)

        def evaluate(self, positions, want=("energy",)):
            asked.append((self.system, len(positions)))
            return super().evaluate(positions, want)

    monkeypatch.setattr(files, "_FRAMES_PER_BATCH", 3)
    monkeypatch.setattr(files, "TorchPairEnergy", Watched)
    monkeypatch.setattr(files, "open_engine", lambda system, name, potential, relative_to: Watched(system, potential))
    lengths, species = built.system.torus.lengths, [str(1 + s) for s in built.system.species]
    wide = tuple(1.5 * length for length in lengths)
    alike = [atooms(x[k % 3], species, lengths) for k in range(7)]
    others = [atooms(x[0], species, wide), atooms(x[0].flip(0), species[::-1], wide)]
    path = tmp_path / "frames.xyz"
    path.write_text("".join([*alike, *others, *alike[:4]]))
    rows = energy_of_file("ka_ternary_2d", path, engine=engine)
    assert [len(rows), rows[7]["energy"]] == [13, pytest.approx(rows[8]["energy"], rel=1e-12)]
    energies = [row["energy"] for row in (*rows[:7], *rows[9:])]
    assert energies == pytest.approx([float(expected[k % 3]) for k in (*range(7), *range(4))], rel=1e-9)
    assert len(opened) == 4 and opened[0] == opened[3] != opened[1]
    assert [(opened.index(system), n) for system, n in asked] == [
        (0, 3),
        (0, 3),
        (0, 1),
        (1, 1),
        (2, 1),
        (0, 3),
        (0, 1),
    ]


@pytest.mark.parametrize(("potential", "expected"), [(None, -7.3210320791), ("lj_cut", -7.7615881)])
def test_fcc_file(tmp_path, potential, expected):
    path = tmp_path / "fcc.extxyz"
    ase_write(path, bulk("Ar", "fcc", a=4 ** (1 / 3), cubic=True) * (3, 3, 3), format="extxyz")
    (row,) = energy_of_file(SystemSettings(card="lj_bulk", potential=potential), path)
    assert row["energy_per_particle"] == pytest.approx(expected, abs=1e-6)


def test_cluster_far_from_the_origin(tmp_path):
    path = tmp_path / "pair.xyz"
    path.write_text(f"2\na dimer\nA 50 0 0\nA {50 + 2 ** (1 / 6)!r} 0 0\n")
    (row,) = energy_of_file("lj_cluster", path)
    assert row["energy"] == pytest.approx(-1.0, rel=1e-12)


def test_polydisperse_needs_diameters(tmp_path):
    path = tmp_path / "frames.xyz"
    path.write_text("2\ncolumns:id,pos,radius cell:5,5,5\nA 0 0 0 0.5\nA 1.0 0 0 0.4\n")
    (row,) = energy_of_file("polydisperse_3d", path)
    s = 0.5 * (1.0 + 0.8) * (1 - 0.2 * 0.2)
    s2 = s**2
    assert row["energy"] == pytest.approx(s2**6 - 28 / 1.25**12 + 48 / 1.25**14 / s2 - 21 / 1.25**16 / s2**2, rel=1e-12)
    path.write_text("2\ncolumns:id,pos cell:5,5,5\nA 0 0 0\nA 1.0 0 0\n")
    with pytest.raises(InputError, match="needs a diameter per particle"):
        energy_of_file("polydisperse_3d", path)


@pytest.mark.parametrize(
    ("card", "text", "message"),
    [
        (
            "ipl_binary_2d",
            "1\ncell:4,4\n3 0 0\n",
            "frame 1: .*the file has the species 3; expected A, B or the numbers",
        ),
        ("ipl_binary_2d", "1\ncell:4,4\n0 0 0\n", "the file has the species 0"),
        ("ipl_binary_2d", "1\ncell:4,4,4\n1 0 0 0\n", "is 2-dimensional, the file 3-dimensional"),
        ("lj_bulk", "1\nno box\nA 0 0 0\n", "is periodic, but the file has no box"),
        ("lj_cluster", "1\ncell:4,4,4\nA 0 0 0\n", "lives in free space, but the file has a box"),
        ("ka_ternary_2d", "1\ncell:4,4\nA 0 0\n1\ncell:4,4\nB 0 0\n", "frame 1: .*cutoff 2.5 exceeds half the box"),
        ("ka_ternary_2d", "1\ncell:5,5\nA 0 0\n1\ncell:4,4\nB 0 0\n", "frame 2: .*cutoff 2.2 exceeds half the box"),
        ("no_card", "1\ncell:4,4\nA 0 0\n", "unknown card 'no_card'"),
    ],
)
def test_what_is_refused(tmp_path, card, text, message):
    path = tmp_path / "frames.xyz"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        energy_of_file(card, path)


def test_overrides_that_the_file_decides_are_refused(tmp_path):
    path = tmp_path / "frames.xyz"
    path.write_text("1\ncell:4,4\nA 0 0\n")
    with pytest.raises(InputError, match="'particles' does not apply"):
        energy_of_file(SystemSettings(card="ipl_binary_2d", particles=10), path)
