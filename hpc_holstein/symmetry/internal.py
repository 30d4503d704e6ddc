"""The internal symmetry of the electrons beside the point group: particle-hole exchange, a Z2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import block_array, coo_array
from scipy.sparse.csgraph import connected_components

from hpc_holstein.interfaces import Bond, Hamiltonian
from hpc_holstein.symmetry.irreps import Irrep, real_irreps
from hpc_holstein.symmetry.point_group import PointGroup


@dataclass(frozen=True)
class ParticleHoleGroup:
    """Direct product ``G x Z2`` of a point group with particle-hole exchange; element ``g + |G| s``, ``s = 1`` exchanges.

    Where hopping joins two sublattices alone (:func:`is_bipartite`), ``n_i(-Q, -mu) = 1 - n_i(Q, mu)``: an element acts on the
    shifted field as ``(Q + mu/g)(r) -> parity (Q + mu/g)(M_g^-1 r)`` and on ``n - 1/2`` and on the force in the same way.
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
        """Irreps of the product: those of the point group, even under exchange, and then the same, odd."""
        return tuple(
            Irrep(np.concatenate([irrep.matrices, sign * irrep.matrices]), irrep.type)
            for sign in (1.0, -1.0)
            for irrep in real_irreps(self.spatial)
        )


def has_particle_hole(hamiltonian: Hamiltonian) -> bool:
    """True if matrix elements between different sites join two sublattices alone, so that the exchange is a symmetry."""
    of_sites = [
        Bond(bond.source // hamiltonian.orbitals, bond.target // hamiltonian.orbitals, bond.offset)
        for bond in hamiltonian.pattern
    ]
    return is_bipartite([bond for bond in of_sites if bond.source != bond.target or any(bond.offset)])


def is_bipartite(bonds: Sequence[Bond]) -> bool:
    """True if the bonds of a cell and its copies join two sublattices alone, each bond a site of one to a site of the other.

    It is asked of the infinite lattice: an odd number of cells along a periodic axis breaks the sublattices only where it
    closes.  A graph is bipartite if and only if its double cover, two copies of the sites with each bond from one copy to the
    other, falls into twice as many pieces; a patch of the lattice that holds the shortest closed walks decides.
    """
    if not bonds:
        return True
    offsets = np.array([bond.offset for bond in bonds])
    edge, sites = 4 * int(np.abs(offsets).max()) + 1, 1 + max(max(bond.source, bond.target) for bond in bonds)
    cells = np.indices((edge,) * offsets.shape[1]).reshape(offsets.shape[1], -1)
    ends = []
    for bond in bonds:
        there = cells + np.array(bond.offset)[:, None]
        inside = ((there >= 0) & (there < edge)).all(axis=0)
        pair = (np.ravel_multi_index(tuple(where[:, inside]), (edge,) * len(cells)) for where in (cells, there))
        ends.append(np.stack([cell * sites + site for cell, site in zip(pair, (bond.source, bond.target), strict=True)]))
    source, target = np.concatenate(ends, axis=1)
    number = sites * cells.shape[1]
    graph = coo_array((np.ones(len(source)), (source, target)), shape=(number, number))
    graph = graph + graph.T
    pieces, in_cover = (
        connected_components(joined, directed=False, return_labels=False)
        for joined in (graph, block_array([[None, graph], [graph, None]]))
    )
    return bool(in_cover == 2 * pieces)
