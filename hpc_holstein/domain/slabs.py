"""Fourier transforms of fields that no rank holds whole: each rank transforms complete lines, and slabs change hands between.

    tiles --(exchange)--> rows, all columns: transform along them --(exchange)--> columns, all rows: transform along these

Rank ``r`` of ``R`` holds the rows ``[r Y / R, (r + 1) Y / R)`` and likewise of the columns; there may be none.  On a CPU each
line is transformed by itself, so that the bits of the result do not depend on the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpc_holstein.domain.transport import Message, Transport
from hpc_holstein.interfaces import Domain

Box = tuple[tuple[int, int], ...]
"""``[start, stop)`` of cells along each axis."""


class Redistribution:
    """Moves a field from one way of dealing its cells to the ranks to another; ``source`` and ``target``: a box a rank."""

    def __init__(self, transport: Transport, source: Sequence[Box], target: Sequence[Box]) -> None:
        self._transport = transport
        rank, size = transport.rank, transport.size
        self._shape = tuple(stop - start for start, stop in target[rank])
        self._peers = []  # who gets what part of ours, who gives what part of what will be ours
        for step in range(size):
            dest, giver = (rank + step) % size, (rank - step) % size
            out, into = _overlap(source[rank], target[dest]), _overlap(source[giver], target[rank])
            self._peers.append((dest, _within(out, source[rank]), giver, _within(into, target[rank])))

    def __call__(self, owned: Tensor) -> Tensor:
        """``[*cells of the source box, ...] -> [*cells of the target box, ...]``; collective."""
        found = owned.new_zeros((*self._shape, *owned.shape[len(self._shape) :]))  # where nobody has anything, too
        nothing = owned.new_empty(0)
        (_, out, _, into), *others = self._peers
        if out is not None and into is not None:
            found[into] = owned[out]
        messages = []
        for dest, out, giver, into in others:
            send = nothing if out is None else owned[out].contiguous()
            recv = nothing if into is None else torch.empty_like(found[into], memory_format=torch.contiguous_format)
            messages.append(Message(None if out is None else dest, send, None if into is None else giver, recv))
        self._transport.exchange(messages)
        for (_, _, _, into), message in zip(others, messages, strict=True):
            if into is not None:
                found[into] = message.recv
        return found


class SlabTransform:
    """Discrete Fourier transform of a scalar field on the tiles of ``domain``, over all cell axes; collective.

    extent   of the lattice, a chain is one row, which one rank has; twice as long, less one, along open axes, with zeros
    rows     the box of the first axis that this rank has in :meth:`inverse`
    columns  the box of the last frequency that it has in :meth:`forward`; of real fields the lower half, ``X // 2 + 1``
    weights  how often each of these columns counts in a sum over all frequencies, ``[columns]``
    """

    def __init__(self, domain: Domain, transport: Transport, real: bool) -> None:
        row = (1,) if len(domain.lattice.extent) == 1 else ()
        axes = zip(domain.lattice.extent, domain.lattice.periodic, strict=True)
        self.extent, self._real = (*row, *(cells if closed else 2 * cells - 1 for cells, closed in axes)), real
        last = self.extent[-1]
        frequencies = last // 2 + 1 if real else last
        spectrum = (*self.extent[:-1], frequencies)
        tile = (*((0, 1) for _ in row), *domain.owned)
        self._tile = tuple(stop - start for start, stop in tile)
        slabs = [slab(self.extent, 0, rank, domain.size) for rank in range(domain.size)]
        lines = [slab(spectrum, 0, rank, domain.size) for rank in range(domain.size)]
        columns = [slab(spectrum, -1, rank, domain.size) for rank in range(domain.size)]
        self._to_rows = Redistribution(transport, transport.allgather(tile), slabs)
        self._to_columns = Redistribution(transport, lines, columns)
        self._back = Redistribution(transport, columns, lines)
        self.rows, self.columns = slabs[domain.rank][0], columns[domain.rank][-1]
        number = torch.arange(*self.columns, device=domain.device)
        single = (number == 0) | (2 * number == last) if real else torch.ones_like(number, dtype=torch.bool)
        self.weights = 2.0 - single.double()

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of a field in :meth:`inverse`."""
        return (self.rows[1] - self.rows[0], *self.extent[1:])

    def forward(self, tile: Tensor) -> Tensor:
        """``sum_r f(r) exp(-i q.r)``: ``[*cells] -> [*extent but the last, columns]``, complex."""
        field = self._to_rows(tile.reshape(self._tile))
        axes = range(1, len(self.extent))
        field = _along(axes[-1], "rfft" if self._real else "fft", field)
        for axis in axes[:-1]:
            field = _along(axis, "fft", field)
        return _along(0, "fft", self._to_columns(field))

    def inverse(self, spectrum: Tensor) -> Tensor:
        """The field ``[rows, *extent but the first]`` of a spectrum as :meth:`forward` gives it; real for real fields."""
        field = self._back(_along(0, "ifft", spectrum))
        axes = range(1, len(self.extent))
        for axis in axes[:-1]:
            field = _along(axis, "ifft", field)
        return _along(axes[-1], "irfft" if self._real else "ifft", field, self.extent[-1])


def _along(axis: int, transform: str, field: Tensor, cells: int | None = None) -> Tensor:
    """One-dimensional transforms along ``axis``; NumPy does every line alike, whatever their number."""
    if prod(field.shape) == 0:
        shape = [*field.shape]
        shape[axis] = cells or (shape[axis] // 2 + 1 if transform == "rfft" else shape[axis])
        return field.new_empty(shape, dtype=torch.float64 if transform == "irfft" else torch.complex128)
    if field.is_cuda:
        return torch.as_tensor(getattr(torch.fft, transform)(field, n=cells, dim=axis))
    found: Any = getattr(np.fft, transform)(field.numpy(), n=cells, axis=axis)
    return torch.from_numpy(found)


def slab(extent: Sequence[int], axis: int, rank: int, size: int) -> Box:
    """Range of the ``extent`` cells that ``rank`` holds, dealt along one axis; empty for some of more ranks than cells."""
    box = [(0, cells) for cells in extent]
    box[axis] = (rank * extent[axis] // size, (rank + 1) * extent[axis] // size)
    return tuple(box)


def _overlap(one: Box, other: Box) -> Box | None:
    """The cells that both hold, None where there are none."""
    both = tuple((max(a[0], b[0]), min(a[1], b[1])) for a, b in zip(one, other, strict=True))
    return both if all(start < stop for start, stop in both) else None


def _within(part: Box | None, box: Box) -> tuple[slice, ...] | None:
    """Index of ``part`` in a field of the cells of ``box``."""
    if part is None:
        return None
    return tuple(slice(start - first, stop - first) for (start, stop), (first, _) in zip(part, box, strict=True))
