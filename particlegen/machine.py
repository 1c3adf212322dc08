"""What a run asks of the machine it is on, and what the machine has."""

import ctypes
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["free_disk", "keep_freed_memory", "total_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Ask the C library to reuse large freed blocks instead of returning them to the system; True where it agreed.

    Training allocates and frees the same tensors of several MB at every step. glibc maps each anew and the kernel
    clears its pages, which costs about a third of a step on a CPU; elsewhere this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


def total_memory() -> int:
    """Bytes that this process may fill: the machine's memory, or the limit of its control group or address space."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_group_limits()]
    ceiling = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min([*limits, ceiling] if ceiling != resource.RLIM_INFINITY else limits)


def _group_limits(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """Limits of memory of this process' control group (version 1 or 2) and of those that it is in."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        here = top / path.lstrip("/")
        for folder in (here, *here.parents):
            try:
                text = (folder / name).read_text().strip()
            except OSError:
                text = "max"  # inside a container, the path may be that of the host
            if text.isdigit():
                yield int(text)
            if folder == top:
                break


def free_disk(path: Path) -> int:
    """Bytes that are free where a file or folder of that path would be."""
    here = path.absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    return shutil.disk_usage(here).free
