"""Honeycomb lattice: array axes (y, x) that enclose 60 degrees, sites A and B in a cell.

A and B of one cell are bonded, and B to A of the next cell along either axis.
"""

from __future__ import annotations

from hpc_holstein.lattice._bravais import BravaisLattice
from hpc_holstein.lattice._hexagonal import HEIGHT, HEXAGONAL


def build(extent: tuple[int, ...], periodic: tuple[bool, ...] = (True, True)) -> BravaisLattice:
    """Honeycomb lattice of ``extent = (rows, columns)`` cells of two sites."""
    return BravaisLattice(
        name="honeycomb",
        extent=tuple(extent),
        periodic=tuple(periodic),
        vectors=((HEIGHT, 1.5), (2 * HEIGHT, 0.0)),
        basis=((0.0, 0.0), (HEIGHT, 0.5)),
        generators=HEXAGONAL,
    )
