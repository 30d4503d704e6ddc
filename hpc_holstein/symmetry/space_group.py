"""Symmetry of a lattice with several sites in a cell: a point group about an origin, which permutes the sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.errors import ConfigError
from hpc_holstein.symmetry.point_group import PointGroup

_SIXTHS = 6  # origins that are tried, in parts of a primitive vector: sites, and the centres of polygons of the usual lattices
_SAME = 1e-9


@dataclass(frozen=True, eq=False)
class SpaceGroup:
    """Operations ``x -> R_g (x - origin) + origin`` that map a lattice onto itself; with its translations, the space group.

    point_group  integer matrices ``M_g`` that act on cells
    rotations    orthogonal matrices ``R_g [g, dim, dim]``, Cartesian ``(x, y, z)``: how the components of a vector turn
    site         ``[g, basis]``: site ``b`` of cell ``r`` goes to site ``site[g, b]`` of cell ``M_g r + cell[g, b]``
    cell         ``[g, basis, dim]``
    """

    point_group: PointGroup
    rotations: NDArray[np.float64]
    site: NDArray[np.int64]
    cell: NDArray[np.int64]

    @classmethod
    def of(cls, vectors: Sequence[Sequence[float]], basis: Sequence[Sequence[float]], point_group: PointGroup) -> SpaceGroup:
        """The group of a lattice with primitive ``vectors`` and ``basis`` sites, about the first origin that serves.

        Raises ConfigError for matrices that change distances or move the sites elsewhere about every origin.
        """
        axes = np.asarray(vectors, dtype=np.float64).T  # columns
        rotations = axes @ point_group.array @ np.linalg.inv(axes)
        if not np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(len(axes)), atol=_SAME):
            raise ConfigError("the matrices of the point group change distances of the lattice: give those of its symmetries")
        places = np.linalg.solve(axes, np.asarray(basis).T).T.astype(np.float64)  # in primitive vectors
        for sixths in product(range(_SIXTHS), repeat=len(axes)):
            found = _images(point_group.array, places, np.asarray([sixth / _SIXTHS for sixth in sixths]))
            if found is not None:
                return cls(point_group, rotations, *found)
        raise ConfigError("the matrices of the point group do not map the sites of a cell onto sites: give those that do")


def _images(
    matrices: NDArray[np.int64], places: NDArray[np.float64], origin: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """``site`` and ``cell`` of the group about ``origin``; None if some site goes where there is none."""
    moved = np.einsum("gij,bj->gbi", matrices, places - origin) + origin
    steps = moved[:, :, None, :] - places  # [g, b, target, dim]: whole numbers for the target that it is
    whole = np.abs(steps - np.rint(steps)).max(axis=-1) < _SAME
    if not whole.any(axis=-1).all():
        return None
    site = whole.argmax(axis=-1)
    return site, np.rint(np.take_along_axis(steps, site[..., None, None], axis=2)[:, :, 0]).astype(np.int64)
