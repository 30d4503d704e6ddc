"""Options of ``hpc-holstein doctor``."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "try out what this machine offers: MPI, threads, GPUs, HDF5, file locks, PETSc, force rates"
DESCRIPTION = """\
What this machine offers to a run, each tried out for a moment, alone or under mpirun or srun.

The table says ok, absent (a run does without) or FAILED (it is there and does not work), and what to do about it.  Exit code 2
where something failed.
"""
EXAMPLE = "example: mpirun -n 4 hpc-holstein doctor --output /scratch/runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    folder = "folder whose file system is tried out (default: this one)"
    parser.add_argument("--output", type=Path, default=Path(), metavar="FOLDER", help=folder)
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
