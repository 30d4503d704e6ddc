"""Square lattice: array axes (y, x), one site a cell, point group D4."""

from __future__ import annotations

from hpc_holstein.lattice._bravais import BravaisLattice

_ROTATION = ((0, 1), (-1, 0))
_MIRROR = ((1, 0), (0, -1))


def build(extent: tuple[int, ...], periodic: tuple[bool, ...] = (True, True)) -> BravaisLattice:
    """Square lattice of ``extent = (rows, columns)`` cells."""
    return BravaisLattice(
        name="square",
        extent=tuple(extent),
        periodic=tuple(periodic),
        vectors=((0.0, 1.0), (1.0, 0.0)),
        basis=((0.0, 0.0),),
        generators=(_ROTATION, _MIRROR),
    )
