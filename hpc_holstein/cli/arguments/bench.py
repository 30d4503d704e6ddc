"""Options of ``hpc-holstein bench``."""

from __future__ import annotations

import argparse

from hpc_holstein.cli.options import (
    Parser,
    add_config,
    add_lattice,
    add_physics,
    cells,
    name_or_path,
    path,
    positive,
    providers,
)

DESCRIPTION = """\
How fast this machine runs the package, and how many ranks are worth asking for.

strong and weak measure one point of a sweep on the ranks that mpirun or srun started and write one JSON record; report makes
a table and a figure of a folder of records.
"""
EXAMPLE = """examples: mpirun -n 2 hpc-holstein bench strong --lattice 512x512 --output scaling
          mpirun -n 2 hpc-holstein bench weak --lattice-per-rank 256x256 --output scaling
          hpc-holstein bench report scaling"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    what = parser.add_subparsers(dest="what", required=True, metavar="strong|weak|report", parser_class=Parser)
    told = {
        "strong": "one point at a fixed lattice: FOLDER/strong-...-RANKS.json",
        "weak": "one point at a fixed tile of each rank: FOLDER/weak-...-RANKS.json",
    }
    for name, help_text in told.items():
        _add_measurement(what.add_parser(name, help=help_text, description=help_text), name)
    told_report = "table and figure of a folder of records"
    report = what.add_parser("report", help=told_report, description=told_report)
    report.add_argument("records", type=path, metavar="FOLDER", help="folder of records")
    report.add_argument("--output", type=path, metavar="FOLDER2", help="folder of the report (default: FOLDER/report)")


def _add_measurement(command: argparse.ArgumentParser, name: str) -> None:
    add_config(command, published=True)
    add_physics(command)
    if name == "strong":
        add_lattice(command)
    else:
        tile = "cells of the tile of each rank (default: 256x256)"
        command.add_argument("--lattice-per-rank", type=cells, default=[256, 256], metavar="ROWSxCOLUMNS", help=tile)
    command.add_argument("--force", type=name_or_path, metavar="KIND", help=f"force provider: {providers()}")
    command.add_argument("--dtype", metavar="NAME", help="mixed (default), float64 or float32")
    command.add_argument("--grid", type=cells, metavar="PxQ", help="ranks along rows and columns")
    command.add_argument("--repeats", type=positive, default=5, metavar="N", help="measurements, 3 or more (default: 5)")
    command.add_argument("--steps", dest="time_steps", type=positive, default=16, metavar="N", help="of a repeat (default: 16)")
    command.add_argument("--warm-up", type=positive, default=8, metavar="N", help="steps before, not counted (default: 8)")
    command.add_argument("--output", type=path, required=True, metavar="FOLDER", help="folder of the records")
    there = "a point that is in the folder already is done, instead of an error"
    command.add_argument("--skip-existing", action="store_true", help=there)
