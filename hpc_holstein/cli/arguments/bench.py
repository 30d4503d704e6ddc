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

HELP = "measure scaling, kernels and writers of this machine, and report them with a performance model"
DESCRIPTION = """\
How fast this machine runs the package, and how many ranks are worth asking for.

strong and weak measure one point of a sweep on the ranks that mpirun or srun started and write one JSON record; kernels and
io measure kernels and writers against what the machine can do; report makes tables, figures and a performance model of a folder
of records.
"""
EXAMPLE = """examples: mpirun -n 2 hpc-holstein bench strong --lattice 512x512 --output scaling
          mpirun -n 2 hpc-holstein bench weak --lattice-per-rank 256x256 --output scaling
          mpirun -n 2 hpc-holstein bench kernels --output scaling
          hpc-holstein bench report scaling --predict 64 10000"""
_FACTOR = 1.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    what = parser.add_subparsers(dest="what", required=True, metavar="strong|weak|kernels|io|report", parser_class=Parser)
    told = {
        "strong": "one point at a fixed lattice: FOLDER/strong-...-RANKS.json",
        "weak": "one point at a fixed tile of each rank: FOLDER/weak-...-RANKS.json",
        "kernels": "kernels against measured ceilings, halos against MPI and PETSc: FOLDER/kernels-RANKS.json",
        "io": "checkpoint and trajectory writers against a plain write: FOLDER/io-...-RANKS.json",
        "report": "tables, figures and a performance model of a folder of records",
    }
    for name, help_text in told.items():
        command = what.add_parser(name, help=help_text, description=help_text)
        if name == "report":
            _add_report(command)
        else:
            _add_measurement(command, name)


def _add_measurement(command: argparse.ArgumentParser, name: str) -> None:
    add_config(command, published=True)
    add_physics(command)
    if name in ("strong", "io"):
        add_lattice(command)
    if name == "weak":
        tile = "cells of the tile of each rank (default: 256x256)"
        command.add_argument("--lattice-per-rank", type=cells, metavar="ROWSxCOLUMNS", help=tile)
    if name == "kernels":
        network = "the network: a model file *.safetensors (default: that of run)"
        command.add_argument("--force", type=name_or_path, metavar="MODEL", help=network)
    elif name != "io":
        command.add_argument("--force", type=name_or_path, metavar="KIND", help=f"force provider: {providers()}")
    command.add_argument("--dtype", metavar="NAME", help="mixed (default), float64 or float32")
    command.add_argument("--repeats", type=positive, default=5, metavar="N", help="measurements of each time (default: 5)")
    if name in ("strong", "weak"):
        command.add_argument("--of", choices=("step", "training"), default="step", help="time steps (default), or epochs")
        command.add_argument("--grid", type=cells, metavar="PxQ", help="ranks along rows and columns")
        of_steps = "time steps in a repeat (default: 16); of training, a repeat is an epoch"
        command.add_argument("--steps", dest="time_steps", type=positive, metavar="N", help=of_steps)
        command.add_argument("--warm-up", type=positive, metavar="N", help="steps (8) or epochs (1) before, not counted")
        command.add_argument("--output", type=path, required=True, metavar="FOLDER", help="folder of the records")
        there = "a point that is in the folder already is done, instead of an error"
        command.add_argument("--skip-existing", action="store_true", help=there)
        return
    command.add_argument("--output", type=path, metavar="FOLDER", help="folder of the record")
    against = "fail, with exit code 1, where a ratio is worse than in this record of the same benchmark"
    command.add_argument("--guard", type=path, metavar="RECORD", help=against)
    factor = f"by which a ratio may be worse (default: {_FACTOR})"
    command.add_argument("--factor", type=float, default=_FACTOR, metavar="X", help=factor)
    if name == "kernels":
        command.add_argument("--quick", action="store_true", help="small lattices: seconds instead of a minute")


def _add_report(command: argparse.ArgumentParser) -> None:
    command.add_argument("records", type=path, metavar="FOLDER", help="folder of records")
    command.add_argument("--output", type=path, metavar="FOLDER2", help="folder of the report (default: FOLDER/report)")
    asked = "numbers of ranks that the fitted model is asked about"
    command.add_argument("--predict", type=positive, nargs="+", default=[], metavar="RANKS", help=asked)
