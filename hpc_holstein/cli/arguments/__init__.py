"""Arguments of the commands: a command a file of this folder, which loads nothing that computes.

``hpc_holstein.cli.NAME`` executes the command ``NAME`` and is loaded when it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import hpc_holstein
from hpc_holstein.cli.options import Parser

_DESCRIPTION = """\
Adiabatic dynamics of the Holstein model on large lattices: electrons in equilibrium at each step, classical coordinates of the
lattice, forces from a trained network, from exact diagonalization or from solvers whose cost is linear in the sites.
"""
_EPILOG = """\
hpc-holstein COMMAND --help says what a command takes; keys of the configuration are in the reference of the documentation.
example: hpc-holstein run --preset paper-2601.04104 --lattice 40x40 --steps 200 --output quench
"""
_STYLE = argparse.RawDescriptionHelpFormatter
COMMANDS = {
    "run": "run the dynamics; writes trajectory.h5 and summary.json",
    "label": "add forces to snapshots, or make labelled snapshots",
    "train": "train a network on labelled snapshots; writes model.safetensors, loss.csv, loss.png and metrics.json",
    "learn": "explore, collect, label and retrain in rounds; goes on where it was ended",
    "validate": "compare forces on given snapshots or on the states of a run; writes validation.json and figures",
    "analyze": "order, domain growth, correlations and energies of a run; writes figures and analysis.json",
    "dos": "densities of states, chemical and grand potential of a state; writes dos.csv, dos.json, dos.png",
    "show": "say what a model, a snapshot file or a run is",
    "submit": "write and submit a Slurm job that runs a configuration to its end",
    "pipeline": "label, train, run and analyze as Slurm jobs; submits what is missing",
    "doctor": "try out what this machine offers (MPI, threads, GPUs, HDF5, file locks, PETSc, force rates) and the time step",
    "bench": "measure the time of a step on this machine, rank by rank",
}
"""Name of a command -> what it does."""


class _PrintCompletion(argparse.Action):
    """``--print-completion SHELL``: print the script and leave."""

    def __init__(self, option_strings: list[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, dest, metavar="bash|zsh", default=argparse.SUPPRESS, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        """Print for the shell that is given."""
        from hpc_holstein.cli.completion import script

        print(script(given[1]))
        parser.exit()


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands; if ``command`` is given, with the arguments of that one alone, which takes less time."""
    top = Parser(prog="hpc-holstein", description=_DESCRIPTION, formatter_class=_STYLE, epilog=_EPILOG)
    top.add_argument("--version", action="version", version=f"hpc-holstein {hpc_holstein.__version__}")
    top.add_argument("--print-completion", action=_PrintCompletion, help="print the completion script of a shell")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, told in COMMANDS.items():
        one = commands.add_parser(name, help=told, formatter_class=_STYLE)
        if command in (None, name):
            module = import_module(f"hpc_holstein.cli.arguments.{name}")
            one.description, one.epilog = module.DESCRIPTION, module.EXAMPLE
            module.add_arguments(one)
    return top


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line."""
    command = next((word for word in words if not word.startswith("-")), "")
    return parser(command).parse_args(words)
