"""The command line: ``hpc-holstein COMMAND``, a command a file of this folder."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import hpc_holstein
from hpc_holstein.cli import analyze, bench, doctor, dos, label, learn, pipeline, run, show, submit, train, validate
from hpc_holstein.cli.options import Parser
from hpc_holstein.cli.session import (
    Session,
    require_launcher,
    require_one_job,
    silence_other_ranks,
    speaks,
    start_transport,
)
from hpc_holstein.domain.transport import Transport, abort_all_on_error
from hpc_holstein.errors import HolsteinError

_MODULES = (run, label, train, learn, validate, analyze, dos, show, submit, pipeline, doctor, bench)
COMMANDS = {module.__name__.rpartition(".")[2]: module for module in _MODULES}
_ON_ALL_RANKS = ("run", "label", "train", "learn", "validate")
_USER_ERROR, _INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command on all ranks; a user error is one line on rank 0 and exit code 2 on all of them.

    0: done; 75: stopped before its end, the same command goes on; 1: a bug; 130: interrupted.
    """
    transport = start_transport()
    silence_other_ranks(transport)
    try:
        with abort_all_on_error(transport):
            return _execute(arguments, transport)
    except HolsteinError as error:
        if speaks(transport):
            print(f"error: {error}", file=sys.stderr, flush=True)
        return _USER_ERROR


def _execute(arguments: Sequence[str] | None, transport: Transport) -> int:
    logging.basicConfig(format="%(message)s", level=logging.INFO if transport.rank == 0 else logging.ERROR)
    try:
        require_one_job(transport)
        args = parser().parse_args(arguments)
        if args.command in _ON_ALL_RANKS:
            require_launcher(transport)
        code: int | None = COMMANDS[args.command].execute(args, Session.of(transport))
        return code or os.EX_OK
    except KeyboardInterrupt:
        transport.abort("interrupted", _INTERRUPTED)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = Parser(prog="hpc-holstein", description=hpc_holstein.__doc__)
    top.add_argument("--version", action="version", version=f"hpc-holstein {hpc_holstein.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, module in COMMANDS.items():
        style = argparse.RawDescriptionHelpFormatter
        command = commands.add_parser(
            name, help=module.HELP, description=module.__doc__, epilog=module.EXAMPLE, formatter_class=style
        )
        module.add_arguments(command)
    return top
