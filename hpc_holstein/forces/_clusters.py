"""Clusters that cover a lattice: a block of ``core`` cells along each axis and what lies within ``reach`` cells of it.

Blocks start at multiples of ``core`` in global cells, so which sites share a cluster does not depend on the decomposition.
Bonds that leave a cluster are cut.  A periodic axis no longer than the cluster is taken whole and closes onto itself, so
that no cluster holds a site twice; sites beyond an open edge of the lattice stay in the matrix, without bonds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.interfaces import Bond, Domain, Hamiltonian, Lattice

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class _Shape:
    """Cells of a cluster along each axis, and where its core lies in it."""

    core: tuple[int, ...]
    width: tuple[int, ...]
    margin: tuple[int, ...]  # cells before the core
    closed: tuple[bool, ...]  # the cluster is a whole periodic axis

    @classmethod
    def of(cls, lattice: Lattice, reach: int, core: int) -> _Shape:
        cores = tuple(min(core, cells) for cells in lattice.extent)
        wanted = tuple(c + 2 * reach for c in cores)
        closed = tuple(p and n <= w for n, p, w in zip(lattice.extent, lattice.periodic, wanted, strict=True))
        width = tuple(n if whole else w for n, w, whole in zip(lattice.extent, wanted, closed, strict=True))
        margin = tuple((w - c) // 2 for w, c in zip(width, cores, strict=True))
        return cls(cores, width, margin, closed)


@dataclass(frozen=True)
class _Bonds:
    """Bonds inside a cluster, on-site entries included, each member ``[bonds]``."""

    element: Tensor  # of the lower triangle of the n x n matrix, row-major
    entry: Tensor  # of the pattern entries of the cells of the cluster, [cells, pattern] row-major
    source: Tensor  # cell
    target: Tensor  # cell
    factor: Tensor  # of the value, float64


class Clusters:
    """The clusters whose cores hold the owned cells of a rank, as index tables into fields with ``halo`` ghost cells.

    number   clusters of this rank
    sites    ``n``, sites of a cluster
    centres  sites of its core

    ``chosen``: whether a site is wanted, ``[*cells, basis]`` of the owned cells; clusters without one are left out.
    """

    def __init__(self, hamiltonian: Hamiltonian, domain: Domain, reach: int, core: int, chosen: Tensor | None = None) -> None:
        lattice = domain.lattice
        self._basis = len(lattice.basis)
        shape = _Shape.of(lattice, reach, core)
        self.halo = max(reach + core - 1, hamiltonian.reach)
        domain.require_halo(self.halo)
        ghosted = [n + 2 * self.halo for n in domain.local_extent]
        starts = [np.arange(a // c * c, b, c) for (a, b), c in zip(domain.owned, shape.core, strict=True)]
        origins = [s - a - m + self.halo for s, (a, _), m in zip(starts, domain.owned, shape.margin, strict=True)]
        cells = np.indices(shape.width).reshape(len(shape.width), -1)
        core_cells = np.indices(shape.core).reshape(len(shape.core), -1) + np.asarray(shape.margin)[:, None]
        rows = np.ravel_multi_index(tuple(core_cells), shape.width)[:, None] * self._basis + np.arange(self._basis)

        self.sites = cells.shape[1] * self._basis
        self.centres = rows.size
        device = domain.device
        first_cells = _flat(np.meshgrid(*origins, indexing="ij"), ghosted).ravel()
        owners = _owners(domain.owned, shape.core, self._basis)
        self._chosen = chosen
        if chosen is not None:
            blocks, owners = _blocks_of(owners[chosen.cpu().numpy()], self.centres)
            first_cells = first_cells[blocks]
        self.number = len(first_cells)
        self._origins = _table(first_cells, device)
        self._offsets = _table(_flat(cells, ghosted), device)
        self._centre_rows = _table(rows.ravel(), device)
        self._owners = _table(owners, device)
        self._bonds = _bonds(shape, cells, hamiltonian.pattern, self._basis, device)
        self._present = None
        if not all(lattice.periodic):
            inside = domain.pad(torch.ones(*domain.local_extent, 1, 1, dtype=torch.float64, device=device), self.halo)
            self._present = inside.flatten()

    def matrices(self, entries: Tensor, first: int, last: int) -> Tensor:
        """Lower triangles of ``H`` of the clusters ``first`` to ``last``, ``[m, n, n]``, from ghosted ``[*cells, pattern]``."""
        cells = self._origins[first:last, None] + self._offsets
        bonds = self._bonds
        values = entries.reshape(-1, entries.shape[-1])[cells].flatten(1)[:, bonds.entry] * bonds.factor
        if self._present is not None:
            present = self._present[cells]
            values = values * (present[:, bonds.source] * present[:, bonds.target])
        matrix = values.new_zeros((len(cells), self.sites**2))
        return matrix.index_add_(1, bonds.element, values).view(-1, self.sites, self.sites)

    def at_centres(self, states: Tensor) -> Tensor:
        """Rows of ``states [m, n, levels]`` that belong to the core, ``[m, centres, levels]``."""
        return states[:, self._centre_rows]

    def owned(self, values: Tensor) -> Tensor:
        """A value of each core site, ``[number, centres]``, as a field of the owned cells ``[*cells, basis]``; NaN where not
        chosen."""
        if self._chosen is None:
            return values.flatten()[self._owners]
        field = values.new_full(self._chosen.shape, torch.nan)
        field[self._chosen] = values.flatten()[self._owners]
        return field

    def chunks(self, size: int) -> Iterator[tuple[int, int]]:
        """First and last cluster of successive chunks of at most ``size``."""
        return ((first, min(first + size, self.number)) for first in range(0, self.number, size))


def _table(index: Integers, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(index)).to(device)


def _flat(cells: Sequence[NDArray[Any]] | NDArray[Any], extent: Sequence[int]) -> Integers:
    """Row-major number of cells whose coordinates come first; linear, so it holds for differences of cells too."""
    number: Integers = np.zeros((), dtype=np.int64)
    for coordinate, length in zip(cells, extent, strict=True):
        number = number * length + coordinate
    return number


def _owners(owned: tuple[tuple[int, int], ...], core: tuple[int, ...], basis: int) -> Integers:
    """Place of each owned site in an array ``[number, centres]``: ``[*cells, basis]``."""
    cells = np.meshgrid(*[np.arange(a, b) for a, b in owned], indexing="ij")
    block = _flat(
        [y // c - a // c for y, (a, _), c in zip(cells, owned, core, strict=True)],
        [(b - 1) // c - a // c + 1 for (a, b), c in zip(owned, core, strict=True)],
    )
    within = _flat([y % c for y, c in zip(cells, core, strict=True)], list(core))
    return ((block * prod(core) + within) * basis)[..., None] + np.arange(basis)


def _blocks_of(places: Integers, centres: int) -> tuple[Integers, Integers]:
    """Blocks that ``places`` of an array ``[number, centres]`` lie in, and the places in an array of these blocks alone."""
    blocks, renumbered = np.unique(places // centres, return_inverse=True)
    return blocks, renumbered * centres + places % centres


def _bonds(shape: _Shape, cells: Integers, pattern: tuple[Bond, ...], basis: int, device: torch.device) -> _Bonds:
    """Every bond that a cluster holds whole; one from a site to itself around a periodic axis counts in both directions."""
    width, closed = np.asarray(shape.width)[:, None], np.asarray(shape.closed)[:, None]
    n = cells.shape[1] * basis
    parts = []
    for p, bond in enumerate(pattern):
        there = cells + np.asarray(bond.offset)[:, None]
        kept = ((there >= 0) & (there < width) | closed).all(axis=0)
        source = np.flatnonzero(kept)
        target = np.ravel_multi_index(tuple((there % width)[:, kept]), shape.width)
        row, column = source * basis + bond.source, target * basis + bond.target
        on_site = bond.source == bond.target and not any(bond.offset)
        factor = np.where((row == column) & (not on_site), 2, 1)
        element = np.maximum(row, column) * n + np.minimum(row, column)
        parts.append(np.stack([element, source * len(pattern) + p, source, target, factor]))
    table = _table(np.concatenate(parts, axis=1), device)
    return _Bonds(table[0], table[1], table[2], table[3], table[4].double())
