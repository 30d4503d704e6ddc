"""Simple cubic lattice: array axes (z, y, x), one site a cell, point group Oh."""

from __future__ import annotations

from hpc_holstein.lattice._bravais import BravaisLattice

_ROTATION = ((1, 0, 0), (0, 0, 1), (0, -1, 0))
_CYCLE = ((0, 1, 0), (0, 0, 1), (1, 0, 0))
_INVERSION = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))


def build(extent: tuple[int, ...], periodic: tuple[bool, ...] = (True, True, True)) -> BravaisLattice:
    """Simple cubic lattice of ``extent = (layers, rows, columns)`` cells."""
    return BravaisLattice(
        name="cubic",
        extent=tuple(extent),
        periodic=tuple(periodic),
        vectors=((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
        basis=((0.0, 0.0, 0.0),),
        generators=(_ROTATION, _CYCLE, _INVERSION),
    )
