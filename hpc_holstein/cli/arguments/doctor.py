"""Options of ``hpc-holstein doctor``."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpc_holstein.cli.options import add_config, add_physics, path

DESCRIPTION = """\
What this machine offers to a run, each tried out for a moment, alone or under mpirun or srun.

The table says ok, absent (a run does without) or FAILED (it is there and does not work), and what to do about it.  Exit code 2
where something failed.  The time step is that of the configuration, if one is given, else that of the default preset.
"""
EXAMPLE = "example: mpirun -n 4 hpc-holstein doctor --output /scratch/runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_config(parser, published=True)
    add_physics(parser)
    folder = "folder whose file system is tried out (default: this one)"
    parser.add_argument("--output", type=path, default=Path(), metavar="FOLDER", help=folder)
