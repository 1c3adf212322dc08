"""Shape checks on before any of the package is imported; shared fixtures."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

PACKAGE = Path(__file__).parents[1] / "particlegen"


def checked_modules() -> list[str]:
    """Modules whose signatures carry shapes. Those with numba stay out: it cannot compile a wrapped function."""
    names = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "__init__.py" and "jaxtyping import" in text and "numba" not in text:
            names.append(".".join(("particlegen", *path.relative_to(PACKAGE).with_suffix("").parts)))
    return names


_hook = install_import_hook(checked_modules(), "beartype.beartype")

import hypothesis
import pytest
import torch

# The same examples on every machine, and no example fails because the machine is slow.
hypothesis.settings.register_profile("particlegen", deadline=None, derandomize=True)
hypothesis.settings.load_profile("particlegen")


@pytest.fixture(params=["cpu", "cuda"])
def device(request) -> torch.device:
    """Every device that tests run on; CUDA is skipped where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture(autouse=True, scope="session")
def _threads():
    """Small problems are fastest on few threads, and sums come out the same on every machine."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
