"""Orbitals of a site that keep their place, up to a sign, under the point group of the lattice.

``s``    one state that does not change
``e_g``  ``x^2 - y^2`` and ``3z^2 - r^2`` on a square lattice in the plane
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc_holstein.fields import quadrupole_turned

if TYPE_CHECKING:  # a configuration is checked without loading NumPy
    import numpy as np
    from numpy.typing import NDArray

ORBITALS = {"s": 1, "e_g": 2}
"""States of a site by the name of their symmetry."""


def orbital_signs(kind: str, rotations: NDArray[np.float64]) -> NDArray[np.int64]:
    """Sign of each orbital under each of the ``rotations [g, dim, dim]``, Cartesian: ``[g, orbitals]``.

    ConfigError for orbitals that turn into others.
    """
    import numpy as np

    if kind == "s":
        return np.ones((len(rotations), 1), dtype=np.int64)
    return np.array([quadrupole_turned(rotation).diagonal() for rotation in rotations]).astype(np.int64)
