"""Calls and imports that have no place in this package, found in the syntax tree, under whatever name they go."""

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

__all__ = ["forbidden", "forbidden_in"]

MODULES = frozenset(
    {
        *("pickle", "_pickle", "cPickle", "pickletools", "cloudpickle", "dill", "joblib", "jsonpickle", "shelve"),
        *("marshal", "code", "codeop", "runpy", "pyscf.lib.chkfile", "pyscf.scf.chkfile", "ase.db"),
    }
)
"""Modules that run what they read, or guess what it is."""

NAMES = frozenset(
    {
        *(f"builtins.{name}" for name in ("eval", "exec", "compile", "__import__", "__builtins__")),
        *(f"torch.{name}" for name in ("load", "save", "jit.load", "hub", "package", "serialization")),
        *(f"numpy.{name}" for name in ("load", "lib.format", "lib.npyio")),
        *(f"yaml.{how}_load{many}" for how in ("full", "unsafe") for many in ("", "_all")),
        *(f"yaml.{c}{how}Loader" for c in ("", "C") for how in ("", "Full", "Unsafe")),
        *("yaml.load_all", "yaml.loader", "yaml.cyaml"),
        *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
        *("pyscf.gto.loads", "pyscf.gto.mole.loads", "pyscf.gto.Mole.loads"),
        *("mdtraj.load", "ase.io.Trajectory", "openmm.PythonForce", "openmm.openmm.PythonForce"),
        *(f"ase.io.trajectory.{name}" for name in ("Trajectory", "TrajectoryReader", "read_traj", "PickleTrajectory")),
    }
)
"""What may not be named at all, so that no second name can hide it."""

ATTRIBUTES = frozenset(
    {
        *("loads", "read_pickle", "to_pickle", "unsafe_load", "full_load", "load_extension", "enable_load_extension"),
        *("from_chk", "init_guess_by_chkfile", "update_from_chk"),
    }
)
"""Attributes that are forbidden of everything whose origin is not known; `json.loads` is known."""

GUESSING = frozenset({"ase.io.read", "ase.io.iread"})
"""Readers that guess a format unless they are told one."""

IMPORTERS = frozenset({"importlib.import_module", "builtins.__import__"})
SAFE_LOADERS = frozenset({"yaml.SafeLoader", "yaml.CSafeLoader"})


class _Rules(ast.NodeVisitor):
    def __init__(self, tree: ast.Module):
        self.found: list[tuple[int, str]] = []
        self.names: dict[str, str] = {}
        self.safe: set[str] = set()
        self._bind(tree)

    def _bind(self, tree: ast.Module) -> None:
        """Where the names of a file come from: imports, and simple assignments of what is known."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    bound = alias.asname or alias.name.partition(".")[0]
                    self.names[bound] = alias.name if alias.asname else bound
            elif isinstance(node, ast.ImportFrom) and not node.level:
                for alias in node.names:
                    self.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.names.setdefault(node.name, "")
        for _ in range(3):  # a name of a name of a name
            for node in ast.walk(tree):
                if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    known = self._origin(node.value)
                    for target in targets:
                        if isinstance(target, ast.Name) and known:
                            self.names[target.id] = known
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(self._origin(base) in SAFE_LOADERS for base in node.bases):
                self.safe.add(node.name)

    def _origin(self, node: ast.AST) -> str:
        """The dotted name of what an expression stands for; empty where it is not known."""
        if isinstance(node, ast.Name):
            if node.id in self.names:
                return self.names[node.id]
            return f"builtins.{node.id}" if hasattr(builtins, node.id) or node.id == "__builtins__" else ""
        if isinstance(node, ast.Attribute):
            inner = self._origin(node.value)
            return f"{inner}.{node.attr}" if inner else ""
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "__dict__":
            inner, key = self._origin(node.value.value), _text(node.slice)
            return f"{inner}.{key}" if inner and key else ""
        if isinstance(node, ast.Call) and node.args:
            called = self._origin(node.func)
            if called in IMPORTERS:
                return _text(node.args[0])
            if called == "builtins.getattr" and len(node.args) > 1:
                inner, key = self._origin(node.args[0]), _text(node.args[1])
                return f"{inner}.{key}" if inner and key else ""
        return ""

    def _say(self, node: ast.AST, what: str) -> None:
        self.found.append((getattr(node, "lineno", 0), what))

    def _check(self, node: ast.AST, origin: str) -> None:
        parts = origin.split(".")
        starts = {".".join(parts[: n + 1]) for n in range(len(parts))}
        if starts & MODULES or starts & NAMES:
            self._say(node, origin.removeprefix("builtins."))
        if parts[0] == "os" and parts[-1].startswith(("exec", "spawn")):
            self._say(node, origin)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._check(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names if not node.level else ():
            self._check(node, f"{node.module}.{alias.name}")
            if alias.name == "*":
                self._say(node, f"from {node.module} import *")
            if f"{node.module}.{alias.name}" == "yaml.load":
                self._say(node, "yaml.load under a name of its own")

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._check(node, self._origin(node))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        origin = self._origin(node)
        self._check(node, origin)
        if node.attr in ATTRIBUTES and origin != "json.loads" and not origin.startswith("builtins."):
            self._say(node, f".{node.attr}")
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self._check(node, self._origin(node))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = self._origin(node.func)
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if called in IMPORTERS:
            start = _text(node.args[0]) if node.args else ""
            if not start:
                self._say(node, "a module whose name is computed")
            self._check(node, start)
        elif called == "builtins.getattr":
            self._check(node, self._origin(node))
        if called in GUESSING and "format" not in keywords:
            self._say(node, f"{called} without a format")
        if called == "yaml.load":
            loader = keywords.get("Loader") or (node.args[1] if len(node.args) > 1 else None)
            own = isinstance(loader, ast.Name) and loader.id in self.safe
            if loader is None or not (own or self._origin(loader) in SAFE_LOADERS):
                self._say(node, "yaml.load without a safe loader")
        for name in ("shell", "allow_pickle"):
            value = keywords.get(name)
            if value is not None and not (isinstance(value, ast.Constant) and value.value is False):
                self._say(node, f"{name}=")
        self.generic_visit(node)


def _text(node: ast.AST) -> str:
    """A text that is written out, or the part of one that is before anything is filled in."""
    if isinstance(node, ast.JoinedStr) and node.values:
        return _text(node.values[0])
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def forbidden(source: str) -> list[tuple[int, str]]:
    """(line, what) of everything in a source text that has no place here."""
    tree = ast.parse(source)
    rules = _Rules(tree)
    rules.visit(tree)
    return sorted(set(rules.found))


def forbidden_in(*roots: Path) -> Iterator[str]:
    """`file:line: what` of everything in the files below some folders."""
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            for line, what in forbidden(path.read_text(encoding="utf-8")):
                yield f"{path.relative_to(root.parent)}:{line}: {what}"
