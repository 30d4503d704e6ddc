"""Arguments of the commands: a command a file of this folder, which loads nothing that computes.

``hpc_holstein.cli.NAME`` executes the command ``NAME`` and is loaded when it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import hpc_holstein
from hpc_holstein.cli.arguments import (
    analyze,
    bench,
    doctor,
    dos,
    label,
    learn,
    pipeline,
    run,
    show,
    submit,
    train,
    validate,
)
from hpc_holstein.cli.completion import PrintCompletion
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
_MODULES = (run, label, train, learn, validate, analyze, dos, show, submit, pipeline, doctor, bench)
COMMANDS = {module.__name__.rpartition(".")[2]: module for module in _MODULES}
"""Name of a command -> its arguments."""


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands; if ``command`` is given, with the arguments of that one alone, which takes less time."""
    top = Parser(prog="hpc-holstein", description=_DESCRIPTION, formatter_class=_STYLE, epilog=_EPILOG)
    top.add_argument("--version", action="version", version=f"hpc-holstein {hpc_holstein.__version__}")
    top.add_argument("--print-completion", action=PrintCompletion, help="print the completion script of a shell")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, module in COMMANDS.items():
        one = commands.add_parser(
            name, help=module.HELP, description=module.DESCRIPTION, epilog=module.EXAMPLE, formatter_class=_STYLE
        )
        if command in (None, name):
            module.add_arguments(one)
    return top


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line."""
    command = next((word for word in words if not word.startswith("-")), "")
    return parser(command).parse_args(words)
