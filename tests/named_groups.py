"""Point groups by their Schoenflies names, in the basis of the primitive vectors of the usual lattices."""

from __future__ import annotations

from hpc_holstein.symmetry.point_group import PointGroup

_QUARTER = ((0, 1), (-1, 0))
_HALF = ((-1, 0), (0, -1))
_MIRROR = ((1, 0), (0, -1))
_SIXTH = ((0, -1), (1, 1))  # triangular lattice with 60 degrees between the primitive vectors: a_1 -> a_2 -> a_2 - a_1
_THIRD = ((-1, -1), (1, 0))
_HEXAGONAL_MIRROR = ((1, 1), (0, -1))  # keeps a_1
_CUBIC_QUARTER = ((0, -1, 0), (1, 0, 0), (0, 0, 1))
_CUBIC_HALF = ((-1, 0, 0), (0, -1, 0), (0, 0, 1))
_CUBIC_THIRD = ((0, 0, 1), (1, 0, 0), (0, 1, 0))
_DIAGONAL_MIRROR = ((0, 1, 0), (1, 0, 0), (0, 0, 1))
_INVERSION = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))

_GENERATORS: dict[str, tuple[tuple[tuple[int, ...], ...], ...]] = {
    "C1": (((1, 0), (0, 1)),),
    "C2": (_HALF,),
    "C3": (_THIRD,),
    "C4": (_QUARTER,),
    "C6": (_SIXTH,),
    "D1": (_MIRROR,),
    "D2": (_HALF, _MIRROR),
    "D3": (_THIRD, _HEXAGONAL_MIRROR),
    "D4": (_QUARTER, _MIRROR),
    "D6": (_SIXTH, _HEXAGONAL_MIRROR),
    "T": (_CUBIC_HALF, _CUBIC_THIRD),
    "Th": (_CUBIC_HALF, _CUBIC_THIRD, _INVERSION),
    "Td": (_CUBIC_HALF, _CUBIC_THIRD, _DIAGONAL_MIRROR),
    "O": (_CUBIC_QUARTER, _CUBIC_THIRD),
    "Oh": (_CUBIC_QUARTER, _CUBIC_THIRD, _INVERSION),
}


def named_group(name: str) -> PointGroup:
    """The point group ``name``: Cn, Dn of the plane (Dn holds n mirrors, also written Cnv) or T, Th, Td, O, Oh of space.

    Matrices act on offsets in units of the primitive vectors: orthogonal ones for n = 1, 2, 4 and the cubic groups,
    two at 60 degrees for n = 3, 6.
    """
    return PointGroup.from_generators(_GENERATORS[name])
