"""One target per parser: a function of bytes that returns, or raises InputError or RunError, and nothing else."""

import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ase
import ase.io
import h5py
import numpy as np
import torch
import yaml

from particlegen import catalogue
from particlegen.energy import Label, LabelStore, export_labels
from particlegen.energy.cards import load_potential, load_system_card
from particlegen.energy.engine_cards import ASECard, OpenMMCard, TbliteCard
from particlegen.energy.label_files import read_labels
from particlegen.energy.learned_card import KernelCard, LearnedCard
from particlegen.energy.openmm_xml import checked_xml
from particlegen.energy.pyscf_settings import PySCFSettings
from particlegen.geometry import FlatTorus, FreeSpace
from particlegen.io.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from particlegen.io.store import RunStore
from particlegen.io.structures import ASE_FORMATS, read_structures
from particlegen.isomers.cards import load_cluster_card
from particlegen.report import advise, format_quantity, quantity
from particlegen.settings import InputError
from particlegen.system import ParticleSystem
from particlegen.validation import parse_section
from particlegen.workflow.checked import checked_manifest, checked_results
from particlegen.workflow.folder import Journal, RunFolder
from particlegen.workflow.resources import load_resources
from particlegen.workflow.schema import load_workflow

TESTS = Path(__file__).parents[1]
MEMORY = Path("/dev/shm")


@functools.cache
def scratch() -> Path:
    """A folder of this process, in memory where there is such a file system."""
    return Path(tempfile.mkdtemp(prefix="particlegen-fuzz-", dir=MEMORY if MEMORY.is_dir() else None))


@dataclass(frozen=True)
class Target:
    """A parser.

    Args:
        run: reads the bytes as a file.
        seeds: well-formed files.
        share: of all executions; the slower the parser, the smaller.
    """

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    share: float


def file(name: str, content: bytes) -> Path:
    path = scratch() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# --- structures -----------------------------------------------------------------------------------------------------


def structure(content: bytes) -> None:
    read_structures(file("structure.extxyz", content))


def structure_seeds() -> list[bytes]:
    found = [path.read_bytes() for path in sorted((catalogue.root() / "systems" / "structures").glob("*.xyz"))[:3]]
    return [
        *found,
        b'2\nLattice="3 0 0 0 3 0 0 0 0" Properties=species:I:1:pos:R:2\n1 0.0 0.0\n2 1.2 0.0\n',
        b'2\nLattice="3 0 0 0 3 0 0 0 1" Properties=species:S:1:pos:R:3:radius:R:1 pbc="T T F"\nA 0 0 1 1\nB 1 0 1 1\n',
        b"2\ncolumns:id,pos,radius cell:3.0,3.0,3.0 step:7\nA 0 0 0 0.5\nB 1 1 1 0.4\n",
        b"1\ncolumns:name,x,y ndim:2\nA 0 0\n1\ncolumns:name,x,y ndim:2\nA 1 1\n",
        b"1\nplain\nAg 0.0 0.0 0.0\n\n\n2\n\nAg 0 0 0\nAg 0 0 1e-3\n",
    ]


def structure_ase(content: bytes) -> None:
    """The first byte chooses the format."""
    read_structures(file("structure.any", content[1:]), format=sorted(ASE_FORMATS)[(content or b"\0")[0] % 5])


def structure_ase_seeds() -> list[bytes]:
    atoms = ase.Atoms("Ar2", [[0, 0, 0], [1, 2, 3]], cell=[4, 5, 6], pbc=True)
    seeds = []
    for number, name in enumerate(sorted(ASE_FORMATS)):
        path = scratch() / "seed.any"
        if name == "lammps-dump-text":
            head = "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS pp pp pp\n0 4\n0 5\n0 6\n"
            path.write_text(head + "ITEM: ATOMS id type x y z\n1 1 0 0 0\n2 1 1 2 3\n")
        else:
            ase.io.write(path, atoms, format=name)
        seeds.append(bytes([number]) + path.read_bytes())
    return seeds


# --- YAML -----------------------------------------------------------------------------------------------------------


def yaml_file(content: bytes) -> None:
    catalogue.parse_yaml(file("any.yaml", content))


def card(content: bytes) -> None:
    """A card, by the schema that its kind asks for."""
    path = file("card.yaml", content)
    data = catalogue.parse_yaml(path)
    kind = data.get("kind")
    if kind == "cluster":
        load_cluster_card(str(path))
    elif kind == "even_power":
        load_potential(str(path))
    elif isinstance(kind, str) and kind in ENGINE_CARDS:
        parse_section(ENGINE_CARDS[kind], data, "card")
    else:
        load_system_card(str(path))


ENGINE_CARDS = {
    "openmm": OpenMMCard,
    "ase": ASECard,
    "tblite": TbliteCard,
    "pyscf": PySCFSettings,
    "learned": LearnedCard,
    "kernel": KernelCard,
}


def card_seeds() -> list[bytes]:
    root = catalogue.root()
    paths = [path for kind in ("systems", "potentials") for path in sorted((root / kind).glob("*.yaml"))]
    return [path.read_bytes()[:2500] for path in paths]


def workflow(content: bytes) -> None:
    load_workflow(file("workflow.yaml", content))


def workflow_seeds() -> list[bytes]:
    paths = [*sorted((catalogue.root() / "workflows").glob("*.yaml")), *sorted((TESTS / "workflows").glob("*.yaml"))]
    return [path.read_bytes() for path in paths]


def resources(content: bytes) -> None:
    load_resources(file("resources.yaml", content))


def resources_seeds() -> list[bytes]:
    slurm = {"kind": "slurm", "walltime": "12:00:00", "cores": 32, "setup": ["module load x"]}
    executors = [
        {"kind": "process", "workers": 4, "threads": 2, "timeout": 60.0},
        {"kind": "parsl", "workers": 8, "nodes": slurm, "blocks": {"most": 4}},
    ]
    return [yaml.safe_dump({"device": "cpu", "threads": 1, "executor": each}).encode() for each in executors]


# --- the run store --------------------------------------------------------------------------------------------------

SYSTEM = ParticleSystem("pair", FlatTorus((3.0, 4.0)), (0, 1), ("A", "B"))
FRAMES = 6


def _arrays() -> dict[str, np.ndarray]:
    x = np.linspace(0.0, 2.9, 4 * FRAMES).reshape(FRAMES, 2, 2)
    return {"position": x, "energy": x[:, 0, 0], "chain": np.arange(FRAMES)}


def _read_store(store: RunStore) -> None:
    store.segments("generated")
    store.length("generated")
    for name in store.names("generated"):
        store.read("generated", name, -3)
        sum(len(block) for block in store.blocks("generated", name, 4))


def _fresh(name: str) -> Path:
    folder = scratch() / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def segment(content: bytes) -> None:
    """One segment; then all is consolidated."""
    folder = _fresh("segments-run")
    file(f"segments-run/segments/generated/00000000-{FRAMES}.h5", content)
    store = RunStore(folder)
    _read_store(store)
    store.consolidate("generated", SYSTEM)
    _read_store(store)


def segment_seeds() -> list[bytes]:
    folder = _fresh("seed-run")
    RunStore(folder).append("generated", 0, _arrays())
    path = next((folder / "segments" / "generated").iterdir())
    return [path.read_bytes(), *_old_format("arrays")]


def _old_format(root: str) -> list[bytes]:
    """The same in the older layout of HDF5, whose tables carry no checksums; one with everything that is refused."""
    seeds = []
    for odd in (False, True):
        path = scratch() / "seed.h5"
        with h5py.File(path, "w", libver="earliest") as made:
            group = made.create_group(root)
            for name, array in _arrays().items():
                group.create_dataset(name, data=array, chunks=array.shape, compression="gzip" if odd else None)
            if odd:
                group["soft"] = h5py.SoftLink("/arrays/energy")
                group["away"] = h5py.ExternalLink("other.h5", "/x")
                group.create_dataset("claims", shape=(FRAMES, 10**10), chunks=(1, 10), dtype=float)
                group.create_dataset("reference", data=group.ref, dtype=h5py.ref_dtype)
                layout = h5py.VirtualLayout(shape=(FRAMES,), dtype=float)
                layout[:] = h5py.VirtualSource("other.h5", "x", shape=(FRAMES,))
                group.create_virtual_dataset("virtual", layout)
        seeds.append(path.read_bytes())
    return seeds


def data_h5(content: bytes) -> None:
    """The consolidated file; then another ensemble is consolidated into it."""
    folder = _fresh("data-run")
    file("data-run/data.h5", content)
    store = RunStore(folder)
    _read_store(store)
    RunStore.append(store, "reference", 0, {"energy": np.zeros(2)})
    store.consolidate("reference", SYSTEM)


def data_h5_seeds() -> list[bytes]:
    folder = _fresh("seed-run")
    store = RunStore(folder)
    store.append("generated", 0, _arrays())
    store.consolidate("generated", SYSTEM)
    return [store.file.read_bytes()]


# --- checkpoints and weights ----------------------------------------------------------------------------------------


def _tensors() -> dict[str, torch.Tensor]:
    return {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3), "e": torch.zeros(0, dtype=torch.float64)}


def checkpoint_json(content: bytes) -> None:
    _checkpoint(0, content)


def checkpoint_tensors(content: bytes) -> None:
    _checkpoint(1, content)


def _checkpoint(which: int, content: bytes) -> None:
    pair = list(_checkpoint_pair())
    pair[which] = content
    for suffix, part in zip(("json", "safetensors"), pair, strict=True):
        file(f"checkpoints/flow-000000000007.{suffix}", part)
    load_checkpoint(scratch() / "checkpoints", "flow")


@functools.cache
def _checkpoint_pair() -> tuple[bytes, bytes]:
    path = save_checkpoint(scratch() / "seed-checkpoints", "flow", 7, _tensors(), {"loss": 0.5, "state": [1, {"a": 2}]})
    return path.read_bytes(), path.with_suffix(".safetensors").read_bytes()


def weights(content: bytes) -> None:
    load_weights(file("weights.safetensors", content))


def weights_seeds() -> list[bytes]:
    path = scratch() / "seed.safetensors"
    save_weights(path, _tensors(), {"network": {"width": 8}})
    return [path.read_bytes(), _checkpoint_pair()[1]]


# --- label stores ---------------------------------------------------------------------------------------------------


def labels(content: bytes) -> None:
    (scratch() / "labels.db-journal").unlink(missing_ok=True)
    store = LabelStore(file("labels.db", content), create=False, wait=0.1)
    for summary in store.summaries():
        for label in store.labels(summary.settings_hash):
            store.get(summary.settings_hash, [label.geometry_hash])
    list(store.labels())


@functools.cache
def _store() -> LabelStore:
    store = LabelStore(scratch() / "seed.db")
    system = ParticleSystem("two", FreeSpace(3), (0, 1), ("Ar", "Kr"), units="metal")
    key = store.add_settings({"engine": "x", "versions": {"x": "1"}})
    x = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    common = {"settings_hash": key, "system": system, "iterations": 3, "seconds": 0.5, "provider": "x", "time": 1.0}
    good = {"energy": -1.5, "forces": x, "virial": 0.25, "reason": None}
    bad = {"energy": None, "forces": None, "virial": None, "reason": "diverged"}
    store.put([Label(positions=x, **common, **good), Label(positions=2 * x, **common, **bad)])
    return store


def labels_seeds() -> list[bytes]:
    return [_store().path.read_bytes()]


def labels_import(content: bytes) -> None:
    list(read_labels(file("labels.extxyz", content)))


def labels_import_seeds() -> list[bytes]:
    path = scratch() / "seed-labels.extxyz"
    path.unlink(missing_ok=True)
    export_labels(_store(), path)
    return [path.read_bytes()]


# --- files of a run -------------------------------------------------------------------------------------------------


@functools.cache
def _folder() -> RunFolder:
    return RunFolder(_fresh("run"))


def events(content: bytes) -> None:
    folder = _folder()
    folder.events_file.write_bytes(content)
    list(folder.events())
    with Journal(folder) as journal:
        journal.spent()


def events_seeds() -> list[bytes]:
    started = b'{"time": 1.5, "kind": "started", "stage": "training", "message": "4", "fields": {}}\n'
    progress = (
        b'{"time": 2.5, "kind": "progress", "stage": "training", "message": "1", "fields": {"done": 1, "total": 9, '
        b'"loss": null}, "spent": {"seconds": 0.5, "engines": {"pair": {"calls": 1.5, "seconds": 0.1}}}}\n'
    )
    return [started + progress, progress * 3, started]


def results(content: bytes) -> None:
    folder = _folder()
    folder.results_file.write_bytes(content)
    found = checked_results(folder.read_json(folder.results_file), folder.results_file)
    advise(found)
    for key in (f"{part}.{name}" for part in found if isinstance(found[part], dict) for name in found[part]):
        shown = quantity(found, key)
        if shown is not None:
            format_quantity(*shown)


def results_seeds() -> list[bytes]:
    def number(value: float | None) -> dict[str, object]:
        return {"value": value, "stderr": 0.1, "unit": "kT", "method": "BAR"}

    status = {"converged": False, "reasons": ["no"]}
    generated = {"pareto_k": number(0.9), "n_samples": number(100), "ess_per_sample": number(0.01)}
    glass = {
        "kind": "glass",
        "status": status,
        "system": {"name": "x", "composition": {"A": 3}},
        "reference": {"r_hat": number(1.2), "energy_per_particle": number(2.0)},
        "generated": generated,
        "reweighted": {"energy_per_particle": number(2.5)},
        "free_energy": {"excess": number(4.5)},
    }
    budget = {"half_width": number(1.0), "statistical": number(1.0)}
    isomers = {
        "kind": "isomers",
        "status": status,
        "isomers": {"a": {"r_hat": number(1.1), "pareto_k": number(None)}},
        "delta_free_energy": {"b-a": number(0.1) | {"flow": number(2.0), "budget": budget}},
    }
    return [json.dumps(each).encode() for each in (glass, isomers)]


def manifest(content: bytes) -> None:
    folder = _folder()
    folder.manifest_file.write_bytes(content)
    checked_manifest(folder.read_json(folder.manifest_file), folder.manifest_file)


def manifest_seeds() -> list[bytes]:
    text = (
        '{"name": "x", "relative_to": "/tmp", "citations": ["a"], "engines": {"x.yaml": "00"}, "seed": 7, '
        '"inputs": {"system.card": "00"}, "workflow_sha256": "00", "start_from": {"folder": "a", "generation": 1}}'
    )
    return [text.encode()]


def openmm_xml(content: bytes) -> None:
    checked_xml(file("system.xml", content))


def openmm_xml_seeds() -> list[bytes]:
    head = '<?xml version="1.0" ?>\n<System type="System" version="1"><Particles><Particle mass="1"/>'
    force = '<Force energy="r" name="x" type="CustomBondForce" version="3"><Bonds/></Force>'
    return [f"{head}</Particles><Forces>{force}</Forces></System>".encode()]


TARGETS = {
    "structure": Target(structure, structure_seeds, 0.29),
    "structure_ase": Target(structure_ase, structure_ase_seeds, 0.01),
    "yaml": Target(yaml_file, card_seeds, 0.012),
    "card": Target(card, card_seeds, 0.01),
    "workflow": Target(workflow, workflow_seeds, 0.01),
    "resources": Target(resources, resources_seeds, 0.02),
    "segment": Target(segment, segment_seeds, 0.01),
    "data_h5": Target(data_h5, data_h5_seeds, 0.01),
    "checkpoint_json": Target(checkpoint_json, lambda: [_checkpoint_pair()[0]], 0.1),
    "checkpoint_tensors": Target(checkpoint_tensors, lambda: [_checkpoint_pair()[1]], 0.06),
    "weights": Target(weights, weights_seeds, 0.08),
    "labels": Target(labels, labels_seeds, 0.012),
    "labels_import": Target(labels_import, labels_import_seeds, 0.012),
    "events": Target(events, events_seeds, 0.13),
    "results": Target(results, results_seeds, 0.1),
    "manifest": Target(manifest, manifest_seeds, 0.1),
    "openmm_xml": Target(openmm_xml, openmm_xml_seeds, 0.034),
}
"""By name; the shares add up to 1."""

__all__ = ["TARGETS", "InputError", "Target", "scratch"]
