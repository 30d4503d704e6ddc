"""Eigenvalues of the sum over the nearest neighbours, from which the stiffness of every classical mode follows.

(A x)_i = sum_{j in nn(i)} x_j,    A(k)_st = sum_bonds exp(i k.offset) [s -> t] + Hermitian conjugate
"""

from __future__ import annotations

import math
from functools import lru_cache

from hpc_holstein.interfaces import Bond, Lattice

_LONGEST = 256  # cells of an axis whose own wave numbers are looked at; longer ones have those of the infinite lattice
_GRID = 24  # wave numbers of the infinite lattice along an axis: with those of period 2, 3, 4 and 6, where the extremes lie


def neighbour_sums(lattice: Lattice) -> tuple[float, float]:
    """Lowest and highest eigenvalue of ``A`` on ``lattice``: -4 and 4 on the square one with even periodic edges.

    Open edges are exact where each bond moves along one axis by one cell; elsewhere, and on axes of more than 256 cells, the
    values are those of the infinite lattice, beyond which no finite one has any.
    """
    return _extremes(tuple(lattice.extent), tuple(lattice.periodic), len(lattice.basis), lattice.bonds(1))


@lru_cache
def _extremes(extent: tuple[int, ...], periodic: tuple[bool, ...], basis: int, bonds: tuple[Bond, ...]) -> tuple[float, float]:
    import numpy as np  # here, so that options are checked without it

    product = basis == 1 and all(sum(map(abs, bond.offset)) == 1 for bond in bonds)  # of chains, one along each axis
    axes = [_wave_numbers(cells, closed, product) for cells, closed in zip(extent, periodic, strict=True)]
    k = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    matrix = np.zeros((*k.shape[:-1], basis, basis), dtype=np.complex128)
    for bond in bonds:
        phase = np.exp(1j * (k @ np.array(bond.offset, dtype=np.float64)))
        matrix[..., bond.source, bond.target] += phase
        matrix[..., bond.target, bond.source] += phase.conj()
    values = np.linalg.eigvalsh(matrix) if basis > 1 else matrix.real
    return float(values.min()), float(values.max())


def _wave_numbers(cells: int, periodic: bool, product: bool) -> list[float]:
    """Wave numbers of an axis, radians a cell: standing waves between open edges."""
    if cells > _LONGEST or not (periodic or product):
        return [2 * math.pi * j / _GRID for j in range(_GRID)]
    if periodic:
        return [2 * math.pi * j / cells for j in range(cells)]
    return [math.pi * j / (cells + 1) for j in range(1, cells + 1)]
