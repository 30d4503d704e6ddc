"""Options of ``hpc-holstein analyze``."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpc_holstein.cli.options import path, positive

DESCRIPTION = """\
Figures and numbers of a run.

With --animate a film of its order, with --xdmf a file for ParaView instead.
"""
EXAMPLE = "example: hpc-holstein analyze quench"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("run", type=path, metavar="FOLDER", help="folder of a run, or its trajectory.h5")
    parser.add_argument("--frames", type=positive, default=6, metavar="N", help="states that are shown (default: 6)")
    parser.add_argument("--output", type=path, metavar="FOLDER", help="folder of the figures (default: FOLDER/analysis)")
    film = "film of the local CDW order, of at most 240 states (default: order.gif in the folder of the figures)"
    parser.add_argument("--animate", type=path, nargs="?", const=Path(), metavar="FILE.gif|FILE.mp4", help=film)
    parser.add_argument("--xdmf", action="store_true", help="write trajectory.xdmf beside the trajectory, for ParaView")
