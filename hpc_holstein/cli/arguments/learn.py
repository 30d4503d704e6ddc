"""Options of ``hpc-holstein learn``."""

from __future__ import annotations

import argparse

from hpc_holstein.cli.options import add_config, add_keys, add_physics, path, positive

DESCRIPTION = """\
A network finds the states that it does not know, and learns them.

A round explores (runs that collect the states at which the committee disagrees or the network extrapolates), labels what was
collected, and trains the network and its committee on all data so far, from the weights of the round before where these are of
the same architecture.  It ends when a round collects nothing, or after the last one.  The sections [learn] and [trust] of the
configuration say how.  What is there already is not made again: the same command goes on, however it was ended.
"""
EXAMPLE = "example: mpirun -n 2 hpc-holstein learn learn.toml --rounds 3 --output learn"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_config(parser)
    add_physics(parser)
    parser.add_argument("--rounds", type=positive, metavar="N", help="rounds at most (default: 3)")
    parser.add_argument("--output", type=path, metavar="FOLDER", help="folder of everything (default: learn)")
    add_keys(parser)
