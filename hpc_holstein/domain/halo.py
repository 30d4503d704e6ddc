"""The tile of the lattice that one rank owns, its ghost cells, and the exchange that fills them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hpc_holstein.domain import partition
from hpc_holstein.domain._halo_plan import Grid, HaloPlan
from hpc_holstein.domain.transport import Transport
from hpc_holstein.errors import DomainError
from hpc_holstein.interfaces import Lattice


class CartesianDomain:
    """Uneven tiles on a Cartesian rank grid, ranks in row-major order; implements :class:`interfaces.Domain`.

    Fields are ``[*batch, *cells, basis, components]``; *ghosted* ones carry ``width`` more cells on each side of each cell
    axis.  Ghosts beyond an open edge are zero; a periodic axis wraps onto itself, as often as ``width`` asks for, and where
    tiles are thinner than ``width`` ghosts come from ranks beyond the next.  ``grid`` None chooses the grid of smallest halo.
    Raises :class:`DomainError` for a grid that does not fit.
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
        self._layout = Grid(tuple(splits), lattice.periodic, self.rank)
        self._plans: dict[tuple[Any, ...], HaloPlan] = {}

    @property
    def local_extent(self) -> tuple[int, ...]:
        """Owned cells along each axis."""
        return tuple(stop - start for start, stop in self.owned)

    def require_halo(self, width: int) -> None:
        """Raise :class:`DomainError`, on all ranks alike, if a tile is thinner than a halo of ``width`` cells.

        For those who compute on ghosts, or whose work on them would exceed that on the tile; the exchange takes any width.
        """
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

    def exchange(self, ghosted: Tensor, width: int) -> Tensor:
        """Set the ghosts, corners included, to the values of their owners, in place; for gradients use :meth:`pad` instead."""
        self._plan(ghosted, width).start(ghosted)()
        return ghosted

    def exchange_start(self, ghosted: Tensor, widths: Sequence[int]) -> Callable[[], Tensor]:
        """:meth:`exchange` in two parts, to compute on something else between them; one width for each cell axis.

        Posts the messages and returns a function that waits for them, sets the ghosts and gives back ``ghosted``, whose
        owned cells stay as they are until then.  All ranks start their exchanges in the same order.
        """
        finish = self._plan(ghosted, tuple(widths)).start(ghosted)

        def finished() -> Tensor:
            finish()
            return ghosted

        return finished

    @torch.no_grad()
    def accumulate(self, ghosted: Tensor, width: int) -> Tensor:
        """Add the ghosts to their owners and set them to zero, in place: the adjoint of :meth:`exchange`.

        ``<a, exchange b> = <accumulate a, b>`` summed over all ranks, with ``exchange`` as a map of whole ghosted fields.
        """
        self._plan(ghosted, width, adjoint=True).add_back(ghosted)
        return ghosted

    def _plan(self, ghosted: Tensor, widths: tuple[int, ...] | int, adjoint: bool = False) -> HaloPlan:
        """The one for fields like this, with one width for all axes or one for each; the newest are kept."""
        key = ghosted.shape, ghosted.stride(), ghosted.dtype, ghosted.device, widths, adjoint
        plan = self._plans.get(key)
        if plan is None:
            each = (widths,) * len(self.grid) if isinstance(widths, int) else widths
            plan = self._plans[key] = HaloPlan(self._layout, self.transport, ghosted, each, adjoint)
            if len(self._plans) > _PLANS:
                del self._plans[next(iter(self._plans))]
        return plan

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


_PLANS = 32  # kept with their buffers


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
        ghosted = gradient.clone(memory_format=torch.contiguous_format)  # autograd owns the gradient, accumulate works in place
        return ctx.domain.crop(ctx.domain.accumulate(ghosted, ctx.width), ctx.width), None, None
