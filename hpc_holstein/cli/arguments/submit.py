"""Options of ``hpc-holstein submit``."""

from __future__ import annotations

import argparse

from hpc_holstein.cli.arguments.run import add_arguments as add_run
from hpc_holstein.cli.options import positive, whole

DESCRIPTION = """\
The same as run, as a Slurm job that goes on over time limits until all steps are done.

Partition, account, modules, environment and launcher come from the file of the site, $HPC_HOLSTEIN_SITE or
~/.config/hpc_holstein/site.toml.
"""
EXAMPLE = "example: hpc-holstein submit quench.toml --nodes 2 --ntasks-per-node 16 --time 04:00:00"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command: those of ``run`` and of the job."""
    add_run(parser)
    add_resources(parser)
    parser.add_argument("--dry-run", action="store_true", help="write the script and submit nothing")


def add_resources(parser: argparse.ArgumentParser) -> None:
    """Resources that a job asks for, by the names of sbatch; absent ones are None."""
    group = parser.add_argument_group("the job")
    group.add_argument("--nodes", type=positive, metavar="N", help="nodes (default: 1)")
    group.add_argument("--ntasks-per-node", type=positive, metavar="N", help="ranks on each node (default: 1)")
    group.add_argument("--cpus-per-task", type=positive, metavar="N", help="cores, and so threads, of each rank (default: 1)")
    group.add_argument("--gpus-per-task", type=whole, metavar="0|1", help="GPUs of each rank (default: 0)")
    group.add_argument("--time", metavar="HH:MM:SS", help="time limit of one session (default: 01:00:00)")
    group.add_argument("--partition", metavar="NAME", help="partition (default: that of the site)")
    group.add_argument("--account", metavar="NAME", help="account (default: that of the site)")
    group.add_argument("--sbatch", action="append", metavar="OPTION", help="further option of sbatch, as --sbatch=--mem=8G")
    group.add_argument("--max-requeues", type=whole, metavar="N", help="sessions after the first one (default: 20)")
