"""Fields on a lattice: what a number on each site is, and the names of the axes it is stored along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hpc_holstein.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from hpc_holstein.interfaces import Lattice

CELL_AXES = ("z", "y", "x")
"""Names of the array axes of the cells; a lattice of fewer dimensions has the last ones."""
_SAME = 1e-9


@dataclass(frozen=True)
class Field:
    """A quantity on the sites of a lattice.

    representation  how its components turn under the point group: ``scalar``, not at all, ``vector``, Cartesian
                    ``(x, y, z)``, or ``e_g``, as ``(x^2 - y^2, 3z^2 - r^2)`` in a plane
    """

    name: str
    unit: str
    meaning: str
    representation: Literal["scalar", "vector", "e_g"] = "scalar"

    def parts(self, components: int) -> tuple[str, ...]:
        """Letters of the components, none of numbers that do not turn: ``q_x`` is a part of ``q``."""
        return {"scalar": (), "vector": tuple("xyz"[:components]), "e_g": ("x", "z")}[self.representation]

    def turned(self, rotation: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Matrix that acts on the components under a ``rotation`` of space, Cartesian; None for numbers that do not turn."""
        if self.representation == "e_g":
            return quadrupole_turned(rotation)
        return rotation if self.representation == "vector" else None


def quadrupole_turned(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrix of ``(x^2 - y^2, 3z^2 - r^2)`` under an element of the point group of a square, ``[[+-1, 0], [0, 1]]``.

    Raises ConfigError for another rotation of the plane, which mixes the first with ``xy``.
    """
    import numpy as np

    sign = float(rotation[0, 0] ** 2 - rotation[0, 1] ** 2)  # x^2 - y^2 at the image of (1, 0)
    if abs(abs(sign) - 1) > _SAME:
        raise ConfigError("orbitals of e_g symmetry turn into others on this lattice: use the square lattice")
    return np.diag([round(sign), 1.0])


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
