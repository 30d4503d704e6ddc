"""Columns of the resolvent ``G(z) = (H - z)^-1``: the matrix, a right-hand side for each site, what is read of the solutions.

The matrix is that of a whole lattice, states row-major, cells and then those of a cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from torch import Tensor

from hpc_holstein.domain.transport import Transport, agreed
from hpc_holstein.forces._elements import WholeMatrix, needed_entries
from hpc_holstein.forces._poles import PoleExpansion
from hpc_holstein.interfaces import Domain, Hamiltonian

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class Rows:
    """A symmetric matrix, the diagonal always among its entries.

    ``starts [rows + 1]``, ``columns [entries]`` sorted in each row, ``values [entries]``; ``diagonal [rows]``: its entries.
    """

    starts: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.float64]
    diagonal: NDArray[np.int64]

    def bounds(self) -> tuple[float, float]:
        """Energies that the circles of Gershgorin leave to the eigenvalues."""
        centres = self.values[self.diagonal]
        radii = np.add.reduceat(np.abs(self.values), self.starts[:-1]) - np.abs(centres)
        return float((centres - radii).min()), float((centres + radii).max())


def assemble(hamiltonian: Hamiltonian, domain: Domain, q: Tensor) -> Rows:
    """``H(q)`` for one state ``q [*cells, basis, components]`` of the whole lattice; bonds of the same two sites add up."""
    sites = domain.lattice.sites
    whole = WholeMatrix(hamiltonian, domain)
    row, column = whole.rows.numpy(), whole.columns.numpy()
    matrix = coo_array((whole.values(q.double()).numpy(), (row, column)), shape=(sites, sites)).tocsr()
    matrix.sort_indices()
    starts, columns = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)
    return Rows(starts, columns, matrix.data, np.flatnonzero(columns == np.repeat(np.arange(sites), np.diff(starts))))


class LinearSystem(Protocol):
    """``(H - z) x = b`` of the whole lattice.

    ``solved`` right-hand sides and ``iterations`` since it was made; largest ``residual`` ``|b - (H - z) x| / |b|`` since the
    matrix was loaded.
    """

    solved: int
    iterations: int
    residual: float

    def load(self, rows: Rows, residual: float) -> None:
        """Take the matrix, and the residual that is asked for."""

    def shift(self, z: complex) -> None:
        """Get ready to solve at ``z``."""

    def solve(self, b: Array) -> Complex:
        """``x`` for a real ``b``, both ``[sites]``."""
        ...


class Columns:
    """Columns at ``sites``, sorted numbers of the whole lattice of ``domain``, and the entries of ``rho`` that they hold.

    ``team``: ranks that share the poles, and the columns where there are more ranks than poles.

    vector, target  column, and site at which it is read, ``[readings]`` in the order of the columns
    output          index in the entries of the pattern, flattened ``[cells, pattern]``
    diagonal        1 where the reading is on the diagonal, else 0; ``on_site``: the same but for bonds around the lattice
    """

    def __init__(self, hamiltonian: Hamiltonian, domain: Domain, system: LinearSystem, team: Transport, sites: Tensor) -> None:
        self.system, self.team, self.sites, self._total = system, team, sites, domain.lattice.sites
        targets, basis, pattern = WholeMatrix(hamiltonian, domain).ends, len(domain.lattice.basis), len(hamiltonian.pattern)
        parts = []
        for entry in needed_entries(hamiltonian, domain):
            bond, ends = hamiltonian.pattern[entry], targets[:, entry]
            mine = torch.nonzero((sites % basis == bond.source) & (ends[sites // basis] >= 0))[:, 0]
            here, there = sites[mine], ends[sites[mine] // basis]
            on_site = torch.full_like(mine, entry < basis)
            parts.append((mine, there, here // basis * pattern + entry, (here == there).long(), on_site))
        readings = [torch.cat(part) for part in zip(*parts, strict=True)]
        order = torch.argsort(readings[0], stable=True)
        self.vector, self.target, self.output, self.diagonal, self.on_site = (part[order].numpy() for part in readings)

    def solve(self, expansion: PoleExpansion) -> Complex:
        """Resolvents at the poles, ``[poles, readings]``; zero where another rank of the team solves.

        Raises on all ranks what the linear system raises on one.
        """
        values = np.zeros((len(expansion.heights), len(self.target)), dtype=np.complex128)
        cuts = np.searchsorted(self.vector, np.arange(len(self.sites) + 1))
        with agreed(self.team):
            for pole, vectors in self._share(len(expansion.heights)):
                self.system.shift(complex(expansion.centre, expansion.heights[pole]))
                for vector in vectors:
                    b = np.zeros(self._total)
                    b[self.sites[vector]] = 1.0
                    read = slice(cuts[vector], cuts[vector + 1])
                    values[pole, read] = self.system.solve(b)[self.target[read]]
        return values

    def _share(self, poles: int) -> Iterator[tuple[int, range]]:
        """Poles and columns of this rank of the team."""
        rank, size = self.team.rank, self.team.size
        if size <= poles:
            yield from ((pole, range(len(self.sites))) for pole in range(rank, poles, size))
        else:
            pole = rank % poles
            yield pole, range(rank // poles, len(self.sites), len(range(pole, size, poles)))
