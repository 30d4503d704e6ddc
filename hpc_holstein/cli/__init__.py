"""The command line: ``hpc-holstein COMMAND``.

``arguments`` says what the commands take; a command is executed by the file of its name in this folder, which is loaded once
the arguments are known to be good, since the libraries that compute take seconds to load.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any

import hpc_holstein
from hpc_holstein.cli import launcher
from hpc_holstein.cli.arguments import COMMANDS
from hpc_holstein.cli.options import Parser, check_early
from hpc_holstein.errors import HolsteinError

_DESCRIPTION = """\
Adiabatic dynamics of lattice models (Holstein, Peierls) at large scale: electrons in equilibrium at each step, classical
coordinates of the lattice, forces from a trained network, from exact diagonalization or from solvers of linear cost.
"""
_EPILOG = """\
hpc-holstein COMMAND --help says what a command takes; keys of the configuration are in the reference of the documentation.
example: hpc-holstein run --preset paper-2601.04104 --lattice 40x40 --steps 200 --output quench
"""
_STYLE = argparse.RawDescriptionHelpFormatter


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command on all ranks; a user error is one line on rank 0 and exit code 2 on all of them.

    0: done; 75: stopped before its end, the same command goes on; 1: a training that learned nothing, or a bug; 130:
    interrupted.
    """
    if not launcher.first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - help texts; open until the process ends
    try:
        args = parse(sys.argv[1:] if arguments is None else arguments)
        if launcher.told_size()[1] == 1:  # ranks agree on an error of a file that not all of them may see: later, through MPI
            check_early(args)
    except HolsteinError as error:
        if launcher.first():
            launcher.complain(error)
        return error.exit_code
    from hpc_holstein.cli.execution import execute

    return execute(args)


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
    for name, one in COMMANDS.items():
        made = commands.add_parser(name, help=one.told, formatter_class=_STYLE)
        if command in (None, name):
            made.description, made.epilog = inspect.getdoc(one.add), one.epilog
            one.add(made)
    return top


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line."""
    command = next((word for word in words if not word.startswith("-")), "")
    return parser(command).parse_args(words)
