"""Random streams keyed by what they are for, never by worker, order or time.

`numpy_stream(seed, "reference", chain, chunk)` is the same stream in every process, so one or many workers,
killed or not, draw the same numbers.
"""

import zlib

import numpy as np
import torch

__all__ = ["numpy_stream", "stream_seed", "torch_stream"]


def stream_seed(seed: int, stage: str, *keys: int) -> int:
    """A 63-bit seed from the workflow's seed, the stage's name and integer keys (chain, chunk, step).

    >>> stream_seed(7, "training", 3) == stream_seed(7, "training", 3) != stream_seed(7, "training", 4)
    True
    """
    entropy = np.random.SeedSequence([seed, zlib.crc32(stage.encode()), *keys])
    return int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))


def numpy_stream(seed: int, stage: str, *keys: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(stream_seed(seed, stage, *keys)))


def torch_stream(seed: int, stage: str, *keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device=device).manual_seed(stream_seed(seed, stage, *keys))
