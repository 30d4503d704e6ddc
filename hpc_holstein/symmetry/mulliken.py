"""Mulliken's names of the irreps of the crystallographic point groups in one, two and three dimensions.

Every point group is compared with a group of rotations: planar groups are read as Cn and Cnv about the third axis, an
element of determinant -1 counts as its rotation ``-M``.  Where inversion (g, u) or the horizontal mirror (' and '')
commutes with all, it is split off first.  R. S. Mulliken, J. Chem. Phys. 23, 1997 (1955).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.symmetry.point_group import PointGroup

_ORDER_OF_TRACE = {3: 1, -1: 2, 0: 3, 1: 4, 2: 6}
_LETTERS = {1: "A", 2: "E", 3: "T"}


def mulliken_names(group: PointGroup, characters: NDArray[np.float64]) -> list[str] | None:
    """A name for each row of ``characters[irrep, g]``, or None where Mulliken's rules do not tell the irreps apart.

    B1 is even under the mirrors (or perpendicular rotations) that keep a primitive vector: on the square lattice
    B1 ~ x^2 - y^2, B2 ~ xy.  On D2 in space, B1, B2, B3 are even under the rotations about the third, second, first axis.
    """
    if group.array.shape[1] > 3:
        return None
    matrices = np.tile(np.eye(3, dtype=np.int64), (group.order, 1, 1))
    matrices[:, : group.array.shape[1], : group.array.shape[1]] = group.array
    parity = np.round(np.linalg.det(matrices)).astype(np.int64)
    turns = np.array([_ORDER_OF_TRACE[int(t)] for t in parity * np.trace(matrices, axis1=1, axis2=2)])
    central, signs = _reversing_element(group, matrices, parity, turns)
    members = np.arange(group.order) if central is None else np.flatnonzero(parity == 1)
    names: list[str] | None
    if np.count_nonzero(turns[members] == 3) >= 8:
        names = _cubic(characters, members, turns)
    else:
        names = _axial(characters, members, turns, matrices, parity)
    if names is not None and central is not None:
        names = [name + signs[int(chi[central] < 0)] for name, chi in zip(names, characters, strict=True)]
    return names if names is not None and len(set(names)) == len(names) else None


def _reversing_element(
    group: PointGroup, matrices: NDArray[np.int64], parity: NDArray[np.int64], turns: NDArray[np.int64]
) -> tuple[int | None, tuple[str, str]]:
    """Inversion, or the horizontal mirror of Cs, C3h, D3h, with the suffixes of even and odd irreps."""
    inversion = np.flatnonzero((matrices == -np.eye(3, dtype=np.int64)).all(axis=(1, 2)))
    if len(inversion):
        return int(inversion[0]), ("g", "u")
    if not np.any((parity == 1) & (turns % 2 == 0)):
        commuting = (group.product_table == group.product_table.T).all(axis=1)
        mirrors = np.flatnonzero(commuting & (parity == -1) & (turns == 2))
        if len(mirrors):
            return int(mirrors[0]), ("'", "''")
    return None, ("", "")


def _cubic(characters: NDArray[np.float64], members: NDArray[np.int64], turns: NDArray[np.int64]) -> list[str]:
    """T: A, E, T.  O and Td: A1, A2, E, T1, T2 by the sign under the fourfold (rotation-inversion) axis."""
    fourfold = members[turns[members] == 4]
    names = []
    for chi in characters:
        dimension = round(chi[0])
        subscript = "" if dimension == 2 or not len(fourfold) else "1" if chi[fourfold[0]] > 0 else "2"
        names.append(_LETTERS[dimension] + subscript)
    return names


def _axial(
    characters: NDArray[np.float64],
    members: NDArray[np.int64],
    turns: NDArray[np.int64],
    matrices: NDArray[np.int64],
    parity: NDArray[np.int64],
) -> list[str] | None:
    """Cn: A, B, E_k.  Dn and Cnv: A1, A2, B1, B2, E_k, with ``chi(C_n) = 2 cos(2 pi k / n)`` on E_k.  D2: A, B1, B2, B3."""
    n = int(turns[members].max())
    if n == 2 and len(members) == 4 and (parity[members] == 1).all():
        return _d2(characters, members, matrices)
    principal = min(members[turns[members] == n], key=lambda g: (parity[g] == -1, g))
    cyclic = len(members) == n
    if not cyclic and len(members) != 2 * n:
        return None
    vertical = 0 if cyclic else _vertical(members, matrices, parity, int(principal))
    twists = [round(n * float(np.arccos(np.clip(chi[principal] / 2, -1, 1))) / (2 * np.pi)) for chi in characters]
    several = len({k for k, chi in zip(twists, characters, strict=True) if round(chi[0]) == 2}) > 1
    names = []
    for k, chi in zip(twists, characters, strict=True):
        if round(chi[0]) == 2:
            names.append(f"E{k}" if several else "E")
        else:
            letter = "A" if chi[principal] > 0 else "B"
            names.append(letter if cyclic else letter + ("1" if chi[vertical] > 0 else "2"))
    return names


def _vertical(members: NDArray[np.int64], matrices: NDArray[np.int64], parity: NDArray[np.int64], principal: int) -> int:
    """The mirror through, or twofold axis across, the principal axis which tells the subscripts 1 and 2."""
    rotation = parity[principal] * matrices[principal]
    powers = [np.linalg.matrix_power(rotation, k) for k in range(6)]
    others = [g for g in members if not any((parity[g] * matrices[g] == p).all() for p in powers)]
    unit = np.eye(3, dtype=np.int64)
    across = [axis for axis in range(3) if not (rotation @ unit[axis] == unit[axis]).all()]

    def preference(g: int) -> tuple[bool, int, int]:
        kept = [axis for axis in across if (matrices[g] @ unit[axis] == unit[axis]).all()]
        return (bool(parity[g] == -1), kept[0] if kept else len(unit), g)

    return int(min(others, key=preference))


def _d2(characters: NDArray[np.float64], members: NDArray[np.int64], matrices: NDArray[np.int64]) -> list[str]:
    unit = np.eye(3, dtype=np.int64)

    def axis(g: int) -> tuple[int, int]:
        kept = [k for k in range(3) if (matrices[g] @ unit[k] == unit[k]).all()]
        return (-kept[0] if kept else 1, g)

    rotations = sorted((g for g in members if g != 0), key=axis)
    names = []
    for chi in characters:
        even = [k for k, g in enumerate(rotations) if chi[g] > 0]
        names.append("A" if len(even) == 3 else f"B{even[0] + 1}")
    return names
