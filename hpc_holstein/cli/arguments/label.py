"""Options of ``hpc-holstein label``."""

from __future__ import annotations

import argparse

from hpc_holstein.cli.options import (
    add_config,
    add_keys,
    add_lattice,
    add_physics,
    add_walltime,
    name_or_path,
    path,
    positive,
    positive_number,
    providers,
    whole,
)

DESCRIPTION = """\
Forces for given snapshots, or labelled snapshots from scratch.

SIGTERM, SIGUSR1, Ctrl-C, --max-walltime and the end of a Slurm job end it with what is done kept beside the output and exit
code 75: the same command goes on, on any number of ranks.
"""
EXAMPLE = """examples: hpc-holstein label --input states.h5 --force exact --output labelled.h5
          mpirun -n 2 hpc-holstein label --random 20 --quenches 8 --per-quench 40 --force exact --output data.h5"""
MORE_MU = 3
"""Further chemical potentials of each snapshot, from which a network learns what a wrong electron number costs."""
MU_WIDTH = 1.0
"""Width of the further chemical potentials, unless another is given [t_nn]."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_config(parser, published=True)
    add_physics(parser)
    add_lattice(parser)
    parser.add_argument("--input", type=path, metavar="FILE", help="HDF5 file with a dataset q[snapshot, y, x]")
    parser.add_argument("--output", type=path, required=True, metavar="FILE", help="new file with force, density and mu added")
    add_walltime(parser, "with what is done")
    labels = f"who labels: {providers()} (default: exact)"
    parser.add_argument("--force", type=name_or_path, default="exact", metavar="KIND", help=labels)
    more = "densities at M further chemical potentials of each snapshot too, from the same diagonalization (exact forces; "
    more += f"default: {MORE_MU} with exact forces of a canonical ensemble, else 0)"
    parser.add_argument("--more-mu", type=whole, metavar="M", help=more)
    width = f"how far these may be from that of the forces, in t_nn (default: {MU_WIDTH:g})"
    parser.add_argument("--mu-width", type=positive_number, metavar="W", help=width)
    parser.add_argument("--random", type=positive, metavar="N", help="make N random snapshots")
    parser.add_argument("--quenches", type=positive, metavar="N", help="make snapshots along N thermal quenches")
    parser.add_argument("--per-quench", type=positive, metavar="N", help="snapshots of each quench (default: 40)")
    parser.add_argument("--quench-steps", type=positive, metavar="N", help="time steps of each quench (default: 2000)")
    parser.add_argument("--even", action="store_true", help="record quenches evenly in time (default: early times densely)")
    driving = "who drives the quenches (default: who labels; --set force.KEY=VALUE is of who labels)"
    parser.add_argument("--path-force", type=name_or_path, metavar="KIND", help=driving)
    parser.add_argument("--seed", type=int, metavar="N", help="seed of random snapshots and quenches")
    add_keys(parser)
