"""Clusters that cover a lattice: a block of ``core`` cells along each axis, its window and the lattice around the window.

Blocks start at multiples of ``core`` in global cells, so which sites share a cluster does not depend on the decomposition.
The window is what lies within ``reach`` cells of the core and has the coordinates of the state; ``embedding`` more cells on
each side have none (``q = 0``), and bonds that leave those are cut.  A periodic axis no longer than the cluster is taken whole
and closes onto itself, so that no cluster holds a site twice; sites beyond an open edge of the lattice stay in the matrix,
without bonds.
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

from hpc_holstein.errors import ConfigError
from hpc_holstein.hamiltonian._base import displaced
from hpc_holstein.interfaces import Bond, Domain, Hamiltonian, Lattice

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class _Shape:
    """Cells of a cluster along each axis, of its window and of its core, and where these two begin."""

    core: tuple[int, ...]
    window: tuple[int, ...]
    width: tuple[int, ...]
    window_start: tuple[int, ...]
    core_start: tuple[int, ...]
    closed: tuple[bool, ...]  # the cluster is a whole periodic axis

    @classmethod
    def of(cls, lattice: Lattice, reach: int, core: int, embedding: int) -> _Shape:
        cores = tuple(min(core, cells) for cells in lattice.extent)
        window = tuple(
            min(n, c + 2 * reach) if p else c + 2 * reach
            for n, p, c in zip(lattice.extent, lattice.periodic, cores, strict=True)
        )
        wanted = tuple(w + 2 * embedding for w in window)
        closed = tuple(p and n <= w for n, p, w in zip(lattice.extent, lattice.periodic, wanted, strict=True))
        width = tuple(n if whole else w for n, w, whole in zip(lattice.extent, wanted, closed, strict=True))
        start = tuple(0 if whole else embedding for whole in closed)
        core_start = tuple(s + (w - c) // 2 for s, w, c in zip(start, window, cores, strict=True))
        return cls(cores, window, width, start, core_start, closed)

    @property
    def margin(self) -> tuple[int, ...]:
        """Cells of the window before its core."""
        return tuple(c - w for c, w in zip(self.core_start, self.window_start, strict=True))

    def cells(self, first: Sequence[int], count: Sequence[int]) -> Integers:
        """Coordinates in the cluster of a box of cells, ``[dimension, cells]``."""
        return np.indices(count).reshape(len(count), -1) + np.asarray(first)[:, None]

    def places(self, cells: Integers) -> tuple[Integers, NDArray[np.bool_]]:
        """``cells`` on closed axes brought into the cluster, and which of them it holds."""
        width, closed = np.asarray(self.width)[:, None], np.asarray(self.closed)[:, None]
        return np.where(closed, cells % width, cells), ((cells >= 0) & (cells < width) | closed).all(axis=0)


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
    pairs    entries of ``rho`` between a site of the core and another one: each of ``moving``, as one that starts in a cell of
             the core, then as one that ends there

    ``size``: ``reach``, ``core``, ``embedding``; ``moving``: off-diagonal entries of the pattern that are wanted; ``chosen``:
    mask of the owned cells that are wanted, ``[*cells]``; clusters without one are left out.
    """

    def __init__(
        self,
        hamiltonian: Hamiltonian,
        domain: Domain,
        size: tuple[int, int, int],
        moving: Sequence[int] = (),
        chosen: Tensor | None = None,
    ) -> None:
        lattice, (reach, core, embedding) = domain.lattice, size
        self._hamiltonian, self._lattice, self._basis = hamiltonian, lattice, len(lattice.basis)
        self._shape = shape = _Shape.of(lattice, reach, core, embedding)
        self.halo = max(reach + core - 1, hamiltonian.reach)
        domain.require_halo(self.halo)
        ghosted = [n + 2 * self.halo for n in domain.local_extent]
        starts = [np.arange(a // c * c, b, c) for (a, b), c in zip(domain.owned, shape.core, strict=True)]
        corners = [s - m for s, m in zip(starts, shape.margin, strict=True)]  # of the windows, in global cells
        windows = np.stack(np.meshgrid(*corners, indexing="ij")).reshape(len(corners), -1)
        owners = _owners(domain.owned, shape.core)
        self._chosen = chosen
        if chosen is not None:
            blocks, owners = _blocks_of(owners[chosen.cpu().numpy()], prod(shape.core))
            windows = windows[:, blocks]
        self.number, self._core_cells = windows.shape[1], prod(shape.core)
        self.sites, self.centres = prod(shape.width) * self._basis, self._core_cells * self._basis
        self.pairs = 2 * self._core_cells * len(moving)
        device = domain.device
        local = windows - np.asarray([a - self.halo for a, _ in domain.owned])[:, None]
        self._windows = _table(_flat(local, ghosted), device)
        self._offsets = _table(_flat(shape.cells([0] * len(ghosted), shape.window), ghosted), device)
        self._first_cells = _table(windows.T - np.asarray(shape.window_start), device)
        self._cells = _table(shape.cells([0] * len(ghosted), shape.width).T, device)
        self._inside = _table(_inside(shape, hamiltonian.reach), device)
        self._centre_rows = _table(self._core_rows(), device)
        ends = [self._pair_rows(hamiltonian.pattern[entry]) for entry in moving]
        self._pair_rows_of = _table(np.stack(ends, axis=2).reshape(2, -1) if ends else np.zeros((2, 0), np.int64), device)
        self._owners = _table(owners, device)
        self._bonds = _bonds(shape, hamiltonian.pattern, self._basis, device)

    def _core_rows(self) -> Integers:
        """Rows of the matrix of the sites in the core."""
        cells, _ = self._shape.places(self._shape.cells(self._shape.core_start, self._shape.core))
        return (np.ravel_multi_index(tuple(cells), self._shape.width)[:, None] * self._basis + np.arange(self._basis)).ravel()

    def _pair_rows(self, bond: Bond) -> Integers:
        """Rows of both ends of a bond that starts, and of one that ends, in each cell of the core: ``[end, cell, which]``."""
        core, offset = self._shape.cells(self._shape.core_start, self._shape.core), np.asarray(bond.offset)[:, None]
        pairs = []
        for source, target in ((core, core + offset), (core - offset, core)):
            rows = []
            for cells, site in ((source, bond.source), (target, bond.target)):
                placed, held = self._shape.places(cells)
                if not held.all():
                    held_cells, needed = "x".join(map(str, self._shape.width)), self._hamiltonian.reach
                    raise ConfigError(
                        f"clusters of {held_cells} cells do not hold the bonds that move with the coordinates: give a reach of "
                        f"{needed} or more"
                    )
                rows.append(np.ravel_multi_index(tuple(placed), self._shape.width) * self._basis + site)
            pairs.append(np.stack(rows))
        return np.stack(pairs, axis=-1)

    def matrices(self, ghosted_q: Tensor, first: int, last: int) -> Tensor:
        """Lower triangles of ``H`` of the clusters ``first`` to ``last``, ``[m, n, n]``, from ghosted coordinates."""
        axes, bonds, reach = len(self._shape.width), self._bonds, self._hamiltonian.reach
        cells = self._windows[first:last, None] + self._offsets
        of_window = ghosted_q.flatten(0, axes - 1)[cells]
        of_window = torch.cat([of_window, torch.zeros_like(of_window[:, :1])], dim=1)[:, self._inside]
        q = of_window.unflatten(1, [w + 2 * reach for w in self._shape.width])
        entries = self._hamiltonian.matrix(q, reach).flatten(1)
        values = entries[:, bonds.entry] * bonds.factor
        if not all(self._lattice.periodic):
            present = self._present(first, last).to(values)
            values = values * (present[:, bonds.source] * present[:, bonds.target])
        matrix = values.new_zeros((len(values), self.sites**2))
        return matrix.index_add_(1, bonds.element, values).view(-1, self.sites, self.sites)

    def _present(self, first: int, last: int) -> Tensor:
        """Mask of the cells of the clusters within the open edges of the lattice, ``[m, cells]``."""
        cells = self._first_cells[first:last, None] + self._cells
        extent, periodic = cells.new_tensor(self._lattice.extent), cells.new_tensor(self._lattice.periodic).bool()
        return ((cells >= 0) & (cells < extent) | periodic).all(dim=-1)

    def at_centres(self, states: Tensor) -> Tensor:
        """Squares of the rows of ``states [m, n, levels]`` that belong to the core, ``[m, centres, levels]``."""
        return states[:, self._centre_rows].square()

    def of_pairs(self, states: Tensor) -> Tensor:
        """Products of the rows of ``states [m, n, levels]`` that belong to a pair, ``[m, pairs, levels]``."""
        return states[:, self._pair_rows_of[0]] * states[:, self._pair_rows_of[1]]

    def owned(self, values: Tensor) -> Tensor:
        """Numbers of each core cell, ``[number, core cells x numbers]``, as a field of the owned cells ``[*cells, numbers]``;
        zero where not chosen."""
        of_cells = values.reshape(-1, values.shape[-1] // self._core_cells)[self._owners]
        if self._chosen is None:
            return of_cells
        field = values.new_zeros((*self._chosen.shape, of_cells.shape[-1]))
        field[self._chosen] = of_cells
        return field

    def bond_orders(self, pairs: Tensor, moving: Sequence[int], domain: Domain) -> Tensor:
        """``rho`` on the ``moving`` entries, ``[*cells, moving]``, from values of the pairs ``[number, pairs]``; collective.

        The mean of what the clusters of both ends say, so that no end is preferred.
        """
        halo, field = self._hamiltonian.reach, self.owned(pairs).unflatten(-1, (len(moving), 2))
        ending = domain.pad(field[..., 1:].contiguous(), halo)
        means = []
        for at, entry in enumerate(moving):
            there = displaced(ending, halo, self._hamiltonian.pattern[entry].offset)
            means.append(0.5 * (field[..., at, 0] + there[..., at, 0]))
        return torch.stack(means, dim=-1)

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


def _owners(owned: tuple[tuple[int, int], ...], core: tuple[int, ...]) -> Integers:
    """Place of each owned cell in an array ``[number, core cells]``: ``[*cells]``."""
    cells = np.meshgrid(*[np.arange(a, b) for a, b in owned], indexing="ij")
    block = _flat(
        [y // c - a // c for y, (a, _), c in zip(cells, owned, core, strict=True)],
        [(b - 1) // c - a // c + 1 for (a, b), c in zip(owned, core, strict=True)],
    )
    return block * prod(core) + _flat([y % c for y, c in zip(cells, core, strict=True)], list(core))


def _blocks_of(places: Integers, cells: int) -> tuple[Integers, Integers]:
    """Blocks that ``places`` of an array ``[number, cells]`` lie in, and the places in an array of these blocks alone."""
    blocks, renumbered = np.unique(places // cells, return_inverse=True)
    return blocks, renumbered * cells + places % cells


def _inside(shape: _Shape, ghosts: int) -> Integers:
    """Number in its window of each cell of a cluster with ``ghosts``, or that of the zero behind them."""
    ghosted = shape.cells([-ghosts] * len(shape.width), [w + 2 * ghosts for w in shape.width])
    cells = shape.places(ghosted)[0] - np.asarray(shape.window_start)[:, None]
    within = ((cells >= 0) & (cells < np.asarray(shape.window)[:, None])).all(axis=0)
    return np.where(within, _flat(cells, shape.window), prod(shape.window))


def _bonds(shape: _Shape, pattern: tuple[Bond, ...], basis: int, device: torch.device) -> _Bonds:
    """Every bond that a cluster holds whole; one from a site to itself around a periodic axis counts in both directions."""
    cells = shape.cells([0] * len(shape.width), shape.width)
    n = cells.shape[1] * basis
    parts = []
    for p, bond in enumerate(pattern):
        there, kept = shape.places(cells + np.asarray(bond.offset)[:, None])
        source = np.flatnonzero(kept)
        target = np.ravel_multi_index(tuple(there[:, kept]), shape.width)
        row, column = source * basis + bond.source, target * basis + bond.target
        on_site = bond.source == bond.target and not any(bond.offset)
        factor = np.where((row == column) & (not on_site), 2, 1)
        element = np.maximum(row, column) * n + np.minimum(row, column)
        parts.append(np.stack([element, source * len(pattern) + p, source, target, factor]))
    table = _table(np.concatenate(parts, axis=1), device)
    return _Bonds(table[0], table[1], table[2], table[3], table[4].double())
