"""Options of ``hpc-holstein run``."""

from __future__ import annotations

import argparse

from hpc_holstein.cli.options import (
    add_config,
    add_keys,
    add_lattice,
    add_physics,
    add_walltime,
    cells,
    name_or_path,
    path,
    positive,
    providers,
)

DESCRIPTION = """\
The dynamics of a configuration, alone or on the ranks that mpirun started.

It continues a run that is in its folder already.  SIGTERM, SIGUSR1, Ctrl-C, a file STOP in the folder, --max-walltime and the
end of a Slurm job stop it with a checkpoint and exit code 75: the same command goes on.  With --replicas they stop all of them,
and STOP in the folder of one replica that one.
"""
EXAMPLE = "example: mpirun -n 2 hpc-holstein run --preset paper-2601.04104 --lattice 200x200 --steps 1000 --output quench"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_config(parser)
    add_physics(parser)
    add_lattice(parser)
    parser.add_argument("--steps", type=positive, metavar="N", help="time steps")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the initial state and the noise")
    parser.add_argument("--force", type=name_or_path, metavar="KIND", help=f"force provider: {providers()}")
    parser.add_argument(
        "--dtype", metavar="NAME", help="mixed (networks in float32, the rest in float64: default), float64 or float32"
    )
    parser.add_argument("--grid", type=cells, metavar="PxQ", help="ranks along rows and columns (default: smallest halo)")
    several = "runs at once, of seeds N, N + 1, ..., each in a folder of its own and on as many of the ranks"
    parser.add_argument("--replicas", type=positive, metavar="R", help=several)
    bits = "the same bits on any number of ranks and threads, any rank grid and after restarts"
    parser.add_argument("--deterministic", action="store_true", default=None, help=bits)
    parser.add_argument("--output", type=path, metavar="FOLDER", help="folder of the results (default: run)")
    continued = "auto (default): continue the run in that folder; never; or a checkpoint or folder of a run to continue"
    parser.add_argument("--restart", type=name_or_path, default="auto", metavar="auto|never|PATH", help=continued)
    add_walltime(parser, "with a checkpoint")
    add_keys(parser)
