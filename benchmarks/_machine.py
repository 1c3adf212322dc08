"""What a benchmark ran on."""

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path


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
        "versions": {name: version(name) for name in ("particlegen", "numpy", "numba")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
