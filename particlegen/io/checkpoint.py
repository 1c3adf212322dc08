"""Checkpoints and weights: safetensors with JSON, each with a checksum. Nothing here can execute what it reads."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from particlegen.io import atomic
from particlegen.io.reading import LARGEST_JSON, Damaged, json_object, read_bytes
from particlegen.settings import InputError, RunError

__all__ = ["Checkpoint", "load_checkpoint", "load_weights", "save_checkpoint", "save_weights"]

Tensors = Mapping[str, torch.Tensor]

FORMAT = 1
LARGEST_TENSORS = 4 * 2**30
LARGEST_HEADER = 16 * 2**20
CHECKPOINT = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class Checkpoint:
    """State of a stage, as it was saved.

    Args:
        step: the step it was saved at.
        tensors: by name, on the CPU.
        metadata: the JSON object saved with them.
        skipped: one sentence for each newer checkpoint that is damaged and was passed over.
    """

    step: int
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, Any]
    skipped: tuple[str, ...] = ()


def _packed(tensors: Tensors, header: dict[str, str] | None = None) -> bytes:
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    own = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(own, header)


def _canonical(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata, sort_keys=True)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _header(content: bytes) -> dict[str, Any]:
    """The JSON header of safetensors."""
    size = int.from_bytes(content[:8], "little")
    if size > min(LARGEST_HEADER, len(content) - 8):
        raise Damaged(f"not safetensors: a header of {size} bytes is announced")
    return json_object(content[8 : 8 + size])


def _unpacked(content: bytes) -> dict[str, torch.Tensor]:
    _header(content)
    try:
        return safetensors.torch.load(content)
    except Exception as error:  # whatever safetensors and torch stumble over, in shapes, offsets and types
        raise Damaged(f"not safetensors ({error})") from None


def save_checkpoint(
    directory: str | Path, stage: str, step: int, tensors: Tensors, metadata: Mapping[str, Any], keep: int = 2
) -> Path:
    """Save the state of a stage as `STAGE-STEP.safetensors` and, last, `STAGE-STEP.json`, which makes it count.

    Args:
        directory: where checkpoints lie; made if missing.
        stage: name of the stage: letters, digits, `_`.
        step: orders the checkpoints of a stage.
        tensors: any shapes and types.
        metadata: JSON values.
        keep: how many of the newest to keep; older ones are removed once the new one is on the disk.

    Returns:
        Path of the JSON file.

    Raises:
        RunError: the disk is full; earlier checkpoints are untouched.
    """
    if not stage.replace("_", "").isalnum() or step < 0 or keep < 1:
        raise ValueError(f"need a plain stage name, step >= 0 and keep >= 1, found {stage!r}, {step}, {keep}")
    directory = Path(directory)
    with atomic.failures_named(directory):
        directory.mkdir(parents=True, exist_ok=True)
    content = _packed(tensors)
    card = {
        "format": FORMAT,
        "stage": stage,
        "step": step,
        "tensors_sha256": _sha256(content),
        "metadata_sha256": _sha256(_canonical(metadata).encode()),
        "metadata": dict(metadata),
    }
    path = directory / f"{stage}-{step:012d}.json"
    atomic.write_bytes(path.with_suffix(".safetensors"), content)
    atomic.write_text(path, json.dumps(card, indent=1) + "\n")
    for old in _found(directory, stage)[keep:]:
        old.unlink(missing_ok=True)
    # Without their JSON file tensors do not count: those of the old ones, and what a kill left between the two.
    for tensors_file in _found(directory, stage, ".safetensors"):
        if not tensors_file.with_suffix(".json").exists():
            tensors_file.unlink(missing_ok=True)
    return path


def _found(directory: Path, stage: str, suffix: str = ".json") -> list[Path]:
    """Checkpoints of a stage, newest first."""
    files = [path for path in directory.glob(f"{stage}-*{suffix}") if CHECKPOINT.fullmatch(path.stem[len(stage) + 1 :])]
    return sorted(files, key=lambda path: int(path.stem[len(stage) + 1 :]), reverse=True)


def _checked(path: Path) -> Checkpoint:
    card = json_object(read_bytes(path, LARGEST_JSON))
    content = read_bytes(path.with_suffix(".safetensors"), LARGEST_TENSORS)
    metadata, step = card.get("metadata"), card.get("step")
    if card.get("format") != FORMAT or not isinstance(metadata, dict) or not isinstance(step, int):
        raise Damaged("not a checkpoint of this version")
    if _sha256(content) != card.get("tensors_sha256"):
        raise Damaged("the tensors do not match their checksum")
    if _sha256(_canonical(metadata).encode()) != card.get("metadata_sha256") or f"-{step:012d}.json" not in path.name:
        raise Damaged("the metadata do not match their checksum")
    return Checkpoint(step, _unpacked(content), metadata)


def load_checkpoint(directory: str | Path, stage: str) -> Checkpoint | None:
    """The newest checkpoint of a stage that is intact; None when the stage has none.

    Raises:
        RunError: there are checkpoints, but every one is damaged.
    """
    skipped: list[str] = []
    for path in _found(Path(directory), stage):
        try:
            found = _checked(path)
        except Damaged as problem:
            skipped.append(f"{path}: damaged checkpoint: {problem}")
            continue
        return Checkpoint(found.step, found.tensors, found.metadata, tuple(skipped))
    if skipped:
        raise RunError(f"{'; '.join(skipped)}; none is left: remove them to start stage {stage!r} again")
    return None


def _digest(tensors: Tensors, metadata: str) -> str:
    """Checksum over names, types, shapes and values, and the metadata, whatever the order in the file."""
    total = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def save_weights(path: str | Path, tensors: Tensors, metadata: Mapping[str, Any]) -> None:
    """Write weights to share: safetensors, and a JSON card of the same name beside it.

    Metadata and checksum stand in the safetensors header too, so the file alone can be checked and used.

    Raises:
        RunError: the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights end in .safetensors")
    text = _canonical(metadata)
    # one key, because the order of several in the header is not the same in every run
    content = _packed(tensors, {"card": _canonical({"metadata": metadata, "sha256": _digest(tensors, text)})})
    card = {
        "format": FORMAT,
        "weights": path.name,
        "sha256": _sha256(content),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "metadata": dict(metadata),
    }
    # The weights come last: their presence says that both are there.
    atomic.write_text(path.with_suffix(".json"), json.dumps(card, indent=1) + "\n")
    atomic.write_bytes(path, content)


def load_weights(
    path: str | Path, largest_bytes: int = LARGEST_TENSORS
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and metadata as `save_weights` wrote them.

    Args:
        path: the safetensors file; the JSON card is checked against it where it lies beside it.
        largest_bytes: a larger file is refused before it is read.

    Returns:
        (tensors by name on the CPU, metadata).

    Raises:
        InputError: missing, too large, damaged, or not written by `save_weights`.
    """
    path = Path(path)
    try:
        content = read_bytes(path, largest_bytes)
        tensors = _unpacked(content)
        header = _header(content).get("__metadata__", {})
        card = header.get("card") if isinstance(header, dict) else None
        inner = json_object(card) if isinstance(card, str) else {}
        metadata = inner.get("metadata")
        if not isinstance(metadata, dict):
            raise Damaged("no metadata of this package in its header")
        if inner.get("sha256") != _digest(tensors, _canonical(metadata)):
            raise Damaged("the content does not match its checksum")
        beside = path.with_suffix(".json")
        if beside.is_file() and json_object(read_bytes(beside, LARGEST_JSON)).get("sha256") != _sha256(content):
            raise Damaged(f"its checksum is not the one in {beside.name}")
        return tensors, metadata
    except Damaged as problem:
        raise InputError(f"{path}: weights cannot be used: {problem}; restore the file or train again") from None
