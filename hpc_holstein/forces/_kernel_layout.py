"""Layout of the vectors of the compiled recurrence: how many at once, orders between two exchanges, width of the ghost zone.

All ranks choose alike, from the lattice and the rank grid alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import prod

import torch

from hpc_holstein.interfaces import Domain

_LINE = 64  # bytes of a cache line: those of one site of a block
_CACHE = 1 << 20  # bytes that a core has to itself; rows in flight should fit
_LONGEST = 16  # orders of a window, a power of two
_REDUNDANT = 0.06  # part of the work that is done twice by a rank alone, at most
_RELOAD = 2.0  # what rows cost to come from memory, in orders
_VECTORS = 32  # that are held at once, as a guess
_ORDERS = 64  # moments that are combined by one matrix product
WORTH_A_MESSAGE = 1 << 17  # numbers that advance by an order in about the time that a message takes to start
_STENCIL, _READING = 100, 64  # bytes of a site: energies, coordinates, results; and of a reading: where it is, where it goes
_GPU_NUMBERS, _GPU_FEWEST = 1 << 26, 8  # in a block of vectors, and vectors in it


@dataclass(frozen=True)
class Layout:
    """``lanes`` V of a block, ``window`` orders between two exchanges, ghost cells ``widths`` on each cell axis.

    ``fast``: vectors held at once that keep all threads busy and hide the messages.
    """

    lanes: int
    window: int
    widths: tuple[int, ...]
    fast: int

    @classmethod
    def of(cls, domain: Domain, reach: int, beyond: int, dtype: torch.dtype) -> Layout:
        """The longest window whose rows in flight stay in the cache, without much work done twice.

        ``beyond``: cells next to the owned ones that are read as well.
        """
        grid, extent, basis = domain.grid, domain.lattice.extent, len(domain.lattice.basis)
        tile = [-(-cells // parts) for cells, parts in zip(extent, grid, strict=True)]
        if domain.device.type != "cpu":
            sites = basis * prod(n + 2 * reach for n in tile)
            return cls(1, 1, (reach,) * len(tile), max(_GPU_FEWEST, _GPU_NUMBERS // sites))
        lanes = _LINE // dtype.itemsize
        blocks = max(torch.get_num_threads(), -(-WORTH_A_MESSAGE // (prod(tile) * basis * lanes)))
        window = _window(domain, tile, reach, beyond)
        deep = window * reach + beyond
        widths = tuple(deep if axis == 0 or parts > 1 else max(reach, beyond) for axis, parts in enumerate(grid))
        return cls(lanes, window, widths, lanes * blocks * (1 if domain.size == 1 else 2))


def _window(domain: Domain, tile: list[int], reach: int, beyond: int) -> int:
    """Orders between two exchanges, a power of two: few messages, rows in flight in the cache, little work done twice."""
    if reach == 0:
        return 1
    basis = len(domain.lattice.basis)
    row = 2 * _LINE * basis * prod(n + 2 * reach for n in tile[1:])  # bytes, of two orders
    fits = row * tile[0] <= _CACHE
    longest = _LONGEST if fits else max(1.0, min(_LONGEST, _CACHE / (row * reach) - 2))
    if domain.size == 1:
        return 1 if fits else _power(min(longest, 1 + _REDUNDANT * tile[0] / reach))
    pairs = list(zip(domain.lattice.extent, domain.grid, strict=True))
    thinnest = min(cells // parts for cells, parts in pairs if parts > 1)
    twice = sum(reach * parts / cells for axis, (cells, parts) in enumerate(pairs) if parts > 1 or axis == 0)
    messages = WORTH_A_MESSAGE / (prod(tile) * basis * _VECTORS)  # what they cost, in orders
    saved = messages + (0.0 if fits else _RELOAD)
    longest = _power(min(longest, (thinnest - beyond) / reach))
    return min((1 << n for n in range(longest.bit_length())), key=lambda window: saved / window + (window - 1) * twice)


def _power(number: float) -> int:
    """The largest power of two that is not above a number, at least 1."""
    return 1 << max(0, int(math.log2(max(number, 1.0))))


def orders_kept(numbers: int, readings: int) -> int:
    """Orders that are read before they are combined: few enough not to take more memory than the vectors, of ``numbers``."""
    return min(_ORDERS, max(_LONGEST, numbers // max(readings, 1) // _LONGEST * _LONGEST))


@dataclass(frozen=True)
class SweepMemory:
    """Arrays that a sweep keeps beside its vectors, for one state on one rank.

    entries    of ``rho`` that are read of each cell; ``functions`` that are evaluated there, ``checks`` of each site
    columns    vectors that are kept whole, in another sweep
    colours    vectors that share the readings
    """

    entries: int
    functions: int
    checks: int
    columns: int
    colours: int

    def bytes(self, domain: Domain, layout: Layout, dtype: torch.dtype, block: int) -> float:
        """Bytes of the largest tile with ``block`` vectors held at once."""
        tile = [-(-cells // parts) for cells, parts in zip(domain.lattice.extent, domain.grid, strict=True)]
        basis = len(domain.lattice.basis)
        owned = basis * prod(tile)
        ghosted = basis * prod(cells + 2 * width for cells, width in zip(tile, layout.widths, strict=True))
        held = -(-min(block, self.colours) // layout.lanes) * layout.lanes
        copies = 2 if domain.device.type == "cpu" else 3  # on a GPU the on-site energies as well
        vectors = copies * ghosted * held * dtype.itemsize
        read = owned * (self.entries / basis + (1 if self.checks else 0)) * min(held / self.colours, 1.0)
        kept = orders_kept(2 * ghosted * held, math.ceil(read)) * read * dtype.itemsize
        indices = _READING * owned * (self.entries / basis + (1 if self.checks else 0))
        sums = 8 * (owned * (self.entries / basis * self.functions + self.checks) + read * max(self.functions, self.checks))
        whole = dtype.itemsize * self.columns * (owned + ghosted * min(held / max(self.columns, 1), 1.0))
        return _STENCIL * ghosted + max(vectors + kept + indices + sums, vectors + whole if self.columns else 0.0)
