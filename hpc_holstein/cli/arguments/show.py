"""Options of ``hpc-holstein show``."""

from __future__ import annotations

import argparse

from hpc_holstein.cli.options import name_or_path

DESCRIPTION = "A model, a data file or a run in words."
EXAMPLE = "examples: hpc-holstein show default; hpc-holstein show data.h5; hpc-holstein show quench"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    what = parser.add_mutually_exclusive_group(required=True)
    shown = "model, snapshot file or trajectory.h5, folder that holds one, or default"
    what.add_argument("what", type=name_or_path, nargs="?", metavar="PATH", help=shown)
    schema = "print the JSON schema of configuration files, from which editors complete keys"
    what.add_argument("--schema", action="store_true", help=schema)
