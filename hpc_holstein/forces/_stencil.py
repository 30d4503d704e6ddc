"""``H(q)`` of one state as a stencil on the ghosted cells of a rank, its spectral bounds, and the Chebyshev recurrence.

Vectors are the last axis: a block is ``[ghosted sites, vectors]``, so that a bond is a shift of one contiguous array and
every operation of the recurrence runs in place over memory in order.  Ghosted sites are numbered row-major, cells then basis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from hpc_holstein.errors import SpectrumError
from hpc_holstein.forces._elements import matrix_elements
from hpc_holstein.interfaces import Bond, Domain, Hamiltonian

_SWEEPS = 30  # of the bounds: within 0.5 % of the spectrum in hot and ordered states
_CHUNK = {"cpu": 1 << 17, "cuda": 1 << 62}  # numbers of one operation: those that follow find them in the cache


@dataclass(frozen=True)
class Hop:
    """``(H v)[source] += value * v[target]`` in cells ``shift`` apart; ``value`` a number or ``[ghosted cells]``."""

    source: int
    target: int
    shift: int
    value: float | Tensor

    def scaled(self, factor: float, dtype: torch.dtype) -> Hop:
        value: float | Tensor = self.value * factor
        return Hop(self.source, self.target, self.shift, value.to(dtype) if isinstance(value, Tensor) else value)

    def magnitude(self) -> Hop:
        return Hop(
            self.source, self.target, self.shift, self.value.abs() if isinstance(self.value, Tensor) else abs(self.value)
        )


_Update = tuple[Tensor, Tensor, Tensor | float]


class Stencil:
    """Matrix elements of ``H(q)`` for one state ``q [*cells, basis, components]`` on the ghosted cells of one rank.

    ``widths``: ghost cells on each cell axis, by default as many as ``H`` reaches over.  Collective.  Raises
    :class:`SpectrumError` where ``q`` holds NaN or infinity.
    """

    def __init__(self, hamiltonian: Hamiltonian, domain: Domain, q: Tensor, widths: tuple[int, ...] | None = None) -> None:
        self.domain, self.width = domain, hamiltonian.reach
        self.widths = (self.width,) * len(domain.local_extent) if widths is None else widths
        entries = matrix_elements(hamiltonian, domain, q.double())
        if float(domain.allsum((~torch.isfinite(entries)).sum().double().cpu())) > 0:
            raise SpectrumError(
                "the coordinates hold NaN or infinity, so H(q) has no spectrum: check the initial state, or reduce dt"
            )
        self.basis = len(domain.lattice.basis)
        self.cells = tuple(n + 2 * width for n, width in zip(domain.local_extent, self.widths, strict=True))
        self.strides = tuple(prod(self.cells[axis + 1 :]) for axis in range(len(self.cells)))
        self.sites = prod(self.cells) * self.basis
        # all owned cells lie in [first, end) of the ghosted ones
        self._first = sum(width * stride for width, stride in zip(self.widths, self.strides, strict=True))
        self._end = prod(self.cells) - self._first
        ghosted = self._padded(entries).reshape(prod(self.cells), -1)
        exists = self._padded(torch.ones_like(entries[..., :1])).reshape(-1) > 0
        self.on_site = torch.zeros(prod(self.cells), self.basis, dtype=torch.float64, device=q.device)
        self.hops: list[Hop] = []
        for number, bond in enumerate(hamiltonian.pattern):
            if bond.source == bond.target and not any(bond.offset):
                self.on_site[:, bond.source] += ghosted[:, number]
            else:
                self.hops += self._both_ways(bond, ghosted[:, number], exists)

    def _padded(self, owned: Tensor) -> Tensor:
        """``[*owned cells, numbers]`` with ghosts."""
        ghosted = owned.new_zeros(*self.cells, owned.shape[-1], 1)
        inside = ghosted
        for axis, (width, cells) in enumerate(zip(self.widths, self.domain.local_extent, strict=True)):
            inside = inside.narrow(axis, width, cells)
        inside.copy_(owned.unsqueeze(-1))
        return self.domain.exchange_start(ghosted, self.widths)()

    def shift(self, bond: Bond) -> int:
        """Ghosted cells from the start of a bond to its end."""
        return sum(step * stride for step, stride in zip(bond.offset, self.strides, strict=True))

    def _both_ways(self, bond: Bond, values: Tensor, exists: Tensor) -> list[Hop]:
        """A bond and its transpose; one number where the bond is the same everywhere."""
        shift = self.shift(bond)
        inside = values[exists]
        forward: float | Tensor
        backward: float | Tensor
        if bool((inside == inside[0]).all()):
            forward = backward = float(inside[0])
        else:
            forward, backward = values, values.roll(shift)  # what wraps around are ghosts that no owned cell reads
        return [Hop(bond.source, bond.target, shift, forward), Hop(bond.target, bond.source, -shift, backward)]

    def owned_cells(self) -> Tensor:
        """Ghosted number of each owned cell, ``[local cells]`` row-major."""
        index = torch.zeros((), dtype=torch.int64, device=self.domain.device)
        for extent, width, stride in zip(self.domain.local_extent, self.widths, self.strides, strict=True):
            index = index.unsqueeze(-1) + (torch.arange(extent, device=self.domain.device) + width) * stride
        return index.reshape(-1)

    def bounds(self) -> tuple[float, float]:
        """Energies that no eigenvalue exceeds, below and above.

        ``max_i (A v)_i / v_i`` with the matrix of magnitudes ``A = diag(e) + |T|`` bounds the spectrum from above for every
        positive ``v`` (Collatz, Wielandt); ``v = 1`` are the circles of Gershgorin, and the iterates of
        ``(lambda - A) v = 1`` tighten it.  The same for ``-H`` gives the lower bound.
        """
        rows = self.owned_cells()
        diagonal = torch.stack([self.on_site, -self.on_site], dim=-1)
        hops = [hop.magnitude() for hop in self.hops]
        v = self._exchanged(torch.ones_like(diagonal))
        best = torch.full((2,), torch.inf, dtype=torch.float64)
        for _ in range(_SWEEPS):
            reached = torch.zeros_like(v)
            _apply(self._updates(reached, v, None, hops), 1.0)
            ratio = (diagonal + reached / v)[rows].amax(dim=(0, 1))
            best = torch.minimum(best, all_max(ratio.cpu(), self.domain))
            gap = 1e-6 * float(best.sum()) + 1e-9
            v = self._exchanged((1 + reached) / (best.to(v.device) + gap - diagonal).clamp_min(gap))
        return -float(best[1]), float(best[0])

    def _updates(self, out: Tensor, block: Tensor, on_site: Tensor | None, hops: list[Hop]) -> list[_Update]:
        """Operations that make ``out += factor H block``, ``[ghosted cells, basis, vectors]``, chunk by chunk.

        Made once for many orders, since cutting tensors takes longer than adding short ones.  Leaves ghosts undefined.
        """
        updates: list[_Update] = []
        step = max(1, _CHUNK[out.device.type] // (out.shape[1] * out.shape[2]))
        for first in range(self._first, self._end, step):
            end = min(first + step, self._end)
            if on_site is not None:
                updates.append((out[first:end], block[first:end], on_site[first:end]))
            for hop in hops:
                rows = out[first:end, hop.source]
                neighbours = block[first + hop.shift : end + hop.shift, hop.target]
                value = hop.value[first:end, None] if isinstance(hop.value, Tensor) else hop.value
                updates.append((rows, neighbours, value))
        return updates

    def _exchanged(self, block: Tensor) -> Tensor:
        """Ghosts := owners, in place; ``[ghosted cells, basis, vectors]``."""
        self.domain.exchange_start(block.view(*self.cells, self.basis, -1), self.widths)()
        return block

    def recurrence(self, start: Tensor, centre: float, half_width: float, terms: int) -> Iterator[Tensor]:
        """``s_m T_m((H - centre) / half_width) start`` for ``m < terms`` with the signs ``s`` of :func:`signs`.

        ``start [ghosted sites, vectors]`` is used up; each block that is yielded is valid until the next one.  The signs
        turn ``T_{m+1} = 2 H T_m - T_{m-1}`` into ``prev +- 2 H block``, which runs in place.
        """
        block = self._exchanged(start.view(-1, self.basis, start.shape[-1]))
        on_site = ((self.on_site - centre) / half_width).to(start.dtype)[..., None].expand_as(block).contiguous()
        hops = [hop.scaled(1 / half_width, start.dtype) for hop in self.hops]
        prev = torch.zeros_like(block)
        ahead = self._updates(prev, block, on_site, hops), self._updates(block, prev, on_site, hops)
        for m in range(terms):
            yield (prev if m % 2 else block).view(-1, start.shape[-1])
            if m + 1 < terms:
                _apply(ahead[m % 2], 1.0 if m == 0 else -2.0 if m % 2 else 2.0)
                self._exchanged(block if m % 2 else prev)


def _apply(updates: list[_Update], factor: float) -> None:
    """``out += factor value block`` for each of them, in place."""
    for out, block, value in updates:
        if isinstance(value, Tensor):
            out.addcmul_(block, value, value=factor)
        else:
            out.add_(block, alpha=factor * value)


def signs(terms: int) -> Tensor:
    """Signs ``s_m`` of the blocks of :meth:`Stencil.recurrence`: + + - - + + ..., float64 ``[terms]``."""
    return 1.0 - 2.0 * (torch.arange(terms, dtype=torch.float64).remainder(4) >= 2).double()


def all_max(value: Tensor, domain: Domain) -> Tensor:
    """Largest over the ranks, elementwise, the same on all of them."""
    table = value.new_zeros((domain.size, *value.shape))
    table[domain.rank] = value
    return domain.allsum(table).amax(dim=0)
