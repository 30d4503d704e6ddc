"""Chain: one array axis x, one site a cell."""

from __future__ import annotations

from hpc_holstein.lattice._bravais import BravaisLattice

_INVERSION = ((-1,),)


def build(extent: tuple[int, ...], periodic: tuple[bool, ...] = (True,)) -> BravaisLattice:
    """Chain of ``extent = (sites,)``."""
    return BravaisLattice(
        name="chain",
        extent=tuple(extent),
        periodic=tuple(periodic),
        vectors=((1.0,),),
        basis=((0.0,),),
        generators=(_INVERSION,),
    )
