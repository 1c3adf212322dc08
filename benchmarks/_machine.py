"""What a benchmark ran on, and how."""

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from particlegen.machine import keep_freed_memory


def one_thread() -> None:
    """Torch on one thread, as the recorded CPU seconds are counted, and freed memory kept."""
    torch.set_num_threads(1)
    keep_freed_memory()


def machine() -> dict:
    """Processor, cores, versions and date, for the head of a result file."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_average_at_end": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("particlegen", "numpy", "numba", "torch")},
        "torch_threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
