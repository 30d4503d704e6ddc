"""``H(q)`` of a whole lattice as a sparse-matrix library takes it: compressed rows, sites row-major, cells then basis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from torch import Tensor

from hpc_holstein.forces._elements import both_ways, matrix_elements
from hpc_holstein.hamiltonian import displaced
from hpc_holstein.interfaces import Domain, Hamiltonian


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
    triplets = list(_triplets(hamiltonian, domain, matrix_elements(hamiltonian, domain, q.double())))
    row, column, value = (torch.cat(part).numpy() for part in zip(*triplets, strict=True))
    matrix = coo_array((value, (row.astype(np.int64), column.astype(np.int64))), shape=(sites, sites)).tocsr()
    matrix.sort_indices()
    starts, columns = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)
    return Rows(starts, columns, matrix.data, np.flatnonzero(columns == np.repeat(np.arange(sites), np.diff(starts))))


def _triplets(hamiltonian: Hamiltonian, domain: Domain, entries: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Row, column and value of every bond, from both of its ends, each ``[bonds]``."""
    width, basis = hamiltonian.reach, len(domain.lattice.basis)
    number = torch.arange(domain.lattice.sites, dtype=torch.float64).view(*domain.lattice.extent, basis, 1)
    sites = domain.pad(torch.cat([number, torch.ones_like(number)], dim=-1), width)  # beyond an open edge: all zero
    for bond, value in both_ways(hamiltonian, domain, entries):
        column, exists = displaced(sites, width, bond.offset)[..., bond.target, :].unbind(dim=-1)
        kept = exists > 0
        yield number[..., bond.source, 0][kept], column[kept], value[kept]
