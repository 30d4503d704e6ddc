"""Options of ``hpc-holstein validate``."""

from __future__ import annotations

import argparse

from hpc_holstein.cli.options import (
    add_config,
    add_keys,
    add_physics,
    add_regimes,
    name_or_path,
    path,
    positive,
    providers,
    whole,
)

DESCRIPTION = "One force provider against another, or against stored labels."
EXAMPLE = """examples: hpc-holstein validate --run quench --reference exact --states 10 --budget
          hpc-holstein validate --run large --states 1 --reference petsc --sites 64
          hpc-holstein validate --input test.h5 --force local --reach 2 --reference labels --output floor
          hpc-holstein validate --input test.h5 --force model.safetensors --reference labels --output test"""
RUN_STATES = 20
"""States of a run that are compared, unless a number is given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_config(parser, published=True)
    add_physics(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=path, metavar="FILE", help="snapshot file")
    source.add_argument("--run", type=path, metavar="FOLDER", help="folder of a run, whose configuration is used")
    states = f"at most N states, evenly, 1: the last one (default: all of a file, {RUN_STATES} of a run)"
    parser.add_argument("--states", type=positive, metavar="N", help=states)
    judged = f"who is judged: {providers()} (default: that of the run, or neural); --set force.KEY=VALUE sets its options"
    parser.add_argument("--force", type=name_or_path, metavar="KIND", help=judged)
    parser.add_argument(
        "--reference",
        type=name_or_path,
        default="exact",
        metavar="KIND",
        help="who judges: the same, or labels (default: exact)",
    )
    options = "option of the reference, such as tolerance=1e-8 (repeatable)"
    parser.add_argument("--reference-set", action="append", default=[], metavar="KEY=VALUE", help=options)
    sites = "compare at N sites, the only ones that a reference of kind petsc, kpm or local computes"
    parser.add_argument("--sites", type=positive, metavar="N", help=sites)
    parser.add_argument("--sites-seed", type=whole, metavar="S", help="seed of the choice of these sites (default: 0)")
    reach = "reach of local, on either side: with --force local, the floor of every force field that sees R cells"
    parser.add_argument("--reach", type=whole, metavar="R", help=reach)
    budget = "measure what parts the error has: probing, truncation, chemical potential, reach, network"
    parser.add_argument("--budget", action="store_true", help=budget)
    add_regimes(parser)
    parser.add_argument("--output", type=path, metavar="FOLDER", help="folder of the results (default: FOLDER/validation)")
    add_keys(parser, dynamics=False)
