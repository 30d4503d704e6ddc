"""Triangular lattice: array axes (y, x) that enclose 60 degrees, one site a cell; bonds along x, y and x - y."""

from __future__ import annotations

from hpc_holstein.lattice._bravais import BravaisLattice
from hpc_holstein.lattice._hexagonal import HEIGHT, HEXAGONAL


def build(extent: tuple[int, ...], periodic: tuple[bool, ...] = (True, True)) -> BravaisLattice:
    """Triangular lattice of ``extent = (rows, columns)`` cells; order: three sublattices (sqrt3 x sqrt3)."""
    return BravaisLattice(
        name="triangular",
        extent=tuple(extent),
        periodic=tuple(periodic),
        vectors=((0.5, HEIGHT), (1.0, 0.0)),
        basis=((0.0, 0.0),),
        generators=HEXAGONAL,
    )
