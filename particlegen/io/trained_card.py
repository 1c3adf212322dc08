"""Cards of trained weights: YAML that says what they are, and a safetensors file beside it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from particlegen.io import atomic
from particlegen.io.checkpoint import LARGEST_TENSORS, load_weights, save_weights
from particlegen.io.reading import Damaged, inside, read_bytes
from particlegen.settings import InputError

__all__ = ["load_trained_card", "save_trained_card"]


def save_trained_card(
    card: Path, content: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> Path:
    """Write `NAME.yaml` and `NAME.safetensors`.

    Args:
        card: the YAML file.
        content: of the card, without the keys `weights` and `sha256`, which go to its end.
        tensors: the weights.
        metadata: JSON values that go into the header of the weights.

    Returns:
        The file of weights.

    Raises:
        InputError: a file exists, there is no such folder, or the name does not end in .yaml.
        RunError: the disk is full.
    """
    target = card.with_suffix(".safetensors")
    if card.suffix != ".yaml":
        raise InputError(f"{card}: a card of trained weights ends in .yaml")
    if not card.parent.is_dir():
        raise InputError(f"{card}: there is no folder {card.parent}; make it first")
    for file in (card, target):
        if file.exists():
            raise InputError(f"{file} exists already; choose another name")
    save_weights(target, tensors, metadata)
    # The card says what the JSON file beside the weights would.
    target.with_suffix(".json").unlink()
    stated = {**content, "weights": target.name, "sha256": hashlib.sha256(target.read_bytes()).hexdigest()}
    atomic.write_text(card, yaml.safe_dump(stated, sort_keys=False, allow_unicode=True, width=120))
    return target


def load_trained_card(card: Path, weights: str, sha256: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights that a card names, and the metadata of their header.

    Args:
        card: the YAML file.
        weights: its key, a file in the card's folder.
        sha256: its key, the checksum of that file.

    Raises:
        InputError: the file is elsewhere, missing or damaged.
    """
    path = inside(card.parent, weights, f"{card}: key 'weights'")
    try:
        content = read_bytes(path, LARGEST_TENSORS)
    except Damaged as problem:
        raise InputError(f"{card}: key 'weights': {weights!r}: {problem}; restore it beside the card") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path}: damaged, its checksum is not the card's; restore the file")
    return load_weights(path)
