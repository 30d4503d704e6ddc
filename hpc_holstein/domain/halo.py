"""The tile of the lattice that one rank owns, its ghost cells, and the exchange that fills them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hpc_holstein.domain import partition
from hpc_holstein.domain.transport import Message, Transport
from hpc_holstein.errors import DomainError
from hpc_holstein.interfaces import Lattice


class CartesianDomain:
    """Uneven tiles on a Cartesian rank grid, ranks in row-major order; implements :class:`interfaces.Domain`.

    Fields are ``[*batch, *cells, basis, components]``; *ghosted* ones carry ``width`` more cells on each side of each cell
    axis.  Ghosts beyond an open edge are zero; a periodic axis that one rank holds alone wraps onto itself, as often as
    ``width`` asks for.  ``grid`` None chooses the grid of smallest halo.  Raises :class:`DomainError` for a grid
    that does not fit, and, from every method that takes ``width``, for tiles thinner than it.
    """

    def __init__(
        self,
        lattice: Lattice,
        transport: Transport,
        grid: tuple[int, ...] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.lattice = lattice
        self.transport = transport
        self.rank, self.size = transport.rank, transport.size
        extent = lattice.extent
        self.grid = partition.choose_grid(self.size, extent) if grid is None else partition.check_grid(grid, self.size, extent)
        self.device = torch.device(device)
        splits = [partition.split(cells, parts) for cells, parts in zip(extent, self.grid, strict=True)]
        self._tiles = list(product(*splits))  # row-major, as ranks are
        self.owned = self._tiles[self.rank]
        self._neighbours = [(self._neighbour(axis, -1), self._neighbour(axis, +1)) for axis in range(len(self.grid))]

    @property
    def local_extent(self) -> tuple[int, ...]:
        """Owned cells along each axis."""
        return tuple(stop - start for start, stop in self.owned)

    def require_halo(self, width: int) -> None:
        """Raise :class:`DomainError`, on all ranks alike, if a tile is thinner than a halo of ``width`` cells."""
        partition.check_halo(self.grid, self.lattice.extent, width)

    def global_cells(self) -> Tensor:
        """Row-major global index of each owned cell, int64 ``[*local_extent]``."""
        index = torch.zeros((), dtype=torch.int64, device=self.device)
        for (start, stop), cells in zip(self.owned, self.lattice.extent, strict=True):
            index = index.unsqueeze(-1) * cells + torch.arange(start, stop, device=self.device)
        return index

    def pad(self, owned: Tensor, width: int) -> Tensor:
        """``owned`` with ``width`` ghost cells around it; differentiable, the backward pass adds ghosts to their owners."""
        return _Pad.apply(owned, self, width)

    def crop(self, ghosted: Tensor, width: int) -> Tensor:
        """View of the owned cells of a ghosted field."""
        for axis in range(len(self.grid)):
            ghosted = ghosted.narrow(self._dim(ghosted, axis), width, self.local_extent[axis])
        return ghosted

    @torch.no_grad()
    def exchange(self, ghosted: Tensor, width: int) -> Tensor:
        """Set the ghosts to the values of their owners, in place; for gradients use :meth:`pad` instead.

        Axis by axis, each including the ghosts of the axes before it, which brings the corners along.
        """
        self.require_halo(width)
        if width > 0:
            for axis in range(len(self.grid)):
                self._fill(self._crop_after(ghosted, axis, width), axis, width)
        return ghosted

    @torch.no_grad()
    def exchange_start(self, ghosted: Tensor, widths: Sequence[int]) -> Callable[[], Tensor]:
        """:meth:`exchange` in two parts, to compute on something else between them; one width for each cell axis.

        Posts the messages and returns a function that waits for them, sets the ghosts and gives back ``ghosted``, whose
        owned cells stay as they are until then.  All ranks start and finish their exchanges in the same order.  Corners
        travel in messages of their own, so that none depends on another.
        """
        self.require_halo(max((w for w, parts in zip(widths, self.grid, strict=True) if parts > 1), default=0))
        regions = self._regions(ghosted, widths)
        messages = [
            Message(
                dest,
                edge.contiguous(),
                source,
                ghost if ghost.is_contiguous() else torch.empty_like(ghost, memory_format=_PACKED),
            )
            for source, ghost, dest, edge in regions
        ]
        wait = self.transport.exchange_start(messages)

        def finish() -> Tensor:
            wait()
            for (source, ghost, _, _), message in zip(regions, messages, strict=True):
                if source is None:
                    ghost.zero_()
                elif message.recv is not ghost:
                    ghost.copy_(message.recv)
            for axis, width in enumerate(widths):
                if self.grid[axis] == 1:
                    self._fill_alone(self._between(ghosted, axis, widths), axis, width)
            return ghosted

        return finish

    @torch.no_grad()
    def accumulate(self, ghosted: Tensor, width: int) -> Tensor:
        """Add the ghosts to their owners and set them to zero, in place: the adjoint of :meth:`exchange`.

        ``<a, exchange b> = <accumulate a, b>`` summed over all ranks, with ``exchange`` as a map of whole ghosted fields.
        """
        self.require_halo(width)
        if width > 0:
            for axis in reversed(range(len(self.grid))):
                self._fold(self._crop_after(ghosted, axis, width), axis, width)
        return ghosted

    def allsum(self, value: Tensor) -> Tensor:
        """Sum over ranks in rank order, the same bits on all of them; without gradient."""
        return self.transport.allsum(value)

    def gather(self, owned: Tensor) -> Tensor | None:
        """The global field ``[*batch, *extent, basis, components]`` on rank 0, device of ``owned``; None elsewhere."""
        if self.size == 1:
            return owned.detach().clone()
        tiles = self.transport.gather(owned.detach().cpu().contiguous().numpy())
        if tiles is None:
            return None
        global_field = np.empty(self._global_shape(owned), dtype=tiles[0].dtype)
        for rank, tile in enumerate(tiles):
            global_field[self._region(rank)] = tile
        return torch.from_numpy(global_field).to(owned.device)

    def scatter(self, global_field: Tensor | None, like: Tensor) -> Tensor:
        """The owned part of the field ``[*batch, *extent, basis, components]`` that rank 0 holds.

        ``like`` is any field of the owned shape: its dtype and device are those of the result.
        """
        tiles = None
        if global_field is not None and self.rank == 0:
            if tuple(global_field.shape) != self._global_shape(like):
                raise DomainError(
                    f"a field of shape {list(global_field.shape)} cannot be scattered over the "
                    f"{partition.shown(self.lattice.extent)} lattice: give shape {list(self._global_shape(like))}"
                )
            array = global_field.detach().cpu().numpy()
            tiles = [np.ascontiguousarray(array[self._region(rank)]) for rank in range(self.size)]
        return torch.tensor(self.transport.scatter(tiles), dtype=like.dtype, device=like.device)

    def _dim(self, field: Tensor, axis: int) -> int:
        """Tensor dimension of a cell axis: the last two are basis and components."""
        return field.ndim - 2 - len(self.grid) + axis

    def _region(self, rank: int) -> tuple[Any, ...]:
        """Index of the tile of ``rank`` in a global field."""
        return (..., *(slice(start, stop) for start, stop in self._tiles[rank]), slice(None), slice(None))

    def _global_shape(self, owned: Tensor) -> tuple[int, ...]:
        cells = len(self.grid)
        return (*owned.shape[: -2 - cells], *self.lattice.extent, *owned.shape[-2:])

    def _neighbour(self, axis: int, step: int) -> int | None:
        """Rank of the next tile along an axis; None beyond an open edge."""
        stride = prod(self.grid[axis + 1 :])
        parts = self.grid[axis]
        here = self.rank // stride % parts
        there = here + step
        if not self.lattice.periodic[axis] and not 0 <= there < parts:
            return None
        return self.rank + (there % parts - here) * stride

    def _crop_after(self, ghosted: Tensor, axis: int, width: int) -> Tensor:
        """View without the ghosts of the axes after ``axis``."""
        for later in range(axis + 1, len(self.grid)):
            ghosted = ghosted.narrow(self._dim(ghosted, later), width, self.local_extent[later])
        return ghosted

    def _regions(self, ghosted: Tensor, widths: Sequence[int]) -> list[tuple[int | None, Tensor, int | None, Tensor]]:
        """For each side and corner of the axes that are split: rank that fills the ghosts there, their view, rank that reads
        what we own on the opposite side, its view.

        Other axes are left whole, with ghosts that are not right yet: slabs are contiguous then, in pieces if they are large.
        """
        split = [axis for axis, parts in enumerate(self.grid) if parts > 1 and widths[axis] > 0]
        regions = []
        for side in product((-1, 0, 1), repeat=len(split)):
            if not any(side):
                continue
            steps = dict(zip(split, side, strict=True))
            ghost = edge = ghosted
            for axis, step in steps.items():
                width, cells, dim = widths[axis], self.local_extent[axis], self._dim(ghosted, axis)
                ghost = ghost.narrow(dim, (0, width, width + cells)[step + 1], width if step else cells)
                edge = edge.narrow(dim, (cells, width, width)[step + 1], width if step else cells)
            source, dest = self._rank_at(steps), self._rank_at({axis: -step for axis, step in steps.items()})
            regions += [
                (source, a, dest, b) for a, b in zip(_pieces(ghost, len(self.grid)), _pieces(edge, len(self.grid)), strict=True)
            ]
        return regions

    def _rank_at(self, steps: dict[int, int]) -> int | None:
        """Rank of the tile that lies so many tiles away along some axes; None beyond an open edge."""
        ranks = [self._neighbour(axis, step) for axis, step in steps.items()]
        return None if None in ranks else self.rank + sum(rank - self.rank for rank in ranks if rank is not None)

    def _between(self, ghosted: Tensor, axis: int, widths: Sequence[int]) -> Tensor:
        """View without the ghosts of the later axes that this rank holds alone, which are not filled yet."""
        for later in range(axis + 1, len(self.grid)):
            if self.grid[later] == 1:
                ghosted = ghosted.narrow(self._dim(ghosted, later), widths[later], self.local_extent[later])
        return ghosted

    def _fill_alone(self, view: Tensor, axis: int, width: int) -> None:
        """Ghosts of an axis that this rank holds alone: periodic images, or zero."""
        dim = self._dim(view, axis)
        for ghost, owner, cells in _images(self.local_extent[axis], width):
            ghosts = view.narrow(dim, ghost, cells)
            ghosts.copy_(view.narrow(dim, owner, cells)) if self.lattice.periodic[axis] else ghosts.zero_()

    def _fill(self, view: Tensor, axis: int, width: int) -> None:
        """Ghosts of one axis := owners."""
        dim = self._dim(view, axis)
        if self.grid[axis] == 1 and self.lattice.periodic[axis]:
            for ghost, owner, cells in _images(self.local_extent[axis], width):
                view.narrow(dim, ghost, cells).copy_(view.narrow(dim, owner, cells))
            return
        messages = []
        for source, _, dest, edge in self._sides(axis, width):
            slab = view.narrow(dim, edge, width)
            messages.append(Message(dest, slab.contiguous(), source, torch.empty_like(slab, memory_format=_PACKED)))
        self.transport.exchange(messages)
        for (source, ghost, _, _), message in zip(self._sides(axis, width), messages, strict=True):
            ghosts = view.narrow(dim, ghost, width)
            ghosts.zero_() if source is None else ghosts.copy_(message.recv)

    def _fold(self, view: Tensor, axis: int, width: int) -> None:
        """Owners += ghosts of one axis, then ghosts := 0."""
        dim = self._dim(view, axis)
        if self.grid[axis] == 1 and self.lattice.periodic[axis]:
            for ghost, owner, cells in _images(self.local_extent[axis], width):
                view.narrow(dim, owner, cells).add_(view.narrow(dim, ghost, cells))
                view.narrow(dim, ghost, cells).zero_()
            return
        messages = []
        for source, ghost, dest, _ in self._sides(axis, width):
            slab = view.narrow(dim, ghost, width)
            messages.append(Message(source, slab.contiguous(), dest, torch.empty_like(slab, memory_format=_PACKED)))
        self.transport.exchange(messages)
        for (_, ghost, dest, edge), message in zip(self._sides(axis, width), messages, strict=True):
            if dest is not None:
                view.narrow(dim, edge, width).add_(message.recv)
            view.narrow(dim, ghost, width).zero_()

    def _sides(self, axis: int, width: int) -> tuple[tuple[int | None, int, int | None, int], ...]:
        """Both directions of travel: rank that fills our ghosts, their start; rank that reads our edge, its start."""
        below, above = self._neighbours[axis]
        cells = self.local_extent[axis]
        return ((below, 0, above, cells), (above, width + cells, below, width))


_PACKED = torch.contiguous_format
_PIECE = 1 << 17  # bytes of a slab that is worth a message of its own


def _pieces(slab: Tensor, cells: int) -> list[Tensor]:
    """The slabs of each batch member if they are contiguous and large, to travel without a copy; else the whole."""
    members = [slab[index] for index in product(*map(range, slab.shape[: -2 - cells]))]
    return members if members[0].is_contiguous() and members[0].nbytes >= _PIECE else [slab]


def _images(cells: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Ghost start, owner start and length of the periodic images of ``cells`` owned cells, nearest first."""
    for beyond in range(0, width, cells):
        length = min(cells, width - beyond)
        yield width - beyond - length, width + cells - length, length
        yield width + cells + beyond, width, length


class _Pad(torch.autograd.Function):
    """Ghosted copy of an owned field; the backward pass is the adjoint exchange."""

    @staticmethod
    def forward(ctx: Any, owned: Tensor, domain: CartesianDomain, width: int) -> Tensor:
        ctx.domain, ctx.width = domain, width
        cells = len(domain.grid)
        ghosted_cells = [n + 2 * width for n in domain.local_extent]
        ghosted = owned.new_empty((*owned.shape[: -2 - cells], *ghosted_cells, *owned.shape[-2:]))
        domain.crop(ghosted, width).copy_(owned)
        return domain.exchange(ghosted, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ghosted = gradient.clone(memory_format=_PACKED)  # autograd owns the gradient, accumulate works in place
        return ctx.domain.crop(ctx.domain.accumulate(ghosted, ctx.width), ctx.width), None, None
