"""A room imports only from the floors below its own, and never in a circle; nothing runs what it reads."""

import ast
from pathlib import Path

import pytest
from source_rules import forbidden, forbidden_in

PACKAGE = Path(__file__).parents[1] / "particlegen"

FLOORS = (
    ("settings", "geometry", "units", "events", "streams", "machine", "tasks"),
    ("validation",),
    ("system",),
    ("io",),
    ("catalogue",),
    ("networks", "estimate"),
    ("training",),
    ("energy",),
    ("isomers",),
    ("interpolant",),
    ("flow",),
    ("sampling",),
    ("learning",),
    ("report",),
    ("workflow",),
    ("cli", "testing"),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path, package: Path) -> str:
    """The room that a file belongs to; the package's own `__init__` stands above every floor."""
    parts = path.relative_to(package).with_suffix("").parts
    return parts[0]


def imported_rooms(path: Path, package: Path) -> list[tuple[int, str]]:
    """(line, room) of every import of this package in a file, relative and local imports included."""
    name = package.name
    here = [name, *path.relative_to(package).with_suffix("").parts]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            modules = [f"{module}.{alias.name}" for alias in node.names] if module == name else [module]
        else:
            continue
        for module in modules:
            parts = module.split(".")
            if parts[0] == name and len(parts) > 1 and not parts[1].startswith("__"):
                found.append((node.lineno, parts[1]))
    return found


def violations(package: Path) -> list[str]:
    """Every import that is not from a lower floor, and every room that no floor lists."""
    wrong = []
    for path in sorted(package.rglob("*.py")):
        room = room_of(path, package)
        if room == "__init__":
            continue
        where = path.relative_to(package)
        if room not in FLOOR_OF:
            wrong.append(f"{where}: room {room!r} stands on no floor")
            continue
        for line, other in imported_rooms(path, package):
            if other == room:
                continue
            if other not in FLOOR_OF:
                wrong.append(f"{where}:{line}: imports {other!r}, which stands on no floor")
            elif FLOOR_OF[other] >= FLOOR_OF[room] and FLOOR_OF[room] > 0:
                wrong.append(
                    f"{where}:{line}: {room} (floor {FLOOR_OF[room]}) imports {other} (floor {FLOOR_OF[other]})"
                )
            elif FLOOR_OF[room] == 0 and FLOOR_OF[other] > 0:
                wrong.append(f"{where}:{line}: {room} (ground floor) imports {other} (floor {FLOOR_OF[other]})")
    return wrong + [f"circle: {' -> '.join(loop)}" for loop in circles(package)]


def circles(package: Path) -> list[list[str]]:
    """Circles among modules that import each other when they are loaded (imports inside functions are not)."""
    name = package.name
    modules = {}
    for path in package.rglob("*.py"):
        parts = [name, *path.relative_to(package).with_suffix("").parts]
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    edges: dict[str, set[str]] = {}
    for module, path in modules.items():
        targets = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    deeper = f"{node.module}.{alias.name}"
                    targets.add(deeper if deeper in modules else node.module)
        edges[module] = {target for target in targets if target in modules and target != module}
    loops, done = [], set()

    def walk(module: str, trail: list[str]) -> None:
        if module in trail:
            loops.append([*trail[trail.index(module) :], module])
            return
        if module in done:
            return
        for target in sorted(edges[module]):
            walk(target, [*trail, module])
        done.add(module)

    for module in sorted(edges):
        walk(module, [])
    return loops


def test_rooms_import_only_from_lower_floors():
    assert violations(PACKAGE) == []


def test_floors_are_those_of_the_architecture_page():
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    written = [tuple(name.strip(" `") for name in row.split(",")) for row in rows]
    assert [set(rooms) for rooms in written] == [set(rooms) for rooms in FLOORS]


def fake_tree(tmp_path: Path, files: dict[str, str]) -> Path:
    package = tmp_path / "particlegen"
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return package


@pytest.mark.parametrize(
    "files",
    [
        {"geometry.py": "from particlegen.system import ParticleSystem\n"},
        {"energy/pair.py": "from particlegen.flow import ODEFlow\n"},
        {"energy/pair.py": "import particlegen.workflow.runner\n"},
        {"energy/pair.py": "from particlegen import workflow\n"},
        {"energy/pair.py": "def f():\n    from ..sampling import chains\n"},
        {"networks/a.py": "from particlegen.estimate import ess\n"},
        {"attic/a.py": ""},
        {"flow/a.py": "import particlegen.attic\n"},
        {
            "flow/a.py": "import particlegen.flow.b\n",
            "flow/b.py": "from particlegen.flow import a\n",
            "flow/__init__.py": "",
        },
    ],
)
def test_a_wrong_import_is_found(tmp_path, files):
    assert violations(fake_tree(tmp_path, files)) != []


def test_right_imports_pass(tmp_path):
    files = {
        "__init__.py": "from particlegen.workflow import run\n",
        "system.py": "from particlegen.geometry import FlatTorus\n",
        "flow/ode.py": "from particlegen.flow.solvers import rk4\nfrom particlegen import networks\nimport torch\n",
        "flow/solvers.py": "import math\n",
        "flow/__init__.py": "from particlegen.flow.ode import ODEFlow\n",
    }
    assert violations(fake_tree(tmp_path, files)) == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_is_small_and_has_sorted_public_names(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            names = [element.value for element in node.value.elts]
            # The order of ruff's RUF022: constants, classes, the rest.
            order = sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
            assert names == order, f"__all__ of {path.name} is not sorted"


def test_nothing_runs_or_guesses_what_it_reads():
    """No pickle, `torch.load`, `eval`, full YAML loader, shell, reader that guesses a format: docs/security.md."""
    root = PACKAGE.parent
    assert list(forbidden_in(PACKAGE, root / "examples", root / "benchmarks", root / "docs")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "def f():\n    import _pickle",
        "import joblib.externals",
        "from shelve import open as o",
        "import marshal, os",
        "import dill",
        "import importlib\nimportlib.import_module('pickle')",
        "from importlib import import_module as m\nm('mars' + 'hal')",
        "import importlib\nload = importlib.import_module\nload(name)",
        "__import__('os').system('ls')",
        "eval('1')",
        "f = eval",
        "exec(text)",
        "compile(text, 'f', 'exec')",
        "import builtins\nbuiltins.eval('1')",
        "import builtins as b\ngetattr(b, 'exec')('1')",
        "__builtins__['eval']('1')",
        "import torch\ntorch.load('f')",
        "import torch as t\nt.load('f', weights_only=True)",
        "from torch import load",
        "from torch import load as l\nl('f')",
        "import torch\nread = torch.load\nread('f')",
        "import torch\nt = torch\nt.load('f')",
        "import torch\ngetattr(torch, 'load')('f')",
        "import torch\ntorch.__dict__['load']('f')",
        "import importlib\nimportlib.import_module('torch').load('f')",
        "import torch\nmap(torch.load, files)",
        "import torch\ntorch.jit.load('f')",
        "import torch.serialization as s",
        "import torch\ntorch.save(x, 'f')",
        "from torch import *",
        "import numpy as np\nnp.load('f')",
        "import numpy as np\nreader(allow_pickle=True)",
        "reader(allow_pickle=flag)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import yaml\nyaml.load(text, yaml.FullLoader)",
        "import yaml\nyaml.load(text, Loader=chosen)",
        "import yaml\nyaml.unsafe_load(text)",
        "from yaml import full_load as f",
        "from yaml import load as l\nl(text, Loader=SafeLoader)",
        "import yaml\nclass Mine(yaml.Loader): pass\nyaml.load(text, Loader=Mine)",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess as s\ns.Popen(command, shell=flag)",
        "from subprocess import getoutput",
        "import os\nos.system('ls')",
        "from os import popen as p",
        "import os\nos.execv('ls', [])",
        "import ase.io\nase.io.read('f')",
        "from ase.io import iread as r\nr('f', index=':')",
        "import ase.io\nread = ase.io.read\nread('f')",
        "import ase.db",
        "from pyscf.lib import chkfile",
        "from pyscf import gto\ngto.mole.loads(text)",
        "import pyscf\npyscf.gto.loads(text)",
        "mole.loads(text)",
        "mean_field.from_chk('f')",
        "frame.read_pickle('f')",
        "connection.enable_load_extension(True)",
        "import mdtraj as m\nm.load('f')",
    ],
)
def test_what_runs_or_guesses_is_found_under_every_name(source):
    assert forbidden(source)


@pytest.mark.parametrize(
    "source",
    [
        "import json\njson.loads(text)",
        "from json import loads as read\nread(text)",
        "network.eval()\nmodel.load(stage)\nimport re\nre.compile('a')",
        "import yaml\nyaml.safe_load(text)",
        "import yaml\nclass Strict(yaml.SafeLoader): pass\nyaml.load(text, Loader=Strict)",
        "import ase.io\nase.io.read(stream, format=name)",
        "import importlib\nimportlib.import_module(f'pyscf.{part}')",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "def compile(x): return x\ncompile(1)",
        "import safetensors.torch\nsafetensors.torch.load(content)",
    ],
)
def test_what_is_safe_passes(source):
    assert forbidden(source) == []


def test_the_place_of_a_forbidden_call_is_said(tmp_path):
    package = fake_tree(tmp_path, {"flow/a.py": "import torch\n\nx = torch.load('f')\n"})
    assert list(forbidden_in(package)) == ["particlegen/flow/a.py:3: torch.load"]


def test_shape_checks_are_on():
    import torch
    from jaxtyping import TypeCheckError

    from particlegen.energy.provider import EnergyResult

    with pytest.raises(TypeCheckError):
        EnergyResult(torch.zeros(3), None, None, torch.ones(2, dtype=torch.bool), (None,) * 3)
