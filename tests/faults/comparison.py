"""What has to be the same of two runs of one workflow, however often one of them was interrupted."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from particlegen.io.checkpoint import load_checkpoint

CLOCK = {"seconds"}
"""Entries of a checkpoint's metadata that say how long something took."""


def compare(run: Path, other: Path) -> None:
    """AssertionError where two finished runs of one workflow are not the same, which says where.

    Everything but what was spent: results, every array of data.h5 and every attribute, weights and the newest
    checkpoints byte by byte, labels row by row; and no file of one run that the other lacks.
    """
    assert _names(run) == _names(other), _names(run) ^ _names(other)
    assert (run / "workflow.yaml").read_bytes() == (other / "workflow.yaml").read_bytes()
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (run, other))
    for results in (ours, theirs):
        assert results.pop("spent")["calls"]
    assert json.dumps(ours) == json.dumps(theirs)
    assert _arrays(run / "data.h5") == _arrays(other / "data.h5")
    for name in ("network.safetensors", "network.json"):
        if (other / "checkpoints" / name).exists():
            assert (run / "checkpoints" / name).read_bytes() == (other / "checkpoints" / name).read_bytes(), name
    for stage in _checkpointed(other):
        assert _checkpoint(run, stage) == _checkpoint(other, stage), stage
    assert _labels(run) == _labels(other)


def _checkpointed(folder: Path) -> set[str]:
    return {path.stem.rsplit("-", 1)[0] for path in (folder / "checkpoints").glob("*-*.json")}


def _names(folder: Path) -> set[str]:
    """Files of a run, but for the logs of workers; of checkpoints, whose steps may be others, the stages."""
    paths = [path.relative_to(folder) for path in folder.rglob("*")]
    found = {str(path) for path in paths if path.parts[0] not in ("checkpoints", "workers")}
    assert not list((folder / "segments").rglob("*.h5")), "segments left beside data.h5"
    files = list((folder / "checkpoints").iterdir())
    assert len({path.stem for path in files if path.suffix == ".safetensors"}) == len(files) / 2, "half a checkpoint"
    assert all(files.count(path) == 1 and not path.name.startswith(".") for path in files), "a partial file"
    counts = Counter(path.stem.rsplit("-", 1)[0] for path in files if path.suffix == ".json")
    assert max(counts.values()) <= 2, "more than two checkpoints kept"
    return found | set(counts)


def _arrays(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of every dataset and attribute of an HDF5 file."""
    found: dict[str, tuple[str, tuple[int, ...], bytes]] = {}

    def visit(name: str, item: Any) -> None:
        values = {f"{name}@{key}": value for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            values[name] = item[...]
        for key, value in values.items():
            array = np.asarray(value)
            content = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
            found[key] = (str(array.dtype), array.shape, content)

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def _checkpoint(folder: Path, stage: str) -> tuple[int, str, dict[str, tuple[str, tuple[int, ...], bytes]]]:
    saved = load_checkpoint(folder / "checkpoints", stage)
    assert saved is not None, stage
    tensors = {
        name: (str(tensor.dtype), tuple(tensor.shape), tensor.contiguous().numpy().tobytes())
        for name, tensor in saved.tensors.items()
    }
    metadata = {key: value for key, value in saved.metadata.items() if key not in CLOCK}
    return saved.step, json.dumps(metadata), tensors


def _labels(folder: Path) -> list[tuple]:
    """Rows of the label store in the order of arrival, but for time and seconds and the digest over them."""
    if not (folder / "labels.db").exists():
        return []
    columns = "settings, geometry, system, positions, energy, forces, virial, converged, reason, iterations, provider"
    with closing(sqlite3.connect(folder / "labels.db")) as connection:
        return connection.execute(f"SELECT {columns} FROM labels ORDER BY rowid").fetchall()
