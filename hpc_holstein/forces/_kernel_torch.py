"""Readings of probe vectors in the Chebyshev recurrence by tensor operations, for GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hpc_holstein.forces._chebyshev import Interval
from hpc_holstein.forces._probing import Readings
from hpc_holstein.forces._stencil import Stencil, signs

_ORDERS = 64  # moments that are combined by one matrix product


class TorchRecurrence:
    """Moments of probe vectors that are held at once, and one function of the matrix applied to them whole.

    Vectors start where the first of ``parts`` does.  ``orders``: in which the readings of each part come in the moments.
    ``column``: coefficients of the function, or empty.
    """

    def __init__(
        self,
        stencil: Stencil,
        interval: Interval,
        dtype: torch.dtype,
        parts: Sequence[Readings],
        column: list[float],
    ) -> None:
        self._stencil, self._interval, self._column = stencil, interval, column
        self.orders = [torch.arange(len(part.vector), device=part.vector.device) for part in parts]
        self._index = torch.cat([part.target * parts[0].vectors + part.vector for part in parts])
        self._sizes = [len(part.vector) for part in parts]
        self._start = torch.zeros(stencil.sites, parts[0].vectors, dtype=dtype, device=self._index.device)
        self._start[parts[0].source, parts[0].vector] = parts[0].sign.to(dtype)
        self._sum = torch.zeros_like(self._start) if column else self._start.new_empty((0, parts[0].vectors))

    def sums(self, weights: Sequence[Tensor], diagonals: Sequence[Tensor], terms: int) -> tuple[list[Tensor], Tensor]:
        """``sum_m weights[:, m]`` times the moments of each part, ``[functions, readings]``, and the trace; once.

        ``diagonals``: by which readings enter the trace ``[terms]``.  All float64, the readings as in :attr:`orders`.
        """
        sums = [rows.new_zeros(len(rows), size) for rows, size in zip(weights, self._sizes, strict=True)]
        trace = weights[0].new_zeros(terms)
        for first, moments in self._moments(terms):
            orders = slice(first, first + len(moments))
            for total, rows, diagonal, part in zip(sums, weights, diagonals, moments.split(self._sizes, dim=1), strict=True):
                read = part.double()
                total.addmm_(rows[:, orders], read)
                trace[orders] += read @ diagonal
        return sums, trace

    def _moments(self, terms: int) -> Iterator[tuple[int, Tensor]]:
        """First order, and all readings of some orders ``[orders, readings]``, until ``terms`` are done."""
        kept = self._start.new_empty((_ORDERS, len(self._index)))
        sign = signs(_ORDERS).to(kept)[:, None]  # four orders are a period
        interval = self._interval
        for m, block in enumerate(self._stencil.recurrence(self._start, interval.centre, interval.half_width, terms)):
            torch.index_select(block.view(-1), 0, self._index, out=kept[m % _ORDERS])
            if self._column:
                self._sum.add_(block, alpha=self._column[m] * float(sign[m % _ORDERS]))
            if (m + 1) % _ORDERS == 0 or m + 1 == terms:
                count = m % _ORDERS + 1
                yield m + 1 - count, kept[:count] * sign[:count]

    def columns(self) -> Tensor:
        """``sum_m column[m] T_m z`` on the owned sites, ``[owned sites, vectors]``."""
        owned = self._sum.view(-1, self._stencil.basis, self._sum.shape[1])[self._stencil.owned_cells()]
        return owned.flatten(0, 1)
