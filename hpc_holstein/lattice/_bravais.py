"""Base of all lattices: a frozen description from which bonds and symmetry follow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import hypot, inf
from typing import TYPE_CHECKING

from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Bond

if TYPE_CHECKING:
    from hpc_holstein.symmetry.point_group import PointGroup
    from hpc_holstein.symmetry.space_group import SpaceGroup

_CELLS = 3  # how far bonds are looked for along each axis
_SAME_LENGTH = 1e-9

Vectors = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class BravaisLattice:
    """A finite lattice of ``prod(extent)`` cells with ``len(basis)`` sites each; see :class:`interfaces.Lattice`.

    ``vectors`` (one of each array axis) and ``basis`` are Cartesian, ``(x, y, z)``, in units of the distance of nearest
    neighbours.  ``generators`` are the integer matrices (in the basis of the primitive vectors) that generate the point group.
    """

    name: str
    extent: tuple[int, ...]
    periodic: tuple[bool, ...]
    vectors: Vectors
    basis: Vectors
    generators: tuple[tuple[tuple[int, ...], ...], ...]

    def __post_init__(self) -> None:
        dimension = len(self.vectors)
        if len(self.extent) != dimension or any(n < 1 for n in self.extent):
            shown = "x".join(map(str, self.extent))
            raise ConfigError(
                f"lattice extent {shown} does not fit the {self.name} lattice: give a positive number of cells for each of its "
                f"{dimension} axes"
            )
        if len(self.periodic) != dimension:
            raise ConfigError(
                f"periodic = {list(self.periodic)} does not fit the {self.name} lattice: give {dimension} booleans"
            )

    @cached_property
    def symmetry(self) -> SpaceGroup:
        """Operations that map the infinite lattice onto itself and leave one point where it is, translations apart."""
        from hpc_holstein.symmetry.point_group import PointGroup  # here: a configuration is checked without NumPy
        from hpc_holstein.symmetry.space_group import SpaceGroup

        return SpaceGroup.of(self.vectors, self.basis, PointGroup.from_generators(self.generators))

    @property
    def point_group(self) -> PointGroup:
        """Point group of the infinite lattice."""
        return self.symmetry.point_group

    @property
    def sites(self) -> int:
        """Number of sites of the whole lattice."""
        count = len(self.basis)
        for cells in self.extent:
            count *= cells
        return count

    def bonds(self, shell: int) -> tuple[Bond, ...]:
        """Bonds of neighbour shell ``shell`` (1 = nearest) that belong to one cell, each bond once.

        A periodic axis of one or two cells counts the bond through the boundary too, as Fourier sums do.
        """
        shells = bond_shells(self.vectors, self.basis)
        if not 1 <= shell <= len(shells):
            raise ConfigError(f"neighbour shell {shell} is not known for the {self.name} lattice: use 1 to {len(shells)}")
        return shells[shell - 1]


@lru_cache(maxsize=64)
def bond_shells(vectors: Vectors, basis: Vectors) -> tuple[tuple[Bond, ...], ...]:
    """Bonds of one cell by their length, each bond once: its first offset that is not 0 is positive, or source < target.

    Only the shells that are whole within the cells that are looked at: those no longer than the nearest site beyond.
    """
    found: list[tuple[float, Bond]] = []
    beyond = inf
    for offset in product(range(-_CELLS - 1, _CELLS + 2), repeat=len(vectors)):
        cell = [sum(step * vector[axis] for step, vector in zip(offset, vectors, strict=True)) for axis in range(len(vectors))]
        for source, target in product(range(len(basis)), repeat=2):
            length = hypot(*(r + b - a for r, a, b in zip(cell, basis[source], basis[target], strict=True)))
            if max(map(abs, offset)) > _CELLS:
                beyond = min(beyond, length)
            elif offset > (0,) * len(vectors) or (not any(offset) and source < target):
                found.append((length, Bond(source, target, offset)))
    shells: list[tuple[float, list[Bond]]] = []
    for length, bond in sorted(found, key=lambda pair: pair[0]):
        if length > beyond - _SAME_LENGTH:
            break
        if not shells or length > shells[-1][0] + _SAME_LENGTH:
            shells.append((length, []))
        shells[-1][1].append(bond)
    return tuple(tuple(sorted(bonds, key=_order)) for _, bonds in shells)


def _order(bond: Bond) -> tuple[object, ...]:
    """Short offsets first, (1, 1) before (1, -1): the order of sums over bonds, on which the last bit of a force depends."""
    return tuple(map(abs, bond.offset)), tuple(-step for step in bond.offset), bond.source, bond.target
