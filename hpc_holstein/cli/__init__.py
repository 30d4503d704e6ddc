"""The command line: ``hpc-holstein COMMAND``.

``arguments/`` says what the commands take; a command is executed by the file of its name in this folder, which is loaded once
the arguments are known to be good, since the libraries that compute take seconds to load.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from hpc_holstein.cli import launcher
from hpc_holstein.cli.arguments import parse, parser
from hpc_holstein.cli.options import check_early
from hpc_holstein.errors import HolsteinError


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


__all__ = ["main", "parser"]
