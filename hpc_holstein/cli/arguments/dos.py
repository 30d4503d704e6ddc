"""Options of ``hpc-holstein dos``."""

from __future__ import annotations

import argparse

from hpc_holstein.cli.options import add_config, add_keys, add_physics, cells, path, positive
from hpc_holstein.output.spectrum_options import SpectrumOptions

DESCRIPTION = "Densities of states, electron number and grand potential of a stored state, by KPM."
EXAMPLE = """examples: hpc-holstein dos --run quench --at 10,12 --at 10,13
          mpirun -n 2 hpc-holstein dos --input states.h5 --snapshot 3 --kernel lorentz --resolution 0.05 --exact-omega"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    usual = SpectrumOptions()
    add_config(parser, published=True)
    add_physics(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=path, metavar="FOLDER", help="folder of a run, whose configuration is used")
    source.add_argument("--input", type=path, metavar="FILE", help="snapshot file")
    parser.add_argument("--snapshot", type=int, default=-1, metavar="N", help="which state, from 0; -1 (default): the last")
    parser.add_argument(
        "--at",
        type=_site,
        action="append",
        default=[],
        metavar="Y,X",
        help="local density of states at this site, too; its number in the cell follows if there are several",
    )
    parser.add_argument("--kernel", choices=["jackson", "lorentz"], default=usual.kernel, help=f"default: {usual.kernel}")
    width = f"width of a level [t_nn], sets the order (default: {usual.resolution})"
    parser.add_argument("--resolution", type=float, default=usual.resolution, metavar="E", help=width)
    decay = f"lambda of the Lorentz kernel (default: {usual.lorentz_lambda:g})"
    parser.add_argument("--lorentz-lambda", type=float, metavar="L", help=decay)
    vectors = f"random vectors of the total density of states (default: {usual.vectors})"
    parser.add_argument("--vectors", type=positive, default=usual.vectors, metavar="N", help=vectors)
    parser.add_argument("--vector-seed", type=int, default=usual.seed, metavar="N", help="seed of the vectors (default: 0)")
    exact = "grand potential without random errors, at the cost of one kpm force of TOLERANCE (default: 1e-6)"
    parser.add_argument("--exact-omega", type=float, nargs="?", const=1e-6, metavar="TOLERANCE", help=exact)
    parser.add_argument("--grid", type=cells, metavar="PxQ", help="ranks along rows and columns (default: smallest halo)")
    parser.add_argument("--output", type=path, metavar="FOLDER", help="folder of the results (default: FOLDER/dos, or dos)")
    add_keys(parser, dynamics=False)


def _site(text: str) -> tuple[int, ...]:
    """``10,12`` -> ``(10, 12)``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a site: give its row and column, such as 10,12") from None
