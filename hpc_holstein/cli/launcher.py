"""Ranks that mpirun or srun started, as the environment tells before MPI is there."""

from __future__ import annotations

import os
import sys

_SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
_RANK_VARIABLES = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
_LAUNCHER_VARIABLES = ("PMI_RANK", "PMI_SIZE", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def launched() -> bool:
    """True if a launcher of MPI started this process."""
    return any(name in os.environ for name in _LAUNCHER_VARIABLES)


def first() -> bool:
    """True if this is the first of the processes that a launcher started, or the only one."""
    numbers = [os.environ[name] for name in _RANK_VARIABLES if name in os.environ]
    return not numbers or numbers[0] == "0"


def complain(error: Exception) -> None:
    """Say in one line what is wrong, whatever characters are in it."""
    text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in str(error))
    print(f"error: {text}", file=sys.stderr, flush=True)


def told_size() -> tuple[str, int]:
    """Variable that says how many tasks there are, and the number; 1 if there is none."""
    found = [(name, os.environ[name]) for name in _SIZE_VARIABLES if name in os.environ]
    name, tasks = found[0] if found else ("", "1")
    return name, int(tasks) if tasks.isdecimal() else 1
