"""Partition of the cells among ranks: pure integers, the same on every rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import isqrt, prod

from hpc_holstein.errors import DomainError


def split(extent: int, parts: int) -> tuple[tuple[int, int], ...]:
    """Cut ``extent`` cells into ``parts`` tiles ``[start, stop)`` whose lengths differ by at most one, longer ones first.

    Raises :class:`DomainError` when a tile would be empty.
    """
    if not 1 <= parts <= extent:
        raise DomainError(f"{extent} cells cannot be split over {parts} ranks: use 1 to {extent} ranks along this axis")
    length, longer = divmod(extent, parts)
    starts = [part * length + min(part, longer) for part in range(parts + 1)]
    return tuple(pairwise(starts))


def choose_grid(size: int, extent: Sequence[int], halo: int = 1) -> tuple[int, ...]:
    """Rank grid with ``prod(grid) = size`` whose largest tile has the smallest halo.

    No tile along an axis that is split is thinner than ``halo`` cells.  Among equals the grid
    that splits the slowest array axis wins.  Raises :class:`DomainError` when there is none.
    """
    enough = size <= prod(extent)
    fitting = [grid for grid in _factorizations(size, len(extent)) if _fits(grid, extent, halo)] if enough else []
    if not fitting:
        raise DomainError(
            f"no grid of {size} ranks gives each a tile of {max(halo, 1)} or more cells of the {shown(extent)} lattice: "
            "use fewer ranks or a larger lattice"
        )
    return min(fitting, key=lambda grid: (_surface(grid, extent), tuple(-parts for parts in grid)))


def check_grid(grid: Sequence[int], size: int, extent: Sequence[int]) -> tuple[int, ...]:
    """The rank grid that a user gave, if it holds ``size`` ranks and leaves none without cells; else :class:`DomainError`."""
    if len(grid) != len(extent) or prod(grid) != size or min(grid) < 1:
        raise DomainError(
            f"the rank grid {shown(grid)} does not fit {size} rank(s) and the {shown(extent)} lattice: "
            f"give {len(extent)} positive numbers whose product is {size}, or no grid"
        )
    for axis, (parts, cells) in enumerate(zip(grid, extent, strict=True)):
        if parts > cells:
            raise DomainError(
                f"the rank grid {shown(grid)} puts {parts} ranks on the {cells} cells of axis {axis} of the {shown(extent)} "
                f"lattice: use at most {cells} there, or no grid"
            )
    return tuple(grid)


def check_halo(grid: Sequence[int], extent: Sequence[int], halo: int) -> None:
    """Raise :class:`DomainError` if a tile is thinner than the halo that its neighbour reads; names a grid that works.

    An axis that one rank holds alone takes any halo.  The answer depends on the arguments only, so all ranks agree.
    """
    if _fits(grid, extent, halo):
        return
    axis, tile = min(
        ((axis, cells // parts) for axis, (parts, cells) in enumerate(zip(grid, extent, strict=True)) if parts > 1),
        key=lambda pair: pair[1],
    )
    ranks = prod(grid)
    count = next(  # one rank always fits
        count
        for count in range(ranks, 0, -1)
        if any(_fits(other, extent, halo) for other in _factorizations(count, len(extent)))
    )
    fewer = "" if count == ranks else f", on {count} of the {ranks} ranks"
    raise DomainError(
        f"the halo of {halo} cells is wider than the thinnest tile, {tile} cells along axis {axis} of the {shown(extent)} "
        f"lattice on the rank grid {shown(grid)}: use the rank grid {shown(choose_grid(count, extent, halo))}{fewer}"
    )


def shown(numbers: Sequence[int]) -> str:
    """Extent or grid as users write it, ``200x200``."""
    return "x".join(map(str, numbers))


def _factorizations(size: int, axes: int) -> Iterator[tuple[int, ...]]:
    """All ways to write ``size`` as an ordered product of ``axes`` factors."""
    if axes == 1:
        yield (size,)
        return
    low = [first for first in range(1, isqrt(size) + 1) if size % first == 0]
    for first in sorted({*low, *(size // one for one in low)}):
        for rest in _factorizations(size // first, axes - 1):
            yield (first, *rest)


def _fits(grid: Sequence[int], extent: Sequence[int], halo: int) -> bool:
    return all(parts == 1 or cells // parts >= max(halo, 1) for parts, cells in zip(grid, extent, strict=True))


def _surface(grid: Sequence[int], extent: Sequence[int]) -> int:
    """Ghost cells of the largest tile per unit of halo width.

    Those of an axis that one rank holds count too: they cost no message, but a stencil computes on them all the same.
    """
    tile = [-(-cells // parts) for parts, cells in zip(grid, extent, strict=True)]
    return sum(2 * prod(tile) // length for length in tile)
