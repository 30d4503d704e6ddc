"""What all lattices share: a frozen description from which bonds and the point group follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Bond

if TYPE_CHECKING:
    from hpc_holstein.symmetry.point_group import PointGroup


@dataclass(frozen=True)
class BravaisLattice:
    """A finite lattice of ``prod(extent)`` cells with ``len(basis)`` sites each; see :class:`interfaces.Lattice`.

    ``shells[s - 1]`` lists the bonds of neighbour shell ``s`` of one cell, each bond once.
    ``generators`` are the integer matrices (in the basis of the primitive vectors) that generate the point group.
    """

    name: str
    extent: tuple[int, ...]
    periodic: tuple[bool, ...]
    vectors: tuple[tuple[float, ...], ...]
    basis: tuple[tuple[float, ...], ...]
    ordering_vector: tuple[float, ...]
    shells: tuple[tuple[Bond, ...], ...]
    generators: tuple[tuple[tuple[int, ...], ...], ...]

    def __post_init__(self) -> None:
        dimension = len(self.vectors)
        if len(self.extent) != dimension or any(n < 1 for n in self.extent):
            shown = "x".join(map(str, self.extent))
            raise ConfigError(
                f"lattice extent {shown} does not fit the {self.name} lattice: give {dimension} positive numbers of cells"
            )
        if len(self.periodic) != dimension:
            raise ConfigError(
                f"periodic = {list(self.periodic)} does not fit the {self.name} lattice: give {dimension} booleans"
            )

    @property
    def point_group(self) -> PointGroup:
        """Point group that maps the infinite lattice onto itself, about a site."""
        from hpc_holstein.symmetry.point_group import PointGroup  # here: a configuration is checked without NumPy

        return PointGroup.from_generators(self.generators)

    @property
    def sites(self) -> int:
        """Number of sites of the whole lattice."""
        count = len(self.basis)
        for cells in self.extent:
            count *= cells
        return count

    def bonds(self, shell: int) -> tuple[Bond, ...]:
        """Bonds of neighbour shell ``shell`` (1 = nearest) that belong to one cell, each bond once."""
        if not 1 <= shell <= len(self.shells):
            raise ConfigError(f"neighbour shell {shell} is not known for the {self.name} lattice: use 1 to {len(self.shells)}")
        return self.shells[shell - 1]
