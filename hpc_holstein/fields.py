"""Fields on a lattice: what a number on each site is, and the names of the axes it is stored along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from hpc_holstein.interfaces import Lattice

CELL_AXES = ("z", "y", "x")
"""Names of the array axes of the cells; a lattice of fewer dimensions has the last ones."""


@dataclass(frozen=True)
class Field:
    """A quantity on the sites of a lattice.

    representation  how its components turn under the point group: ``scalar``, each on its own, or ``vector``, Cartesian
                    ``(x, y, z)``
    """

    name: str
    unit: str
    meaning: str
    representation: Literal["scalar", "vector"] = "scalar"


@dataclass(frozen=True)
class SiteAxes:
    """Axes of a stored field behind those of the snapshots: ``dimension`` of the cells, one of ``basis`` sites if several."""

    dimension: int = 2
    basis: int = 1

    @classmethod
    def of(cls, lattice: Lattice) -> SiteAxes:
        """Axes of the fields of a lattice."""
        return cls(len(lattice.extent), len(lattice.basis))

    @property
    def number(self) -> int:
        """Axes of a field of one number a site."""
        return self.dimension + (self.basis > 1)

    def names(self, components: bool = False) -> tuple[str, ...]:
        """Their names; ``components``: the field has an axis of components."""
        return site_dims(self.dimension, self.basis, 2 if components else 1)


def cell_axes(dimension: int) -> tuple[str, ...]:
    """``("y", "x")`` of a lattice of two dimensions."""
    return CELL_AXES[len(CELL_AXES) - dimension :]


def site_dims(dimension: int, basis: int, components: int = 1) -> tuple[str, ...]:
    """Names of the axes of a field in files: cells, sites of a cell and components, the last two only if there are several."""
    return (*cell_axes(dimension), *(["site"] if basis > 1 else []), *(["component"] if components > 1 else []))


def stored_shape(extent: Sequence[int], basis: int, components: int = 1) -> tuple[int, ...]:
    """Shape of a field in files, along :func:`site_dims`."""
    return (*extent, *([basis] if basis > 1 else []), *([components] if components > 1 else []))


def displaced(ghosted: Tensor, halo: int, offset: Sequence[int]) -> Tensor:
    """View of the cells within ``halo`` ghosts, moved by ``offset``: ``[*batch, *cells, basis, components]``."""
    axes = len(offset)
    for axis, step in enumerate(offset):
        dim = ghosted.ndim - 2 - axes + axis
        ghosted = ghosted.narrow(dim, halo + step, ghosted.shape[dim] - 2 * halo)
    return ghosted
