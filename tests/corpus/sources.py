"""The files that are mutated: every workflow, card, resources and structure file that ships, in a folder of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from mutations import Mutant, structure_mutants, text_mutants, value_mutants

from particlegen import catalogue

__all__ = ["Source", "sources"]

HERE = Path(__file__).parent
TINY, TINY_ISOMERS = (HERE.parent / "workflows" / name for name in ("tiny.yaml", "tiny_isomers.yaml"))

RESOURCES = {
    "inline": """device: auto
threads: 2
executor: {kind: inline, retries: 1}
""",
    "process": """device: cpu
threads: 1
executor: {kind: process, workers: 8, threads: 1, timeout: 900, retries: 2}
""",
    "parsl": """device: cpu
threads: 1
executor:
  kind: parsl
  workers: 2
  threads: 2
  timeout: 3600
  retries: 2
  nodes: {kind: local}
  blocks: {initial: 1, fewest: 0, most: 16, parallelism: 1.0, idle: 120}
  heartbeat: 10
""",
}

STRUCTURES = {
    "plain": (
        "lj7",
        """4
some atoms
A 0.0 0.0 0.0
A 1.1 0.0 0.0
A 0.55 0.95 0.0
A 0.55 0.32 0.9
""",
    ),
    "extended": (
        "ipl_binary_2d",
        """4
Lattice="7.0 0 0 0 7.0 0 0 0 0" Properties=species:S:1:pos:R:2
A 0.5 0.5
A 2.0 0.5
B 0.5 2.5
B 3.0 3.0
""",
    ),
    "atooms": (
        "ka_ternary_2d",
        """4
step:0 columns:id,pos cell:7.0,7.0
1 0.5 0.5
2 2.0 0.5
3 0.5 2.5
1 3.0 3.0
""",
    ),
    "diameters": (
        "polydisperse_3d",
        """2
Lattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:diameter:R:1:pos:R:3
A 1.0 0.5 0.5 0.5
A 0.9 2.0 0.5 0.5
""",
    ),
}


@dataclass(frozen=True)
class Source:
    """A file that is mutated, among those that it is used with.

    Args:
        kind: workflow, system, potential, engine, cluster, network, resources or structure.
        name: of what ships.
        files: beside it, by name; `target` among them.
        target: the file that is mutated.
        arguments: of `particlegen validate` and `particlegen run`; of `particlegen energy` for structures.
        required: dotted keys that it cannot be without.
        free: beginnings of dotted keys below which anything may be right.
    """

    kind: str
    name: str
    files: dict[str, bytes]
    target: str
    arguments: tuple[str, ...]
    required: frozenset[str] = frozenset()
    free: tuple[str, ...] = ()

    @property
    def commands(self) -> tuple[str, ...]:
        """That the file goes to, which have to agree."""
        return ("energy",) if self.arguments[0] == "--system" else ("validate", "run")

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the file's top."""
        return () if self.kind == "structure" else tuple(yaml.safe_load(self.files[self.target]))

    def write(self, folder: Path) -> None:
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    def mutants(self) -> Iterator[Mutant]:
        text, seed = self.files[self.target].decode(), sum(map(ord, self.kind + self.name))
        if self.kind == "structure":
            yield from structure_mutants(text, seed)
            return
        yield from value_mutants(text, self.required, self.free)
        yield from text_mutants(text, seed)


def sources() -> Iterator[Source]:
    """All of them."""
    yield from _workflows()
    yield from _systems()
    yield from _clusters()
    yield from _potentials()
    yield from _engines()
    yield _network()
    for name, text in RESOURCES.items():
        files = {"machine.yaml": text.encode(), "w.yaml": TINY.read_bytes()}
        arguments = ("w.yaml", "--resources", "machine.yaml")
        yield Source("resources", name, files, "machine.yaml", arguments)
    for name, (system, text) in STRUCTURES.items():
        yield Source("structure", name, {"x.xyz": text.encode()}, "x.xyz", ("--system", system, "x.xyz"))


def _read(kind: str, name: str) -> bytes:
    return catalogue.load(kind, name).path.read_bytes()


def _tiny(**sections: object) -> bytes:
    """The tiny glass workflow with sections replaced."""
    return yaml.safe_dump({**yaml.safe_load(TINY.read_text()), **sections}).encode()


def _tiny_isomers(**sections: object) -> bytes:
    return yaml.safe_dump({**yaml.safe_load(TINY_ISOMERS.read_text()), **sections}).encode()


def _workflows() -> Iterator[Source]:
    contents = {name: _read("workflows", name) for name in catalogue.names("workflows")}
    contents |= {"tiny": TINY.read_bytes(), "tiny_isomers": TINY_ISOMERS.read_bytes()}
    for name, content in contents.items():
        glass = yaml.safe_load(content)["kind"] == "glass"
        required = {"version", "kind", "system", "system.card", *(("reference", "training") if glass else ())}
        yield Source("workflow", name, {"w.yaml": content}, "w.yaml", ("w.yaml",), frozenset(required))


def _systems() -> Iterator[Source]:
    required = frozenset({"version", "title", "units", "dimensions", "potential", "composition", "temperature"})
    for name in catalogue.names("systems"):
        content = _read("systems", name)
        data = yaml.safe_load(content)
        if data.get("kind") == "cluster" or "radius" in data:
            continue
        files = {"w.yaml": _tiny(system={"card": "s.yaml"}), "s.yaml": content}
        yield Source("system", name, files, "s.yaml", ("w.yaml",), required, ("known_values",))


def _clusters() -> Iterator[Source]:
    required = frozenset({"version", "title", "units", "engine", "composition", "temperature", "isomers", "citations"})
    folder = catalogue.root() / "systems" / "structures"
    structures = {f"structures/{path.name}": path.read_bytes() for path in folder.glob("*.xyz")}
    for name in catalogue.names("systems"):
        content = _read("systems", name)
        data = yaml.safe_load(content)
        if data.get("kind") != "cluster":
            continue
        files = {"w.yaml": _tiny_isomers(system={"card": "s.yaml"}), "s.yaml": content, **structures}
        yield Source("cluster", name, files, "s.yaml", ("w.yaml",), required, ("known_values",))
        first = next(iter(data["isomers"].values()))["structure"]
        yield Source("structure", Path(first).stem, files, first, ("w.yaml",))


def _potentials() -> Iterator[Source]:
    required = frozenset({"version", "kind", "title", "units", "species", "epsilon", "coefficients", "citations"})
    for name in catalogue.names("systems"):
        data = yaml.safe_load(_read("systems", name))
        if data.get("kind") == "cluster" or "radius" in data:
            continue
        content = _read("potentials", data["potential"])
        system = yaml.safe_dump(data | {"potential": "p.yaml"}, sort_keys=False).encode()
        files = {"w.yaml": _tiny(system={"card": "s.yaml"}), "s.yaml": system, "p.yaml": content}
        yield Source("potential", data["potential"], files, "p.yaml", ("w.yaml",), required)
    files = {"w.yaml": _tiny_isomers(energy={"engine": "p.yaml"}), "p.yaml": _read("potentials", "lj_full")}
    yield Source("potential", "lj_full", files, "p.yaml", ("w.yaml",), required)


def _engines() -> Iterator[Source]:
    for name in ("ase_emt", "gfn2_xtb", "pyscf_pbe_lanl2dz"):
        workflow = _tiny_isomers(system={"card": "ag6_emt"}, energy={"engine": "e.yaml"})
        files = {"w.yaml": workflow, "e.yaml": _read("potentials", name)}
        yield Source("engine", name, files, "e.yaml", ("w.yaml",), frozenset({"kind", "citations"}))
    reference = yaml.safe_load(TINY.read_text())["reference"] | {"sampler": "hmc"}
    workflow = _tiny(system={"card": "ka_ternary_2d"}, energy={"engine": "e.yaml"}, reference=reference)
    files = {"w.yaml": workflow, "e.yaml": _read("potentials", "openmm_reference")}
    yield Source("engine", "openmm", files, "e.yaml", ("w.yaml",), frozenset({"version", "kind", "citations"}))


def _network() -> Source:
    folder = catalogue.root() / "potentials" / "networks"
    workflow = yaml.safe_load(_read("workflows", "glass_ipl_n10_pretrained")) | {"training": {"pretrained": "n.yaml"}}
    weights = "ipl_binary_2d_n10.safetensors"
    files = {
        "w.yaml": yaml.safe_dump(workflow).encode(),
        "n.yaml": (folder / "ipl_binary_2d_n10.yaml").read_bytes(),
        weights: (folder / weights).read_bytes(),
    }
    required = frozenset({"kind", "weights", "sha256", "system_hash", "network"})
    free = ("title", "trained_with", "system", "citations", "temperature")
    return Source("network", "ipl_binary_2d_n10", files, "n.yaml", ("w.yaml",), required, free)
