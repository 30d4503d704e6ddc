"""The Chebyshev recurrence on CPUs: blocks of vectors through the compiled kernel, messages between ranks behind the work.

Vectors are held as ``[2, blocks, ghosted sites, V]``: the last two orders of each block, V vectors of a block side by side in
one cache line.  Blocks do not depend on each other: each thread takes one, and while one half of them computes, the ghosts
of the other half are under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.compiled.chebyshev import advance, combine
from hpc_holstein.forces._chebyshev import Interval
from hpc_holstein.forces._kernel_layout import WORTH_A_MESSAGE, Layout, orders_kept
from hpc_holstein.forces._probing import Readings
from hpc_holstein.forces._stencil import Hop, Stencil

_TOGETHER = 32  # readings that are combined at a time: four vectors of the widest SIMD units


class FusedRecurrence:
    """Moments of probe vectors that are held at once, and one function of the matrix applied to them whole.

    Vectors start where the first of ``parts`` does.  ``orders``: in which the readings of each part come in the moments.
    ``column``: coefficients of the function, or empty.
    """

    def __init__(
        self,
        stencil: Stencil,
        layout: Layout,
        interval: Interval,
        dtype: torch.dtype,
        parts: Sequence[Readings],
        column: list[float],
    ) -> None:
        lanes, blocks = layout.lanes, -(-parts[0].vectors // layout.lanes)
        self._domain, self._stencil, self._layout, self._vectors = stencil.domain, stencil, layout, parts[0].vectors
        self._state = torch.zeros(2, blocks, stencil.sites, lanes, dtype=dtype)
        self._state[0, parts[0].vector // lanes, parts[0].source, parts[0].vector % lanes] = parts[0].sign.to(dtype)
        self._columns = torch.zeros_like(self._state[0]) if column else self._state.new_empty((blocks, 0, lanes))
        self._weights = np.array(column)
        self._constant = (*_tile(stencil, layout), (0,) * lanes, _matrix(stencil, interval, lanes, dtype), _ghosts(stencil))
        self._sort_readings(parts)
        together = self._domain.size == 1 or blocks == 1 or self._state[0].numel() < WORTH_A_MESSAGE
        self._groups = list(pairwise([0, blocks] if together else [0, blocks // 2, blocks]))

    def _sort_readings(self, parts: Sequence[Readings]) -> None:
        """Readings by blocks, then rows, each part in columns of its own of what is kept."""
        lanes, blocks, rows = self._layout.lanes, self._state.shape[1], self._stencil.cells[0]
        row = self._stencil.strides[0] * self._stencil.basis
        keys = [part.vector // lanes * rows + part.target // row for part in parts]
        self.orders = [torch.argsort(key, stable=True) for key in keys]
        sorted_parts = list(zip(parts, keys, self.orders, strict=True))
        index = [
            (part.target * lanes + part.vector % lanes)[order].numpy().astype(np.uint32) for part, _, order in sorted_parts
        ]
        starts = [torch.searchsorted(key[order], torch.arange(blocks * rows + 1)).numpy() for _, key, order in sorted_parts]
        self._sizes = [len(key) for key in keys]
        # parts start at a full vector; a width that is a power of two would map all orders to one place of the cache
        self._first = np.cumsum([0, *(-(-size // _TOGETHER) * _TOGETHER for size in self._sizes)])
        width = int(self._first[-1]) + _TOGETHER
        self._readings = []
        for block in range(blocks):
            cuts = [cut[block * rows : (block + 1) * rows + 1] for cut in starts]
            here = np.cumsum([0, *(cut[-1] - cut[0] for cut in cuts)])
            local = np.stack([cut - cut[0] + first for cut, first in zip(cuts, here, strict=False)])
            offset = np.array([column + cut[0] - first for column, cut, first in zip(self._first, cuts, here, strict=False)])
            mine = np.concatenate([at[cut[0] : cut[-1]] for at, cut in zip(index, cuts, strict=True)])
            self._readings.append((local, mine, offset))
        self._kept = torch.zeros(orders_kept(self._state.numel(), width), width, dtype=self._state.dtype)

    def sums(self, weights: Sequence[Tensor], diagonals: Sequence[Tensor], terms: int) -> tuple[list[Tensor], Tensor]:
        """``sum_m weights[:, m]`` times the moments of each part, ``[functions, readings]``, and the trace; once.

        ``diagonals``: by which readings enter the trace ``[terms]``.  All float64, the readings as in :attr:`orders`.
        """
        width = self._kept.shape[1]
        even = [np.pad(one.numpy(), ((0, len(one) % 2), (0, 0))) for one in weights]
        sums = [np.zeros((len(one), width)) for one in even]
        signs = [np.zeros(width if bool(one.any()) else 0) for one in diagonals]
        for sign, one, first, size in zip(signs, diagonals, self._first, self._sizes, strict=False):
            sign[first : first + size] = one.numpy() if sign.size else 0.0
        threads = torch.get_num_threads()
        trace, lanes = np.zeros((threads, terms, _TOGETHER)), (0,) * _TOGETHER
        with ThreadPoolExecutor(threads) as pool:
            spread = pool.map if threads > 1 else map
            for first, kept in self._moments(terms, spread):
                orders = kept.view(-1).numpy(), width, len(kept)

                def share(thread: int, first: int = first, orders: tuple[Any, ...] = orders) -> None:
                    for start, size, rows, total, sign in zip(self._first, self._sizes, even, sums, signs, strict=False):
                        vectors = -(-size // _TOGETHER)
                        low, high = (start + vectors * number // threads * _TOGETHER for number in (thread, thread + 1))
                        combine(*orders, low, high, rows, first, total.reshape(-1), sign, trace[thread].reshape(-1), lanes)

                list(spread(share, range(threads)))
        parts = [
            torch.from_numpy(total)[: len(one), start : start + size]
            for total, one, start, size in zip(sums, weights, self._first, self._sizes, strict=False)
        ]
        return parts, torch.from_numpy(trace.sum(axis=(0, 2)))

    def _moments(self, terms: int, spread: Callable[..., Iterable[None]]) -> Iterator[tuple[int, Tensor]]:
        """First order, and all readings of some orders, valid until the next, until ``terms`` are done."""
        for finish in [self._start(group) for group in self._groups]:
            finish()
        self._read_start()
        pending: list[Callable[[], object]] = [_nothing] * len(self._groups)
        for first in range(0, terms, len(self._kept)):
            kept = self._kept[: min(len(self._kept), terms - first)]
            for done, count in self._windows(max(first, 1) - 1, first + len(kept) - 1):
                for number, group in enumerate(self._groups):
                    pending[number]()
                    list(spread(partial(self._advance, done, count, kept[done + 1 - first :]), range(*group)))
                    pending[number] = self._start(group) if done + count + 1 < terms else _nothing
            yield first, kept

    def columns(self) -> Tensor:
        """``sum_m column[m] T_m z`` on the owned sites, ``[owned sites, vectors]``."""
        basis = self._stencil.basis
        owned = self._columns.view(len(self._columns), -1, basis, self._layout.lanes)[:, self._stencil.owned_cells()]
        return owned.permute(1, 2, 0, 3).reshape(owned.shape[1] * basis, -1)[:, : self._vectors]

    def _windows(self, done: int, last: int) -> Iterator[tuple[int, int]]:
        """Orders done before and in each of the windows that lead to ``last``; a rank alone needs no pause in between."""
        longest = last - done if self._domain.size == 1 else self._layout.window
        for first in range(done, last, max(longest, 1)):
            yield first, min(longest, last - first)

    def _start(self, group: tuple[int, int]) -> Callable[[], object]:
        """Send the ghosts of some blocks on their way; a rank alone needs them for the first order only."""
        vectors = self._state[:, slice(*group)]
        field = vectors.view(*vectors.shape[:2], *self._stencil.cells, self._stencil.basis, self._layout.lanes)
        return self._domain.exchange_start(field, self._layout.widths)

    def _read_start(self) -> None:
        """Order 0."""
        for block, (starts, index, offset) in enumerate(self._readings):
            read = self._state[0, block].view(-1)[torch.from_numpy(index.astype(np.int64))]
            for first, last, shift in zip(starts[:, 0], starts[:, -1], offset, strict=True):
                self._kept[0, first + shift : last + shift] = read[first:last]
        if self._weights.size:
            self._columns += self._weights[0] * self._state[0]

    def _advance(self, done: int, count: int, kept: Tensor, block: int) -> None:
        """Orders ``done + 1 ... done + count`` of one block; what they read goes to the first rows of ``kept``."""
        even, odd = (self._state[parity, block].view(-1).numpy() for parity in (0, 1))
        columns, weights = self._columns[block].view(-1).numpy(), self._weights[done + 1 : done + 1 + count]
        read = self._readings[block], kept.view(-1).numpy(), kept.shape[1]
        advance(even, odd, done, count, self._layout.window, *self._constant, *read, columns, weights)


def _nothing() -> None:
    """No exchange is under way."""


def _tile(stencil: Stencil, layout: Layout) -> tuple[tuple[int, ...], bool]:
    """``tile`` and ``alone`` of :func:`compiled.chebyshev.advance`."""
    domain, reach = stencil.domain, stencil.width
    low, cells = layout.widths[0], domain.local_extent[0]
    open_edges = not domain.lattice.periodic[0]
    floor = low if open_edges and domain.owned[0][0] == 0 else 0
    ceiling = low + cells if open_edges and domain.owned[0][1] == domain.lattice.extent[0] else stencil.cells[0]
    edge = reach * sum(stencil.strides[1:])
    beyond = low - layout.window * reach
    tile = (stencil.cells[0], stencil.strides[0], edge, low, low + cells, beyond, floor, ceiling, reach)
    return tile, domain.size == 1


def _ghosts(stencil: Stencil) -> NDArray[np.int64]:
    """Cells of a row that are ghosts on the later axes and no exchange fills, and the cell that each copies, ``[:, 2]``."""
    domain = stencil.domain
    owner, here = np.zeros((), np.int64), np.zeros((), np.int64)
    for axis in range(1, len(stencil.cells)):
        width, cells, (start, _) = stencil.widths[axis], domain.local_extent[axis], domain.owned[axis]
        along = np.arange(stencil.cells[axis])
        inside = (start + along >= width) & (start + along - width < domain.lattice.extent[axis])
        image = width + (along - width) % cells if domain.grid[axis] == 1 else along
        image = image if domain.lattice.periodic[axis] else np.where(inside, along, -1)
        here = here[..., None] + along * stencil.strides[axis]
        owner = np.where((owner[..., None] < 0) | (image < 0), -1, owner[..., None] + image * stencil.strides[axis])
    pairs = np.stack([here.reshape(-1), owner.reshape(-1)], axis=1)
    return np.ascontiguousarray(pairs[pairs[:, 0] != pairs[:, 1]])


def _matrix(stencil: Stencil, interval: Interval, lanes: int, dtype: torch.dtype) -> tuple[Any, ...]:
    """``matrix`` of :func:`compiled.chebyshev.advance`: ``(H - centre) / half_width``."""
    on_site = ((stencil.on_site - interval.centre) / interval.half_width).to(dtype).reshape(-1).numpy()
    hops: list[list[Hop]] = [[hop for hop in stencil.hops if hop.source == b] for b in range(stencil.basis)]
    most = max(1, *map(len, hops))
    hops = [mine + [Hop(b, b, 0, 0.0)] * (most - len(mine)) for b, mine in enumerate(hops)]
    number = np.dtype(on_site.dtype).type
    shifts = tuple(tuple((hop.shift * stencil.basis + hop.target - b) * lanes for hop in mine) for b, mine in enumerate(hops))
    if not any(isinstance(hop.value, Tensor) for hop in stencil.hops):
        values = tuple(tuple(number(float(hop.value) / interval.half_width) for hop in mine) for mine in hops)
        return on_site, shifts, values, None
    table = torch.empty(prod(stencil.cells), stencil.basis, most, dtype=dtype)
    for b, mine in enumerate(hops):
        for place, hop in enumerate(mine):
            table[:, b, place] = hop.value / interval.half_width
    return on_site, shifts, ((number(0),) * most,) * len(hops), table.reshape(-1).numpy()
