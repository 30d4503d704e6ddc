"""Memory of this host, for all who must not ask for more."""

from __future__ import annotations

import math
import os
import resource
from contextlib import suppress
from pathlib import Path

from hpc_holstein.errors import ConfigError

WAITING_BYTES = 2**26
"""Packed output that waits in the memory of one process, of all its runs, at most."""

_GIB = 2**30


def physical_bytes() -> float:
    """Memory of the host; its caches can be freed."""
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def host_bytes() -> float:
    """Memory that the processes of this job may use on this host: what it has, or a limit of Slurm or a control group."""
    limits = [physical_bytes()]
    with suppress(KeyError, ValueError):
        limits.append(float(os.environ["SLURM_MEM_PER_NODE"]) * 2**20 or math.inf)  # 0: all of it
    with suppress(OSError, IndexError):
        group = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2].lstrip("/")
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):
                limits.append(float((folder / "memory.max").read_text()))
    return min(limits)


def free_bytes() -> float:
    """Memory that this process can still take: of :func:`host_bytes`, of what others leave, and of its own limit."""
    size, resident = process_bytes()
    limits = [host_bytes() - resident]
    with suppress(OSError, StopIteration):
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
        limits.append(float(line.split()[1]) * 1024)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        limits.append(limit - size)
    return max(0.0, min(limits))


def require_room(told: str, wanted: int, each: float, processes: int = 1, less: str = "a smaller lattice") -> None:
    """Raise ConfigError where ``wanted`` pieces of ``each`` bytes have no room in what this process can still take.

    ``told``: the pieces in words; ``processes`` on this host do the same; ``less``: what to give if there is no room for one.
    """
    there = free_bytes() / processes
    if wanted * each > there:
        fits = int(there / each)
        remedy = f"give at most {fits}" if fits else f"give {less}"
        raise ConfigError(
            f"{told} need {shown_bytes(wanted * each)} of memory on each rank and {shown_bytes(there)} are free: {remedy}"
        )


def shown_bytes(count: float) -> str:
    """``1.5 GiB``."""
    return f"{count / _GIB:.3g} GiB"


def process_bytes() -> tuple[float, float]:
    """Address space of this process, and what is resident of it: the program, its libraries and all that it holds."""
    size, resident, *_ = (float(pages) * os.sysconf("SC_PAGE_SIZE") for pages in Path("/proc/self/statm").read_text().split())
    return size, resident
