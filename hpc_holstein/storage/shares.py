"""Shares of the writing ranks: a few have slabs of the lattice, for files that are not tiny, or each has what it owns."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hpc_holstein.domain.slabs import Box, Redistribution, slab
from hpc_holstein.domain.transport import Transport
from hpc_holstein.interfaces import Domain

CELLS = 2**22
"""Sites from which on, on several ranks, more than one of them writes."""


def writers_of(asked: int, sites: int, ranks: int) -> int:
    """Number of ranks that write: as many as are ``asked`` for and are there, 0: one for each :data:`CELLS`."""
    return min(asked or -(-sites // CELLS), ranks)


class Shares:
    """The cells that this rank writes, ``box``; None if it writes none.  Collective to make and to call."""

    def __init__(self, domain: Domain, transport: Transport, asked: int) -> None:
        extent = domain.lattice.extent
        owned, ranks = transport.allgather(domain.owned), transport.size
        writers = writers_of(asked, domain.lattice.sites, ranks)
        boxes = owned if writers == ranks else _slabs(extent, min(writers, extent[0]), ranks)
        self._move = None if boxes == owned else Redistribution(transport, owned, boxes)
        self.box: Box | None = boxes[transport.rank] if _cells(boxes[transport.rank]) else None

    def __call__(self, owned: torch.Tensor) -> torch.Tensor:
        """``[*cells of the tile, ...] -> [*cells of the box, ...]`` in the memory of the host, empty where there is no box."""
        field = owned.detach()
        return (field if self._move is None else self._move(field)).to("cpu", copy=self._move is None)


def _slabs(extent: Sequence[int], writers: int, ranks: int) -> list[Box]:
    """A box for each rank; those that write are spread out."""
    boxes: list[Box] = [tuple((0, 0) for _ in extent)] * ranks
    for writer in range(writers):
        boxes[writer * ranks // writers] = slab(extent, 0, writer, writers)
    return boxes


def _cells(box: Box) -> bool:
    return all(stop > start for start, stop in box)
