"""Rank grids and tiles against brute force."""

from __future__ import annotations

from itertools import product
from math import prod

import pytest

from hpc_holstein.domain import partition
from hpc_holstein.errors import DomainError


@pytest.mark.parametrize(("extent", "parts"), [(7, 1), (7, 2), (7, 3), (7, 7), (200, 6)])
def test_tiles_cover_the_axis_and_differ_by_one_cell_at_most(extent: int, parts: int) -> None:
    tiles = partition.split(extent, parts)
    assert [cell for start, stop in tiles for cell in range(start, stop)] == list(range(extent))
    lengths = [stop - start for start, stop in tiles]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("parts", [0, -1, 8])
def test_a_tile_without_cells_is_refused(parts: int) -> None:
    with pytest.raises(DomainError, match=f"7 cells cannot be split over {parts} ranks: use 1 to 7"):
        partition.split(7, parts)


@pytest.mark.parametrize(
    ("size", "extent", "grid"),
    [
        (1, (5, 5), (1, 1)),
        (2, (200, 200), (2, 1)),
        (2, (10, 200), (1, 2)),
        (4, (200, 200), (2, 2)),
        (4, (10, 200), (1, 4)),
        (6, (200, 300), (2, 3)),
        (6, (300, 200), (3, 2)),
        (3, (2, 9), (1, 3)),
        (8, (20, 20, 20), (2, 2, 2)),
        (5, (7,), (5,)),
    ],
)
def test_grid_of_known_cases(size: int, extent: tuple[int, ...], grid: tuple[int, ...]) -> None:
    assert partition.choose_grid(size, extent) == grid


def ghost_cells(grid: tuple[int, ...], extent: tuple[int, ...]) -> int:
    """Cells along all sides of the largest tile."""
    tile = [max(stop - start for start, stop in partition.split(n, p)) for n, p in zip(extent, grid, strict=True)]
    return sum(2 * prod(tile[:axis] + tile[axis + 1 :]) for axis in range(len(grid)))


@pytest.mark.parametrize("size", range(1, 25))
@pytest.mark.parametrize("extent", [(24, 24), (13, 40), (100, 7)])
def test_no_other_grid_has_a_smaller_halo(size: int, extent: tuple[int, int]) -> None:
    grids = [g for g in product(range(1, size + 1), repeat=2) if prod(g) == size and g[0] <= extent[0] and g[1] <= extent[1]]
    chosen = partition.choose_grid(size, extent)
    assert chosen in grids
    assert ghost_cells(chosen, extent) == min(ghost_cells(grid, extent) for grid in grids)


def test_a_grid_leaves_room_for_the_halo() -> None:
    assert partition.choose_grid(4, (8, 400), halo=5) == (1, 4)
    assert partition.choose_grid(4, (16, 16), halo=8) == (2, 2)
    with pytest.raises(DomainError, match=r"no grid of 4 ranks .* 9 or more cells of the 16x16 lattice"):
        partition.choose_grid(4, (16, 16), halo=9)


def test_more_ranks_than_cells_are_refused() -> None:
    with pytest.raises(DomainError, match=r"no grid of 7 ranks .* 2x3 lattice: use fewer ranks"):
        partition.choose_grid(7, (2, 3))
    with pytest.raises(DomainError, match=r"8 ranks on the 4 cells of axis 1 of the 20x4 lattice: use at most 4"):
        partition.check_grid((1, 8), 8, (20, 4))


@pytest.mark.parametrize("grid", [(2, 3), (4,), (-2, -2), (2, 2, 1)])
def test_a_grid_of_another_number_of_ranks_is_refused(grid: tuple[int, ...]) -> None:
    with pytest.raises(DomainError, match=r"does not fit 4 rank\(s\) and the 20x20 lattice"):
        partition.check_grid(grid, 4, (20, 20))
    assert partition.check_grid((1, 4), 4, (20, 20)) == (1, 4)


def test_the_refusal_of_a_wide_halo_names_a_grid_that_works() -> None:
    with pytest.raises(DomainError, match=r"halo of 5 .* 4 cells along axis 0 of the 16x40 .* 4x1: use the rank grid 1x4$"):
        partition.check_halo((4, 1), (16, 40), 5)
    with pytest.raises(DomainError, match=r"use the rank grid 2x2, on 4 of the 8 ranks$"):
        partition.check_halo((4, 2), (16, 16), 8)
    with pytest.raises(DomainError, match=r"use the rank grid 1x1, on 1 of the 4 ranks$"):
        partition.check_halo((2, 2), (16, 16), 20)
    partition.check_halo((4, 1), (16, 16), 4)
    partition.check_halo((1, 1), (16, 16), 100)


def test_grids_of_very_many_ranks_are_found_at_once() -> None:
    assert prod(partition.choose_grid(10**11, (10**6, 10**6))) == 10**11
    with pytest.raises(DomainError, match="no grid of 1000000000000 ranks"):
        partition.choose_grid(10**12, (100, 100))
    assert sorted(partition._factorizations(360, 2)) == [(n, 360 // n) for n in range(1, 361) if 360 % n == 0]
