"""The execution of a command on all ranks that a launcher started."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
from contextlib import nullcontext
from types import ModuleType

from hpc_holstein.cli.launcher import complain
from hpc_holstein.cli.session import Session, require_launcher, require_one_job, speaks, start_transport
from hpc_holstein.domain.transport import Transport, abort_all_on_error
from hpc_holstein.errors import HolsteinError, StoppedError
from hpc_holstein.stop_signals import EndedError, ending_at_once

_ON_ALL_RANKS = ("run", "label", "train", "learn", "validate")
_STOPPABLE = ("run", "label", "train", "learn")
_INTERRUPTED = 130
_ARRIVAL_SECONDS = 1.0  # that a rank which was ended waits for the others to have been as well


def command(name: str) -> ModuleType:
    """The module that executes the command ``name``."""
    return importlib.import_module(f"hpc_holstein.cli.{name}")


def execute(args: argparse.Namespace) -> int:
    """Execute the command of parsed arguments; returns the exit code.  Collective."""
    transport = start_transport()
    try:
        with abort_all_on_error(transport):
            return _execute(args, transport)
    except HolsteinError as error:
        if speaks(transport):
            complain(error)
        return error.exit_code


def _execute(args: argparse.Namespace, transport: Transport) -> int:
    logging.basicConfig(format="%(message)s", level=logging.INFO if transport.rank == 0 else logging.ERROR)
    try:
        require_one_job(transport)
        if args.command in _ON_ALL_RANKS:
            require_launcher(transport)
        with nullcontext() if args.command in _STOPPABLE else ending_at_once():
            code: int | None = command(args.command).execute(args, Session.of(transport))
        return code or os.EX_OK
    except StoppedError as stopped:
        if speaks(transport):
            print(f"stopped because {stopped}: the same command continues it", flush=True)
        return os.EX_TEMPFAIL
    except EndedError as ended:
        sentence = f"stopped because {ended}: nothing is kept, and the same command starts again"
        if not transport.all_arrive(_ARRIVAL_SECONDS):
            transport.abort(sentence, os.EX_TEMPFAIL)
        if speaks(transport):
            print(sentence, flush=True)
        return os.EX_TEMPFAIL
    except KeyboardInterrupt:
        transport.abort("interrupted", _INTERRUPTED)
