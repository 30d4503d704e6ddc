"""Directed pairs of sites under the symmetry of a lattice: what a site sees, and the matrix elements that start from it.

A pair ``(b, b', d)`` goes from site ``b`` of a cell to site ``b'`` of the cell ``d`` away from it.  An element of the point
group moves both ends, see :class:`~hpc_holstein.symmetry.space_group.SpaceGroup`, so that the pair becomes

    (site[g, b], site[g, b'], M_g d + cell[g, b'] - cell[g, b]).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.interfaces import Lattice
from hpc_holstein.symmetry.orbitals import ORBITALS, orbital_signs
from hpc_holstein.symmetry.space_group import SpaceGroup


@dataclass(frozen=True, eq=False)
class Pairs:
    """Directed pairs, a set that is closed under ``group``.

    array     ``[n, 2 + dimension]``: site, site at the other end, offset of the cell of that
    radius    cells along each axis that no offset goes beyond; the set may be smaller
    orbitals  states of a site, if the ends are states ``site * orbitals + orbital`` of a cell; ``group`` then moves these
    sign      ``[g, states]``: that an element of the group gives each of them
    """

    group: SpaceGroup
    array: NDArray[np.int64]
    radius: int
    orbitals: int = 1
    sign: NDArray[np.int64] | None = None

    @classmethod
    def within(cls, lattice: Lattice, radius: int) -> Pairs:
        """All pairs of no more than ``radius`` cells along each axis whose images are so too; of a site with itself also."""
        basis, along = range(len(lattice.basis)), range(-radius, radius + 1)
        every = np.array(list(product(basis, basis, *[along] * len(lattice.extent))), dtype=np.int64)
        inside = np.abs(_images(lattice.symmetry, every)[..., 2:]) <= radius
        return cls(lattice.symmetry, every[inside.all(axis=(0, 2))], radius)

    @classmethod
    def on_site(cls, lattice: Lattice) -> Pairs:
        """Each site of a cell with itself."""
        sites, here = range(len(lattice.basis)), (0,) * len(lattice.extent)
        return cls(lattice.symmetry, np.array([(site, site, *here) for site in sites], dtype=np.int64), 0)

    @classmethod
    def of_states(cls, lattice: Lattice, orbital_kind: str, array: NDArray[np.int64]) -> Pairs:
        """Pairs of states, a closed set, of the orbitals that ``orbital_kind`` names; of sites if these have one each."""
        symmetry, orbitals = lattice.symmetry, ORBITALS[orbital_kind]
        radius = int(np.abs(array[:, 2:]).max(initial=0))
        if orbitals == 1:
            return cls(symmetry, array, radius)
        moved = symmetry.site[:, :, None] * orbitals + np.arange(orbitals)
        group = replace(symmetry, site=moved.reshape(len(moved), -1), cell=np.repeat(symmetry.cell, orbitals, axis=1))
        sign = np.tile(orbital_signs(orbital_kind, symmetry.rotations), len(lattice.basis))
        return cls(group, array, radius, orbitals, sign)

    def __len__(self) -> int:
        return len(self.array)

    @property
    def here(self) -> NDArray[np.int64]:
        """Site that each pair starts from, ``[n]``."""
        return self.array[:, 0]

    @property
    def site(self) -> NDArray[np.int64]:
        """Site that each pair starts from, if its ends are states, ``[n]``."""
        return self.here // self.orbitals

    @property
    def there(self) -> NDArray[np.int64]:
        """Site that each pair ends at, ``[n]``."""
        return self.array[:, 1]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Offset of the cell that each pair ends in, ``[n, dimension]``."""
        return self.array[:, 2:]

    @cached_property
    def moved_back(self) -> NDArray[np.int64]:
        """``[g, n]``: number of the pair that the inverse of element ``g`` makes of each."""
        number = {pair.tobytes(): index for index, pair in enumerate(self.array)}
        images = np.ascontiguousarray(_images(self.group, self.array))
        moved = np.array([[number[pair.tobytes()] for pair in image] for image in images], dtype=np.int64)
        return moved[self.group.point_group.inverse]

    @cached_property
    def signs_back(self) -> NDArray[np.int64]:
        """``[g, n]``: sign that the inverse of element ``g`` gives each pair."""
        if self.sign is None:
            return np.ones((self.group.point_group.order, len(self)), dtype=np.int64)
        return (self.sign[:, self.here] * self.sign[:, self.there])[self.group.point_group.inverse]


def _images(group: SpaceGroup, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Images of ``pairs [n, 2 + dimension]`` under every element, ``[g, n, 2 + dimension]``."""
    here, there = pairs[:, 0], pairs[:, 1]
    offsets = np.einsum("gij,nj->gni", group.point_group.array, pairs[:, 2:]) + group.cell[:, there] - group.cell[:, here]
    return np.concatenate([group.site[:, here, None], group.site[:, there, None], offsets], axis=-1)
