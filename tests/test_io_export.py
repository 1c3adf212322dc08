"""Exports read back with ASE and MDTraj within the stated precision; nothing is written over."""

import csv
import json
import sys
import weakref

import ase.io
import numpy as np
import pytest

from particlegen.geometry import FlatTorus, FreeSpace
from particlegen.io.export import FORMATS, export
from particlegen.io.objects import elements_of, to_ase, to_mdtraj
from particlegen.settings import InputError, RunError
from particlegen.system import ParticleSystem

mdtraj = pytest.importorskip("mdtraj")
pytest.importorskip("tables")

FLAT = ParticleSystem("flat", FlatTorus((3.0, 4.0)), (0, 1) * 6, ("A", "B"))
SOLID = ParticleSystem("solid", FlatTorus((3.0, 4.0, 5.0)), (0, 0, 1) * 4, ("A", "B"), diameters=(1.0, 1.1, 1.2) * 4)
CLUSTER = ParticleSystem("ag", FreeSpace(3), (0,) * 12, ("Ag",), units="metal")
SYSTEMS = [FLAT, SOLID, CLUSTER]
SUFFIX = {name: kind.suffixes[0] for name, kind in FORMATS.items()}
PRECISION = {"extxyz": 1e-8, "traj": 0.0, "mdtraj-h5": 5e-6, "dcd": 5e-6, "xtc": 0.00501}
"""Of positions, in angstrom: half a unit of 0.001 nm for XTC."""


def frames(system, n=7):
    lengths = system.torus.lengths if system.geometry.periodic else (8.0,) * 3
    return np.random.default_rng(1).uniform(0, 1, size=(n, 12, system.dim)) * np.array(lengths)


def columns(n=7):
    return {"energy": np.linspace(-1, 1, n) / 3, "log_weight": np.r_[-np.inf, np.arange(n - 1) / 7.0]}


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_files_read_back_within_their_precision(tmp_path, to, system):
    path, x = tmp_path / f"out{SUFFIX[to]}", frames(system)
    said = export(path, to, system, [x[:3], x[3:3], x[3:]], columns())
    assert str(path) in said[0] and FORMATS[to].precision in said[0]
    symbols = [elements_of(system)[system.species_names[s]] for s in system.species]
    edges = list(system.torus.lengths) if system.geometry.periodic else None
    if edges and len(edges) == 2:
        edges.append(1.0)
    if to in ("extxyz", "traj"):
        atoms = ase.io.read(path, index=":")
        found = np.stack([one.positions for one in atoms])
        assert atoms[0].get_chemical_symbols() == symbols
        assert list(atoms[0].pbc) == [system.geometry.periodic and axis < system.dim for axis in range(3)]
        assert [one.info["log_weight"] for one in atoms] == pytest.approx(columns()["log_weight"], abs=1e-12)
        energies = [one.info.get("energy", one.calc and one.get_potential_energy()) for one in atoms]
        assert energies == pytest.approx(columns()["energy"], abs=1e-12)
        assert atoms[0].info["units"] == system.units
        if system.diameters and to == "extxyz":
            assert atoms[0].arrays["diameters"] == pytest.approx(system.diameters)
        if edges:
            assert atoms[0].cell.lengths() == pytest.approx(edges)
        assert not (tmp_path / f"{path.name}.weights.csv").exists()
    else:
        top = {} if to == "mdtraj-h5" else {"top": str(path.with_suffix(".pdb"))}
        trajectory = mdtraj.load(str(path), **top)
        found = trajectory.xyz.astype(float) * 10
        assert [atom.element.symbol for atom in trajectory.topology.atoms] == symbols
        if edges:
            assert trajectory.unitcell_lengths == pytest.approx(np.tile(edges, (7, 1)) / 10, rel=1e-6)
        rows = list(csv.DictReader((tmp_path / f"{path.name}.weights.csv").open()))
        assert [float(row["log_weight"]) for row in rows] == list(columns()["log_weight"])
        assert [float(row["energy"]) for row in rows] == list(columns()["energy"])
    error = np.abs(found[..., : system.dim] - x).max()
    assert error <= PRECISION[to]
    assert np.all(found[..., system.dim :] == 0)
    card = json.loads((tmp_path / f"{path.name}.json").read_text())
    assert card["elements"] == elements_of(system) and card["precision"] == FORMATS[to].precision
    assert card["diameters"] == (list(system.diameters) if system.diameters else None)
    assert ("z = 0" in str(card["z"])) == (system is FLAT)
    assert not list(tmp_path.glob(".partial*"))


def test_the_stated_precision_is_not_idle():
    """XTC does round: its error is larger than that of DCD by orders."""
    assert PRECISION["xtc"] > 100 * PRECISION["dcd"]


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_is_written_over(tmp_path, to):
    path = tmp_path / f"out{SUFFIX[to]}"
    export(path, to, FLAT, [frames(FLAT)], columns())
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert path in before
    for victim in before:
        for file in before:
            if file != victim:
                file.unlink()
        with pytest.raises(InputError, match=f"{victim.name} exists already"):
            export(path, to, FLAT, [frames(FLAT)], columns())
        assert {file: file.read_bytes() for file in tmp_path.iterdir()} == {victim: before[victim]}
        for file, content in before.items():
            file.write_bytes(content)


@pytest.mark.parametrize("to", FORMATS)
def test_a_failed_export_leaves_no_file(tmp_path, to, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("particlegen.io.export.to_ase", full)
    whole = to_mdtraj
    monkeypatch.setattr("particlegen.io.export.to_mdtraj", lambda _, x, __: full() if len(x) > 1 else whole(FLAT, x))
    with pytest.raises(RunError, match="no space left"):
        export(tmp_path / f"out{SUFFIX[to]}", to, FLAT, [frames(FLAT)], columns())
    assert not list(tmp_path.iterdir())


def test_frames_that_were_not_written_are_noticed(tmp_path, monkeypatch):
    whole = to_mdtraj
    monkeypatch.setattr("particlegen.io.export.to_mdtraj", lambda system, x, elements: whole(system, x[:3], elements))
    with pytest.raises(RunError, match="3 of 7 frames"):
        export(tmp_path / "out.dcd", "dcd", FLAT, [frames(FLAT)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", FORMATS)
def test_columns_of_another_length_leave_no_file(tmp_path, to):
    with pytest.raises(ValueError, match="energy"):
        export(tmp_path / f"out{SUFFIX[to]}", to, FLAT, [frames(FLAT)], columns(8))
    with pytest.raises(ValueError, match="no configurations"):
        export(tmp_path / f"out{SUFFIX[to]}", to, FLAT, [frames(FLAT)[:0]], columns(0))
    assert not list(tmp_path.iterdir())


def test_an_export_holds_a_block_at_a_time(tmp_path):
    """However many come: of a quarter of a million frames never more than three blocks are alive."""
    n, held, peak = 1000, [], []

    def blocks():
        for _ in range(250):
            block = np.random.default_rng(1).uniform(0, 3, size=(n, 12, 2))
            held.append(weakref.ref(block))
            peak.append(sum(ref() is not None for ref in held))
            yield block

    export(tmp_path / "out.dcd", "dcd", FLAT, blocks(), {"energy": np.zeros(250 * n)})
    assert max(peak) <= 3 and len(held) == 250


def test_objects_without_files():
    atoms = to_ase(FLAT, frames(FLAT), columns(), {"A": "Cu"})
    assert len(atoms) == 7 and atoms[0].get_chemical_symbols()[:2] == ["Cu", "Ar"]
    assert np.array_equal(np.stack([one.positions[:, :2] for one in atoms]), frames(FLAT))
    assert atoms[3].info == {"energy": columns()["energy"][3], "log_weight": columns()["log_weight"][3], "units": "lj"}
    trajectory = to_mdtraj(SOLID, frames(SOLID))
    assert trajectory.xyz == pytest.approx(frames(SOLID) / 10, rel=1e-6)
    assert to_mdtraj(CLUSTER, frames(CLUSTER)).unitcell_lengths is None
    assert to_ase(SOLID, frames(SOLID)[:0]) == []


def test_elements_are_chosen_once_and_stated_ones_count():
    names = ("A", "Ar", "Kr")
    many = ParticleSystem("three", FlatTorus((2.0, 2.0)), (0, 1, 2), names)
    assert elements_of(many) == {"A": "Ar", "Ar": "Kr", "Kr": "Xe"}
    assert elements_of(many, {"Ar": "Ar"}) == {"A": "Kr", "Ar": "Ar", "Kr": "Xe"}
    assert elements_of(CLUSTER) == {"Ag": "Ag"}
    with pytest.raises(InputError, match=r"elements\.A"):
        elements_of(many, {"A": "Zz"})
    crowd = ParticleSystem("seven", FlatTorus((2.0, 2.0)), tuple(range(7)), tuple("ABCDEFG"))
    with pytest.raises(InputError, match="too many species"):
        elements_of(crowd)


def test_bad_requests_are_named(tmp_path, monkeypatch):
    x = frames(FLAT)
    for name, to, match in (
        ("out.xyz", "pdbx", "unknown format"),
        ("out.dat", "xtc", r"ends in \.xtc"),
        ("no/out.xtc", "xtc", "make it first"),
    ):
        with pytest.raises(InputError, match=match):
            export(tmp_path / name, to, FLAT, [x])
    with pytest.raises(ValueError, match="expected"):
        to_ase(SOLID, x)
    with pytest.raises(ValueError, match="weight"):
        to_ase(FLAT, x, {"weight": np.zeros(3)})
    monkeypatch.setitem(sys.modules, "mdtraj", None)
    with pytest.raises(InputError, match=r"pip install 'particlegen\[mdtraj\]'"):
        export(tmp_path / "out.dcd", "dcd", FLAT, [x])
    assert not list(tmp_path.iterdir())
