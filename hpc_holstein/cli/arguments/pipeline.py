"""Options of ``hpc-holstein pipeline``."""

from __future__ import annotations

import argparse

from hpc_holstein.cli.options import add_config, add_keys, add_physics

DESCRIPTION = """\
Label, train, run and analyze as Slurm jobs that wait for each other.

The section [pipeline] of the configuration says what to make.  A second call submits only what is missing.
"""
EXAMPLE = """examples: hpc-holstein pipeline study.toml
          hpc-holstein pipeline study.toml --status"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_config(parser)
    add_physics(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="say what is done, queued, running and failed; submit nothing")
    what.add_argument("--dry-run", action="store_true", help="write the scripts of what is missing; submit nothing")
    what.add_argument("--join-labels", action="store_true", help="make one file of all labels: the training job does this")
    add_keys(parser)
