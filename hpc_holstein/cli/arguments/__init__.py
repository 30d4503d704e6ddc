"""What the commands take: a command a file of this folder, which loads nothing that computes.

``hpc_holstein.cli.NAME`` executes the command ``NAME`` and is loaded when it runs.
"""

from __future__ import annotations

import argparse

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
from hpc_holstein.cli.options import Parser

_MODULES = (run, label, train, learn, validate, analyze, dos, show, submit, pipeline, doctor, bench)
COMMANDS = {module.__name__.rpartition(".")[2]: module for module in _MODULES}
"""Name of a command -> its arguments."""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = Parser(prog="hpc-holstein", description=hpc_holstein.__doc__)
    top.add_argument("--version", action="version", version=f"hpc-holstein {hpc_holstein.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, module in COMMANDS.items():
        style = argparse.RawDescriptionHelpFormatter
        command = commands.add_parser(
            name, help=module.HELP, description=module.DESCRIPTION, epilog=module.EXAMPLE, formatter_class=style
        )
        module.add_arguments(command)
    return top
