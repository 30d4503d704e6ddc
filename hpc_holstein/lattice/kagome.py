"""Kagome lattice: array axes (y, x) that enclose 60 degrees; sites at 0, half of x and half of y in a cell."""

from __future__ import annotations

from hpc_holstein.lattice._bravais import BravaisLattice
from hpc_holstein.lattice._hexagonal import HEIGHT, HEXAGONAL


def build(extent: tuple[int, ...], periodic: tuple[bool, ...] = (True, True)) -> BravaisLattice:
    """Kagome lattice of ``extent = (rows, columns)`` cells of three sites."""
    return BravaisLattice(
        name="kagome",
        extent=tuple(extent),
        periodic=tuple(periodic),
        vectors=((1.0, 2 * HEIGHT), (2.0, 0.0)),
        basis=((0.0, 0.0), (1.0, 0.0), (0.5, HEIGHT)),
        generators=HEXAGONAL,
    )
