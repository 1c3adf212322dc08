"""Labels to extended xyz and back bit for bit, and the commands about label stores."""

import json
import math

import ase.io
import numpy as np
import pytest
import torch
from test_cli_input import call
from test_energy_engines import octahedra, silver
from test_energy_labels import SETTINGS, label
from typer.testing import CliRunner

from particlegen.cli import app
from particlegen.energy import ASEEnergy, Cached, LabelStore, export_labels, import_labels
from particlegen.geometry import FlatTorus
from particlegen.settings import InputError
from particlegen.system import ParticleSystem

FLAT = ParticleSystem("flat", FlatTorus((3.0, 4.5)), (0, 1), ("B", "A"), diameters=(1.0, 1.1))


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Labels of two settings: silver by an engine, numbers at the edge of what a float holds, a failure, a flat box."""
    monkeypatch.chdir(tmp_path)
    store = LabelStore(tmp_path / "labels.db")
    silver_energy = Cached(ASEEnergy(silver(), "emt"), store)
    silver_energy.evaluate(octahedra(3), ("energy", "forces", "virial"))
    silver_energy.evaluate(octahedra(2, seed=4))
    key = store.add_settings(SETTINGS)
    x = np.array([[0.1 + 0.2, -0.0], [1e-300, np.nextafter(4.5, 5)]])
    odd = "SCF: 'no' \"convergence\" = {bad}\n\\ after [50] steps – ü, _JSON"
    store.put(
        [
            label(1 / 3, key),
            label(0.5, key, energy=math.inf, virial=math.inf, forces=np.zeros((2, 3))),
            label(0.6, key, energy=None, forces=None, virial=None, reason=odd, iterations=None),
            label(0.7, key, energy=3.0, seconds=1e-9, provider='an "engine"'),
            label(0.8, key, system=FLAT, positions=x, forces=x),
        ]
    )
    return store


def everything(store):
    return [(found.digest, found.positions.tobytes()) for found in store.labels()]


def test_out_and_back_bit_for_bit(store, tmp_path):
    assert export_labels(store, tmp_path / "all.extxyz") == 10
    assert import_labels(tmp_path / "fresh.db", tmp_path / "all.extxyz") == {"new": 10, "completed": 0, "known": 0}
    fresh = LabelStore(tmp_path / "fresh.db")
    assert everything(fresh) == everything(store) and fresh.summaries() == store.summaries()
    assert export_labels(fresh, tmp_path / "again.extxyz") == 10
    assert (tmp_path / "again.extxyz").read_bytes() == (tmp_path / "all.extxyz").read_bytes()
    assert import_labels(store.path, tmp_path / "all.extxyz") == {"new": 0, "completed": 0, "known": 10}
    assert everything(fresh) == everything(store)


def test_what_ase_reads(store, tmp_path):
    export_labels(store, tmp_path / "all.extxyz")
    frames = ase.io.read(tmp_path / "all.extxyz", index=":")
    for atoms, found in zip(frames, store.labels(), strict=True):
        dim = found.system.dim
        assert atoms.positions[:, :dim].tobytes() == found.positions.tobytes()
        if found.converged:
            assert atoms.get_potential_energy() == found.energy
        else:
            assert atoms.calc is None and atoms.info["label"]["reason"] == found.reason
        if found.forces is not None:
            assert np.array_equal(atoms.get_forces()[:, :dim], found.forces)
        assert atoms.info["converged"] is found.converged
        assert atoms.info["label"]["settings_hash"] == found.settings_hash
        assert atoms.info["label"]["geometry_hash"] == found.geometry_hash
    assert frames[0].get_chemical_symbols() == ["Ag"] * 6 and not frames[0].pbc.any()
    assert frames[-1].pbc.tolist() == [True, True, False] and frames[-1].cell.lengths().tolist() == [3.0, 4.5, 1.0]
    assert frames[-1].get_chemical_symbols() == ["Kr", "Ar"] and not frames[-1].positions[:, 2].any()
    emt = ASEEnergy(silver(), "emt")
    energies = torch.tensor([atoms.get_potential_energy() for atoms in frames[:3]], dtype=torch.float64)
    assert torch.equal(emt.evaluate(octahedra(3)).energy, energies)


def test_export_of_some_settings(store, tmp_path):
    key = next(summary.settings_hash for summary in store.summaries() if summary.settings == SETTINGS)
    assert export_labels(store, tmp_path / "some.extxyz", key[:8]) == 5
    for wrong in ("f" * 9, ""):
        with pytest.raises(InputError, match=rf"--settings {wrong}: .*{key[:12]}"):
            export_labels(store, tmp_path / "none.extxyz", wrong)
    with pytest.raises(InputError, match=r"e\.db: holds no labels yet"):
        export_labels(LabelStore(tmp_path / "e.db"), tmp_path / "none.extxyz")
    assert not list(tmp_path.glob("*none*"))


def test_a_store_is_completed_by_an_import(store, tmp_path):
    """A success for a failure, forces for an energy; the energies agree."""
    key, other = store.add_settings(SETTINGS), LabelStore(tmp_path / "other.db")
    other.add_settings(SETTINGS)
    other.put(
        [
            label(1 / 3, key, forces=None, virial=None),
            label(0.7, key, energy=None, forces=None, virial=None, reason="failed here"),
        ]
    )
    export_labels(store, tmp_path / "some.extxyz", key)
    assert import_labels(other.path, tmp_path / "some.extxyz") == {"new": 3, "completed": 2, "known": 0}
    assert all(found.forces is not None for found in other.labels() if found.converged)


def test_foreign_settings_have_to_be_stated(store, tmp_path):
    key = settings_of_other = LabelStore(tmp_path / "other.db").add_settings({"engine": "other"})
    other = LabelStore(tmp_path / "other.db")
    other.put([label(0.1, settings_of_other)])
    export_labels(store, tmp_path / "all.extxyz")
    before = other.path.read_bytes()
    with pytest.raises(InputError, match=rf"all\.extxyz: has labels of the settings .*{key[:12]}.*to take them:"):
        import_labels(other.path, tmp_path / "all.extxyz")
    stated = [summary.settings_hash[:10] for summary in store.summaries()]
    with pytest.raises(InputError, match="to take them"):
        import_labels(other.path, tmp_path / "all.extxyz", stated[:1])
    assert other.path.read_bytes() == before
    assert import_labels(other.path, tmp_path / "all.extxyz", stated)["new"] == 10


def test_a_contradiction_is_refused(store, tmp_path):
    key, other = store.add_settings(SETTINGS), LabelStore(tmp_path / "other.db")
    other.add_settings(SETTINGS)
    other.put([label(0.7, key, energy=np.nextafter(3.0, 4.0))])
    before = other.path.read_bytes()
    export_labels(store, tmp_path / "some.extxyz", key)
    with pytest.raises(InputError, match=r"has the energy 3\.0, .*other\.db has 3\.0000000000000004 under the same"):
        import_labels(other.path, tmp_path / "some.extxyz")
    assert other.path.read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("energy=3.0", "energy=3.1", "frame 9: does not agree with its digest"),
        ('invented\\":\\"1.0', 'invented\\":\\"1.1', "frame 6: does not agree with its settings_hash"),
        ("0.3333333333333333 0.0", "0.3333333333333334 0.0", "frame 6: does not agree with its geometry_hash"),
        ("label=", "lable=", "frame 1: no exported label"),
        ("energy=3.0 ", "", "frame 9: is no whole label"),
        (":forces:R:3", ":forces:R:4", "ASE cannot read it"),
    ],
)
def test_an_edited_file_is_refused(store, tmp_path, old, new, said):
    export_labels(store, tmp_path / "all.extxyz")
    text = (tmp_path / "all.extxyz").read_text()
    assert old in text
    (tmp_path / "all.extxyz").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=rf"all\.extxyz: {said}"):
        import_labels(tmp_path / "fresh.db", tmp_path / "all.extxyz")
    assert not (tmp_path / "fresh.db").exists()


# --- commands ---------------------------------------------------------------------------------------------------------


def test_the_commands(store):
    code, said = call("labels", "list", "labels.db")
    assert code == 0 and "ase_emt" in said and "invented" in said and "converged" in said
    rows = json.loads(CliRunner().invoke(app, ["labels", "list", "labels.db", "--json"]).stdout)
    assert [(row["labels"], row["converged"], row["failed"], row["with_forces"]) for row in rows] == [
        (5, 5, 0, 3),
        (5, 4, 1, 4),
    ]
    assert rows[1]["settings"] == SETTINGS and len(rows[1]["settings_hash"]) == 64
    code, said = call("labels", "export", "labels.db", "-o", "all.extxyz")
    assert code == 0 and "wrote all.extxyz: 10 labels" in said
    code, said = call("labels", "import", "fresh.db", "all.extxyz")
    assert code == 0 and "10 new" in said
    assert everything(LabelStore("fresh.db")) == everything(store)
    code, said = call("labels", "export", "labels.db", "-o", "some.xyz", "--settings", rows[0]["settings_hash"][:9])
    assert code == 0 and "5 labels" in said


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("list none.db", "none.db: no such label store"),
        ("list notes.txt", "notes.txt: is no label store"),
        ("export none.db -o a.extxyz", "none.db: no such label store"),
        ("export labels.db -o notes.txt", "ends in .extxyz or .xyz"),
        ("export labels.db -o taken.extxyz", "taken.extxyz exists already"),
        ("export labels.db -o nowhere/a.extxyz", "nowhere is not there"),
        ("export labels.db -o a.extxyz --settings 0000", "--settings 0000: it is not there"),
        ("import fresh.db none.extxyz", "none.extxyz: no such file"),
        ("import fresh.db taken.extxyz", "taken.extxyz"),
        ("import notes.txt good.extxyz", "notes.txt: is no label store"),
        ("import nowhere/fresh.db good.extxyz", "nowhere is not there"),
    ],
)
def test_what_the_commands_refuse(store, tmp_path, command, said):
    (tmp_path / "notes.txt").write_text("precious notes, and more of them than a header is long" * 9)
    (tmp_path / "taken.extxyz").write_text("2\nnothing of ours\nAr 0 0 0\nAr 0 0 1\n")
    export_labels(store, tmp_path / "good.extxyz")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, output = call("labels", *command.split())
    assert code == 2 and said in output, output
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_no_file(store, monkeypatch):
    import errno

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("particlegen.energy.label_files._frame", full)
    code, said = call("labels", "export", "labels.db", "-o", "all.extxyz")
    assert code == 3 and "no space left" in said
    assert sorted(path.name for path in store.path.parent.iterdir()) == ["labels.db"]
