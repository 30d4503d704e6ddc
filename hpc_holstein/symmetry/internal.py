"""The internal symmetry of the electrons beside the point group: particle-hole exchange, a Z2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.symmetry.irreps import Irrep, real_irreps
from hpc_holstein.symmetry.point_group import PointGroup


@dataclass(frozen=True)
class ParticleHoleGroup:
    """Direct product ``G x Z2`` of a point group with particle-hole exchange; element ``g + |G| s``, ``s = 1`` exchanges.

    On a bipartite lattice ``n_i(-Q, -mu) = 1 - n_i(Q, mu)``: an element acts on the shifted field as
    ``(Q + mu/g)(r) -> parity (Q + mu/g)(M_g^-1 r)`` and on ``n - 1/2`` and on the force in the same way.
    """

    spatial: PointGroup

    @property
    def order(self) -> int:
        """Number of elements, ``2 |G|``."""
        return 2 * self.spatial.order

    @property
    def parity(self) -> NDArray[np.int64]:
        """Sign of the field under each element: +1, or -1 with particle-hole exchange, ``[2 |G|]``."""
        return np.repeat([1, -1], self.spatial.order)

    @property
    def product_table(self) -> NDArray[np.int64]:
        """``product_table[x, y]`` is the index of the product, ``[2 |G|, 2 |G|]``."""
        table = self.spatial.product_table
        exchanged = table + self.spatial.order
        return np.block([[table, exchanged], [exchanged, table]])

    @property
    def inverse(self) -> NDArray[np.int64]:
        """``inverse[x]`` is the index of the inverse element, ``[2 |G|]``."""
        return np.concatenate([self.spatial.inverse, self.spatial.inverse + self.spatial.order])

    @property
    def irreps(self) -> tuple[Irrep, ...]:
        """Irreps of the product: those of the point group with ``+`` (even) or ``-`` (odd under exchange) after the name."""
        return tuple(
            Irrep(irrep.name + suffix, np.concatenate([irrep.matrices, sign * irrep.matrices]), irrep.type)
            for suffix, sign in (("+", 1.0), ("-", -1.0))
            for irrep in real_irreps(self.spatial)
        )
