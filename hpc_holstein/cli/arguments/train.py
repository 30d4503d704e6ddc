"""Options of ``hpc-holstein train``."""

from __future__ import annotations

import argparse

from hpc_holstein.cli.options import add_keys, add_physics, add_regimes, add_walltime, name_or_path, path, positive

DESCRIPTION = """\
Labelled snapshots in, a model file out.

SIGTERM, SIGUSR1, Ctrl-C, --max-walltime and the end of a Slurm job end it with the state of the training kept and exit code 75:
the same command goes on, bit for bit where a training repeats bit for bit.
"""
EXAMPLE = """examples: mpirun -n 2 hpc-holstein train data.h5 --model enn --time-limit 600 --output model
          hpc-holstein train cold.h5 warm.h5 hot.h5 --time-limit 600 --output any_kT
          hpc-holstein train other_kT.h5 --set ensemble.kT=0.05 --from default --time-limit 60 --output other_kT"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    files = "labelled snapshots DATA.h5, from `hpc-holstein label` (files of several kT and g: one network for their range); "
    files += "and at most one CONFIG.toml, with sections [model] and [training]"
    parser.add_argument("files", nargs="+", type=path, metavar="FILE", help=files)
    add_physics(parser)
    parser.add_argument("--model", metavar="NAME", help="architecture: enn, enn_energy or efnn")
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes through the training set")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="end after this time")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the weights, the split and the order of the batches")
    start = "model whose weights the training starts from, of the same architecture and shape, at whatever g, kT and filling "
    start += "(default: random weights)"
    parser.add_argument("--from", type=name_or_path, dest="start", metavar="MODEL", help=start)
    add_regimes(parser)
    parser.add_argument("--output", type=path, required=True, metavar="FOLDER", help="folder of the results")
    add_walltime(parser, "with the state of the training")
    add_keys(parser, dynamics=False)
