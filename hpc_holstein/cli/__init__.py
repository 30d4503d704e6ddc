"""The command line: ``hpc-holstein run | label | train | validate | analyze | show``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import hpc_holstein
from hpc_holstein.cli import analyze, label, run, show, train, validate
from hpc_holstein.cli.options import Parser
from hpc_holstein.cli.session import Session, require_one_job, silence_other_ranks, start_transport
from hpc_holstein.domain.transport import Transport, abort_all_on_error
from hpc_holstein.errors import HolsteinError

COMMANDS = {"run": run, "label": label, "train": train, "validate": validate, "analyze": analyze, "show": show}
_USER_ERROR, _INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command on all ranks; a user error is one line on rank 0 and exit code 2 on all of them."""
    transport = start_transport()
    silence_other_ranks(transport)
    try:
        with abort_all_on_error(transport):
            _execute(arguments, transport)
    except HolsteinError as error:
        if transport.rank == 0:
            print(f"error: {error}", file=sys.stderr, flush=True)
        return _USER_ERROR
    return 0


def _execute(arguments: Sequence[str] | None, transport: Transport) -> None:
    logging.basicConfig(format="%(message)s", level=logging.INFO if transport.rank == 0 else logging.ERROR)
    try:
        require_one_job(transport)
        args = parser().parse_args(arguments)
        COMMANDS[args.command].execute(args, Session.of(transport))
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
