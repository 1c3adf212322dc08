"""Workflows that are small enough to be run again and again."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Case:
    """A workflow with what it needs.

    Args:
        workflow: its content.
        files: cards that it cites, by name.
        resources: content of a resources file.
    """

    workflow: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)

    def written(self, folder: Path) -> tuple[Path, Path]:
        """Workflow and resources as files, the cards beside them."""
        paths = folder / "workflow.yaml", folder / "resources.yaml"
        for path, content in zip(paths, (self.workflow, self.resources), strict=True):
            path.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        return paths

    def often(self) -> "Case":
        """The same, with a checkpoint wherever there may be one."""
        return replace(self, resources={**self.resources, "checkpoint_seconds": 0})

    def by_workers(self, workers: int) -> "Case":
        """The same, its tasks done by processes."""
        return replace(self, resources={**self.resources, "executor": {"kind": "process", "workers": workers}})


def _changed(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Sections with some of their keys replaced."""
    found = dict(content)
    for key, value in changes.items():
        found[key] = {**found[key], **value} if isinstance(value, Mapping) and key in found else value
    return found


ROOT = Path(__file__).parents[2]
TINY = yaml.safe_load((ROOT / "tests" / "workflows" / "tiny.yaml").read_text())
SHIPPED = yaml.safe_load((ROOT / "workflows" / "lj6_isomers.yaml").read_text())
FLOW = {"steps": 20, "batch": 32, "warm_up": 5, "ema": 0.9, "validation": 16, "validate_every": 10}
GOLD = """version: 1
kind: ase
calculator: emt
elements: {Ag: Au}   # gold's parameters
citations: ["Jacobsen, Stoltze, Nørskov, Surf. Sci. 366, 394 (1996)"]
"""

GLASS = Case(
    _changed(TINY, {"training": {"steps": 60}, "generation": {"chunk": 15}, "reference": {"block_frames": 100}})
)
"""The tiny glass with enough steps, chunks and blocks to be cut between them."""
PATH = Case(
    _changed(
        GLASS.workflow,
        {
            "network": {"denoiser": True},
            "interpolant": {"noise": "quadratic"},
            "generation": {"likelihood": "path"},
        },
    )
)
"""The same, sampled with noise, its weights those of paths."""
LJ6 = Case(
    _changed(
        SHIPPED,
        {
            "flow": {"layers": 2, "hidden": [8], "training": FLOW},
            "chains": {"count": 4, "local_steps": 2, "leaps": 3, "warm_up": 48},
            "adaptation": {"rounds": 2, "sweeps": 10, "kept": 64},
            "production": {"samples": 64, "draws": 64, "discard": 2, "quenches": 4, "block": 8},
            "vibrations": {"states": 4, "periods": 32},
        },
    )
)
"""The shipped workflow on LJ6, small."""
LEARNED = Case(
    {
        "version": 1,
        "kind": "isomers",
        "seed": 5,
        "system": {"card": "ag6_emt", "temperature": 100.0},
        "energy": {"budget": 180, "chunk": 2},
        "learned": {"first": 2, "rounds": 1, "per_round": 2, "potential": {"iterations": 3, "fitted_on": 20}},
        "chains": {"count": 4, "leaps": 2, "local_steps": 2, "candidates": 2, "warm_up": 24},
        "adaptation": {"rounds": 2, "sweeps": 8},
        "flow": {"layers": 2, "hidden": [8], "training": {**FLOW, "optimiser": "adam"}},
        "production": {"samples": 64, "draws": 64, "discard": 1, "quenches": 2, "block": 8},
        "correction": {"labels": 12, "chains": 1, "decisions": 2, "sweeps": 1},
        "check": {"engine": "gold.yaml", "labels": 8},
        "stop": {"r_hat": None, "acceptance": None, "sigmas": None},
    },
    files={"gold.yaml": GOLD},
)
"""Silver by effective-medium theory, learned, corrected by its labels and checked by those of another engine."""

CASES = {"glass": GLASS, "path": PATH, "lj6": LJ6, "learned": LEARNED}
