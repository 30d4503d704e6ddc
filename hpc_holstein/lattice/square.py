"""Square lattice: array axes (y, x), one site per cell, point group D4."""

from __future__ import annotations

import math

from hpc_holstein.interfaces import Bond
from hpc_holstein.lattice._bravais import BravaisLattice

_SHELLS = (((0, 1), (1, 0)), ((1, 1), (1, -1)), ((0, 2), (2, 0)))
_ROTATION = ((0, 1), (-1, 0))
_MIRROR = ((1, 0), (0, -1))


def build(extent: tuple[int, ...], periodic: tuple[bool, ...] = (True, True)) -> BravaisLattice:
    """Square lattice of ``extent = (rows, columns)`` cells; ``r = y a_y + x a_x`` with unit vectors.

    Bonds are listed by cell offset ``(dy, dx)``; an axis of one or two cells that is periodic counts the bond through
    the boundary too, as Fourier sums do.
    """
    return BravaisLattice(
        name="square",
        extent=tuple(extent),
        periodic=tuple(periodic),
        vectors=((1.0, 0.0), (0.0, 1.0)),
        basis=((0.0, 0.0),),
        ordering_vector=(math.pi, math.pi),
        shells=tuple(tuple(Bond(0, 0, offset) for offset in shell) for shell in _SHELLS),
        generators=(_ROTATION, _MIRROR),
    )
