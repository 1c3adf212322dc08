"""Engine cards: each opens the engine that it names, with its settings; plug-ins; the command line."""

import contextlib
import importlib.metadata
import json
import math
import pickle
import re
from pathlib import Path

import pytest
import torch
import yaml
from test_energy_engines import octahedra, silver
from test_energy_pair import lattice
from typer.testing import CliRunner

from particlegen import catalogue
from particlegen.cli import app
from particlegen.energy import (
    ASEEnergy,
    OpenMMEnergy,
    PySCFEnergy,
    SystemSettings,
    TorchPairEnergy,
    build_system,
    open_engine,
    settings_hash,
    xtb_energy,
)
from particlegen.settings import InputError

CITED = {"version": 1, "citations": ["x"]}


def card(folder, **content):
    (folder / "mine.yaml").write_text(yaml.safe_dump({**CITED, **content}))
    return "mine.yaml"


def mixture():
    built = build_system(SystemSettings(card="ka_ternary_2d"))
    return built, lattice(TorchPairEnergy(built.system, built.potential), 3)


def test_cards_of_the_catalogue_open_their_engines():
    pytest.importorskip("pyscf")
    x = octahedra(2)
    same = {
        "ase_emt": ASEEnergy(silver(), "emt"),
        "gfn1_xtb": xtb_energy(silver(), "GFN1-xTB"),
        "gfn2_xtb": xtb_energy(silver(), "GFN2-xTB"),
    }
    for name, direct in same.items():
        found = open_engine(silver(), name)
        assert torch.equal(found.evaluate(x).energy, direct.evaluate(x).energy)
        assert (found.name, settings_hash(found.settings)) == (direct.name, settings_hash(direct.settings))
    theory = {"pyscf_pbe_lanl2dz", "pyscf_pbe_def2svp"}
    assert all(isinstance(open_engine(silver(), name), PySCFEnergy) for name in theory)
    built, y = mixture()
    theirs = open_engine(built.system, "openmm_reference", built.potential)
    ours = open_engine(built.system, built.potential.name)
    assert isinstance(theirs, OpenMMEnergy) and isinstance(ours, TorchPairEnergy)
    assert torch.allclose(theirs.evaluate(y).energy, ours.evaluate(y).energy, rtol=1e-10, atol=0)
    tested = {*same, *theory, "openmm_reference"}
    kinds = {name: catalogue.load("potentials", name).data["kind"] for name in catalogue.names("potentials")}
    assert {name for name, kind in kinds.items() if kind != "even_power"} == tested


def test_settings_of_a_card_reach_the_engine(tmp_path):
    x = octahedra(1)
    colder = card(tmp_path, kind="tblite", method="GFN2-xTB", electronic_temperature=3000.0)
    assert (
        open_engine(silver(), colder, relative_to=tmp_path).evaluate(x).energy
        != xtb_energy(silver()).evaluate(x).energy
    )
    built = build_system(SystemSettings(card="lj_cluster", particles=6))
    named = card(tmp_path, kind="ase", calculator="emt", elements={"A": "Cu"})
    assert open_engine(built.system, named, relative_to=tmp_path).evaluate(0.9 * x).ok.all()
    asap = card(tmp_path, kind="ase", calculator="emt", parameters={"asap_cutoff": True})
    found = open_engine(silver(), asap, relative_to=tmp_path)
    assert settings_hash(found.settings) != settings_hash(open_engine(silver(), "ase_emt").settings)


def test_an_openmm_system_beside_its_card(tmp_path):
    openmm = pytest.importorskip("openmm")
    springs, force = openmm.System(), openmm.HarmonicBondForce()
    for _ in range(6):
        springs.addParticle(1.0)
    force.addBond(0, 1, 0.3, 1000.0)
    springs.addForce(force)
    (tmp_path / "springs.xml").write_text(openmm.XmlSerializer.serialize(springs))
    name = card(tmp_path, kind="openmm", xml="springs.xml")
    assert open_engine(silver(), name, relative_to=tmp_path).evaluate(octahedra(1)).energy > 0
    with pytest.raises(InputError, match="key 'xml' is missing"):
        open_engine(silver(), "openmm_reference")


class Ran:
    """What a pickle of it does when it is read."""

    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize(
    "disguise",
    [
        lambda text: text,
        lambda text: text.replace('type="PythonForce"', "type='PythonForce'"),
        lambda text: text.replace('type="PythonForce"', 'type="Python&#70;orce"'),
        lambda text: text.replace("<System", '<!DOCTYPE x [<!ENTITY f "PythonForce">]>\n<System').replace(
            'type="PythonForce"', 'type="&f;"'
        ),
        lambda text: text.encode("utf-16"),
    ],
)
def test_an_openmm_system_with_python_in_it_is_not_read(tmp_path, monkeypatch, disguise):
    """OpenMM's `PythonForce` unpickles its function: reading the file would run it."""
    openmm = pytest.importorskip("openmm", "8.4")
    monkeypatch.chdir(tmp_path)
    system = openmm.System()
    for _ in range(6):
        system.addParticle(1.0)
    system.addForce(openmm.PythonForce(math.sin))
    text = openmm.XmlSerializer.serialize(system)
    text = re.sub('function="[0-9a-f]*"', f'function="{pickle.dumps(Ran()).hex()}"', text)
    with contextlib.suppress(Exception):
        openmm.XmlSerializer.deserialize(text)
    assert Path("ran").exists(), "the trap has to work"
    Path("ran").unlink()
    content = disguise(text)
    (tmp_path / "trap.xml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"trap\.xml"):
        open_engine(silver(), card(tmp_path, kind="openmm", xml="trap.xml"), relative_to=tmp_path)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "tblit"}, "key 'kind': no engine 'tblit' is known or installed: did you mean 'tblite'"),
        ({}, "key 'kind'"),
        ({"kind": "tblite", "method": "GFN3-xTB"}, "method"),
        ({"kind": "ase", "calculator": "emtt"}, "did you mean"),
        ({"kind": "ase", "calculater": "emt"}, "calculater"),
        (
            {"kind": "ase", "calculator": "emt", "parameters": {"asap_cutof": True}},
            "calculator 'emt': unknown keyword 'asap_cutof': did you mean 'asap_cutoff'",
        ),
        ({"kind": "tblite", "method": "GFN2-xTB", "multiplicity": 2}, "multiplicity 2: the 282 electrons"),
        ({"kind": "pyscf", "functional": "pbee", "basis": "sto-3g"}, "functional 'pbee'"),
        ({"kind": "openmm", "platform": "Abacus", "xml": "no.xml"}, "no.xml"),
        ({"kind": "openmm"}, "key 'xml' is missing"),
        ({"kind": "openmm", "xml": "../away.xml"}, "key 'xml': .*leads outside"),
        ({"kind": "openmm", "xml": "/etc/away.xml"}, "key 'xml': .*leads outside"),
        ({"kind": "ase", "calculator": "lammpslib", "parameters": {"lmpcmds": ["shell ls"]}}, "it runs scripts"),
        ({"kind": "ase", "calculator": "vasp", "parameters": {"command": "ls"}}, "'command' names a program"),
        ({"kind": "ase", "calculator": "orca", "parameters": {"x": [{"Profile": 1}]}}, "'profile' names a program"),
        ({"kind": "ase", "calculator": "dftb", "parameters": {"slako_dir": "/etc/"}}, "'/etc/' is no plain word"),
        ({"kind": "ase", "calculator": "vasp", "parameters": {"pp": {"a": "../x"}}}, "'../x' is no plain word"),
        ({"kind": "ase", "calculator": "cp2k", "parameters": {"inp": "&A\\n"}}, "is no plain word"),
    ],
)
def test_a_wrong_card_is_an_error_that_names_the_key(tmp_path, content, message):
    pytest.importorskip("pyscf")
    with pytest.raises(InputError, match=rf"mine\.yaml: (?s:.*){message}"):
        open_engine(silver(), card(tmp_path, **content), relative_to=tmp_path)


class Plugin:
    def __init__(self, name, make):
        self.name, self.make, self.loaded = name, make, 0

    def load(self):
        self.loaded += 1
        return self.make


def test_plug_ins_answer_for_their_kind_and_are_loaded_on_demand(tmp_path, monkeypatch):
    scaled = Plugin("scaled_emt", lambda system, settings: ASEEnergy(system, "emt", stated=dict(settings)))
    broken = Plugin("broken", lambda system, settings: 3)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [scaled, broken])
    name = card(tmp_path, kind="scaled_emt", factor=2.0)
    found = open_engine(silver(), name, relative_to=tmp_path)
    assert found.settings["factor"] == 2.0 and (scaled.loaded, broken.loaded) == (1, 0)
    with pytest.raises(InputError, match="made a int, which is no energy provider"):
        open_engine(silver(), card(tmp_path, kind="broken"), relative_to=tmp_path)


def test_the_energy_command_takes_an_engine(tmp_path):
    built, x = mixture()
    lengths = built.system.torus.lengths
    rows = "".join(
        f"{built.system.species_names[s]} {a:.17g} {b:.17g}\n"
        for s, (a, b) in zip(built.system.species, x[0], strict=True)
    )
    box = f'Lattice="{lengths[0]!r} 0 0 0 {lengths[1]!r} 0 0 0 0" Properties=species:S:1:pos:R:2'
    (tmp_path / "x.xyz").write_text(f"{len(x[0])}\n{box}\n{rows}")
    command = ["energy", "--system", "ka_ternary_2d", str(tmp_path / "x.xyz"), "--json"]
    torch_found, openmm_found, failed = (
        CliRunner().invoke(app, [*command, *more])
        for more in ([], ["--engine", "openmm_reference"], ["--engine", "gfn2_xtb"])
    )
    (ours,), (theirs,) = json.loads(torch_found.stdout), json.loads(openmm_found.stdout)
    assert theirs["energy"] == pytest.approx(ours["energy"], rel=1e-10) and theirs != ours
    assert theirs["virial"] == pytest.approx(ours["virial"], rel=1e-8)
    assert failed.exit_code == 2
