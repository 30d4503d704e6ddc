"""Checks of whatever crosses ranks, each a body that every rank of a transport runs; see ``unit`` and ``mpi``."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.noise import NoiseField, Stream, standard_normal
from hpc_holstein.domain.transport import Message, Transport, agree, agreed
from hpc_holstein.errors import ConfigError, DataError, DomainError
from hpc_holstein.lattice import square
from hpc_holstein.lattice._bravais import BravaisLattice

Body = Callable[[Transport], Any]
OnRanks = Callable[[Body], list[Any]]

PERIODIC = (True, True)
CASES = [  # extents that leave uneven tiles, with periodic and open edges
    ((6, 6), PERIODIC),
    ((7, 11), PERIODIC),
    ((11, 7), (True, False)),
    ((6, 9), (False, False)),
]


def cube(extent: tuple[int, int, int], periodic: tuple[bool, bool, bool], basis: int = 1) -> BravaisLattice:
    axes = tuple(tuple(float(i == j) for j in range(3)) for i in range(3))
    sites = tuple((i / basis, 0.0, 0.0) for i in range(basis))
    return BravaisLattice("cube", extent, periodic, axes, sites, ())


def domains(transport: Transport) -> Iterator[CartesianDomain]:
    """Every rank grid of this many ranks on every case, in two and three dimensions."""
    for extent, periodic in CASES:
        for rows in (n for n in range(1, transport.size + 1) if transport.size % n == 0):
            grid = (rows, transport.size // rows)
            yield CartesianDomain(square.build(extent, periodic), transport, grid)
    yield CartesianDomain(cube((6, 5, 4), (True, False, True), basis=2), transport)


def widths(domain: CartesianDomain) -> list[int]:
    """No halo, one cell, the thinnest tile, and beyond it; beyond the whole lattice where it is not split."""
    tiles = [cells // parts for cells, parts in zip(domain.lattice.extent, domain.grid, strict=True) if parts > 1]
    return [0, 1, min(tiles), 2 * min(tiles) + 1] if tiles else [0, 1, 2 * max(domain.lattice.extent) + 1]


def with_wide_rows(transport: Transport) -> CartesianDomain:
    """A narrow second axis that each rank holds alone, so that a halo is wider than the lattice there."""
    return CartesianDomain(square.build((5 * transport.size, 3)), transport, (transport.size, 1))


def numbered_beyond(domain: CartesianDomain, width: int) -> Tensor:
    """One plus the global index of the owner of each ghosted cell by modular arithmetic, 0 beyond open edges."""
    expected = np.zeros([n + 2 * width for n in domain.local_extent])
    lattice = domain.lattice
    for local in np.ndindex(*expected.shape):
        cell = [i - width + start for i, (start, _) in zip(local, domain.owned, strict=True)]
        inside = [p or 0 <= c < n for c, n, p in zip(cell, lattice.extent, lattice.periodic, strict=True)]
        if all(inside):
            expected[local] = 1 + np.ravel_multi_index(
                [c % n for c, n in zip(cell, lattice.extent, strict=True)], lattice.extent
            )
    return torch.from_numpy(expected)


def check_every_ghost_holds_its_owner(transport: Transport) -> None:
    for domain in [*domains(transport), with_wide_rows(transport)]:
        for width in widths(domain):
            field = (1.0 + domain.global_cells()).reshape(*domain.local_extent, 1, 1)
            layers = torch.stack([field, -field]).expand(2, *domain.local_extent, 3, 2)  # batch, basis, components
            ghosted = domain.pad(layers, width)
            expected = numbered_beyond(domain, width)
            for sign, (b, c) in product((0, 1), product(range(3), range(2))):
                assert torch.equal(ghosted[sign, ..., b, c], (1 - 2 * sign) * expected), (domain.grid, width)
            assert torch.equal(domain.crop(ghosted, width), layers)


def check_exchange_in_two_parts_is_the_exchange(transport: Transport) -> None:
    """Bit for bit, two under way at once, into ghosts that hold rubbish; corners included."""
    generator = torch.Generator().manual_seed(transport.rank)
    for domain in [*domains(transport), with_wide_rows(transport)]:
        for width in widths(domain):
            shape = (2, 3, *(n + 2 * width for n in domain.local_extent), 1, 2)
            one, two = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
            expected = [domain.exchange(field.clone(), width) for field in (one, two)]
            three = one.clone()  # of the plan of the first, under way at the same time
            fields = [one, two[:, 1:], three]
            finishes = [domain.exchange_start(field, (width,) * len(domain.grid)) for field in fields]
            for finish in finishes[1:]:
                finish()
            assert finishes[0]() is one
            assert torch.equal(one, expected[0])
            assert torch.equal(two[:, 1:], expected[1][:, 1:])
            assert torch.equal(three, expected[0])


def check_each_axis_has_a_width_of_its_own(transport: Transport) -> None:
    """Slabs that are large travel without a copy."""
    domain = CartesianDomain(square.build((8 * transport.size, 4000)), transport, (transport.size, 1))
    wide = domain.pad((1.0 + domain.global_cells()).double().reshape(*domain.local_extent, 1, 1), 5)[:, 3:-3]
    narrow = torch.zeros_like(wide).expand(3, *wide.shape).clone()
    narrow[:, 5:-5, 2:-2] = wide[5:-5, 2:-2]
    domain.exchange_start(narrow[1:], (5, 2))()
    assert torch.equal(narrow[1:], wide.expand(2, *wide.shape))
    assert not narrow[0, :5].any()
    assert narrow[1, :5].nbytes > 1 << 17


def check_large_slabs_of_fields_that_come_and_go(transport: Transport) -> None:
    """More of them than a plan keeps channels for, again and again in the same memory, which no plan keeps from being freed."""
    domain = CartesianDomain(square.build((4 * transport.size, 9000)), transport, (transport.size, 1))
    whole = domain.pad((1.0 + domain.global_cells()).double().reshape(*domain.local_extent, 1, 1), 1)
    arrays = [np.zeros(whole.shape) for _ in range(6)]
    gone = [weakref.ref(array) for array in arrays]
    for factor in (1, 2, 3):
        for array in arrays:
            field = torch.from_numpy(array)
            domain.crop(field, 1).copy_(factor * domain.crop(whole, 1))
            assert torch.equal(domain.exchange(field, 1), factor * whole)
    del arrays, array, field
    assert [reference() for reference in gone] == [None] * 6


def check_accumulate_is_the_adjoint_of_exchange(transport: Transport) -> None:
    generator = torch.Generator().manual_seed(transport.rank)
    for domain in [*domains(transport), with_wide_rows(transport)]:
        for width in widths(domain):
            shape = (2, *(n + 2 * width for n in domain.local_extent), 1, 2)
            a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
            left = domain.allsum((a * domain.exchange(b.clone(), width)).sum())
            folded = domain.accumulate(a.clone(), width)
            right = domain.allsum((folded * b).sum())
            assert float(left) == pytest.approx(float(right), rel=1e-12, abs=1e-9)
            domain.crop(folded, width).zero_()
            assert not folded.any(), "ghosts are zero after accumulate"


def check_gradient_through_pad_matches_one_rank(transport: Transport) -> None:
    """A stencil energy differentiated tile by tile against the same on the whole lattice by index arithmetic."""
    lattice = square.build((6, 7))
    global_q = standard_normal(1, Stream.INITIAL_Q, 0, torch.arange(42).reshape(6, 7)).requires_grad_()
    energy = (global_q * global_q.roll((-1, 2), (0, 1)) ** 3).sum()
    (expected,) = torch.autograd.grad(energy, global_q)
    domain = CartesianDomain(lattice, transport)
    q = domain.scatter(global_q.detach(), torch.empty((), dtype=torch.float64).expand(*domain.local_extent, 1, 1))
    q.requires_grad_()
    ghosted = domain.pad(q, 2)
    rows, columns = domain.local_extent
    (ghosted[2:-2, 2:-2] * ghosted[3 : 3 + rows, 0:columns] ** 3).sum().backward()
    assert q.grad is not None
    mine = expected[tuple(slice(*span) for span in domain.owned)]
    torch.testing.assert_close(q.grad, mine, rtol=1e-13, atol=1e-13)


def check_gather_and_scatter_keep_the_global_order(transport: Transport) -> None:
    for domain in domains(transport):
        extent = domain.lattice.extent
        whole = torch.arange(2 * prod(extent) * 3, dtype=torch.float64).reshape(2, *extent, 1, 3)
        like = torch.empty((2, *domain.local_extent, 1, 3), dtype=torch.float32)
        owned = domain.scatter(whole if transport.rank == 0 else None, like)
        assert owned.dtype == torch.float32
        cells = domain.global_cells().unsqueeze(-1) * 3 + torch.arange(3)
        assert torch.equal(owned[0, ..., 0, :], cells.float())
        gathered = domain.gather(owned)
        assert (gathered is None) == (transport.rank != 0)
        if gathered is not None:
            assert torch.equal(gathered, whole.float())
            gathered.zero_()  # its own memory
            assert owned[1].all()


def check_allsum_adds_in_rank_order(transport: Transport) -> None:
    parts = list(torch.randn((8, 200), generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    expected = parts[0].clone()
    for rank in range(1, transport.size):
        expected = expected + parts[rank]
    mine = parts[transport.rank].clone()
    total = transport.allsum(mine)
    assert torch.equal(total, expected)
    total.zero_()
    assert torch.equal(mine, parts[transport.rank]), "the sum has its own memory"
    assert int(transport.allsum(torch.tensor(2))) == 2 * transport.size
    assert transport.allsum(torch.ones(2, 3, dtype=torch.float32)).dtype == torch.float32


def check_objects_travel(transport: Transport) -> None:
    rank, size = transport.rank, transport.size
    gathered = transport.gather({"rank": rank, "tile": np.full((rank + 1, 2), rank)})
    assert (gathered is None) == (rank != 0)
    for source, entry in enumerate(gathered or []):
        assert entry["rank"] == source
        np.testing.assert_array_equal(entry["tile"], np.full((source + 1, 2), source))
    part: Any = transport.scatter([np.arange(i + 1) for i in range(size)] if rank == 0 else None)
    np.testing.assert_array_equal(part, np.arange(rank + 1))
    assert transport.bcast("of the root" if rank == 0 else "other") == "of the root"
    assert transport.allgather(rank**2) == [r**2 for r in range(size)]
    transport.barrier()
    assert transport.all_arrive(10.0)


def check_two_messages_to_one_neighbour_keep_apart(transport: Transport) -> None:
    """What two ranks on a periodic axis need; alone, a rank is its own neighbour."""
    rank, size = transport.rank, transport.size
    below, above = (rank - 1) % size, (rank + 1) % size
    up, down = torch.tensor([10.0 * rank]), torch.tensor([10.0 * rank + 1])
    from_below, from_above = torch.zeros(1), torch.zeros(1)
    transport.exchange([Message(above, up, below, from_below), Message(below, down, above, from_above)])
    assert float(from_below) == 10.0 * below
    assert float(from_above) == 10.0 * above + 1
    transport.exchange([Message(None, up, None, from_below)])
    assert float(from_below) == 10.0 * below


def check_a_user_error_of_one_rank_is_raised_by_all(transport: Transport) -> None:
    last = transport.size - 1
    with pytest.raises(DataError, match=f"file of rank {last}"):
        agree(transport, DataError(f"file of rank {last}") if transport.rank == last else None)
    with pytest.raises(ConfigError, match="rank 0"), agreed(transport):
        _refuse_if(transport.rank in (0, last), f"rank {transport.rank}")
    with agreed(transport):
        _refuse_if(False, "nobody")


def _refuse_if(refused: bool, message: str) -> None:
    if refused:
        raise ConfigError(message)


def check_numbers_of_any_size_travel(transport: Transport) -> None:
    """A byte, two, four, eight and sixteen of them."""
    domain = CartesianDomain(square.build((3 * transport.size, 5)), transport, (transport.size, 1))
    for dtype in (torch.bool, torch.uint8, torch.float16, torch.float32, torch.int64, torch.complex64, torch.complex128):
        field = (domain.global_cells() % 7).to(dtype)[..., None, None]
        ghosted = domain.pad(field, 2)
        assert ghosted.dtype == dtype
        assert torch.equal(ghosted[..., 0, 0], ((numbered_beyond(domain, 2) - 1) % 7).to(dtype))


def check_a_tile_thinner_than_asked_for_is_refused_by_all(transport: Transport) -> None:
    domain = CartesianDomain(square.build((12, 24)), transport, (transport.size, 1))
    if transport.size == 1:
        domain.require_halo(100)
        return
    tile = 12 // transport.size
    domain.require_halo(tile)
    with pytest.raises(DomainError, match=f"halo of {tile + 1} cells .* {tile} cells along axis 0 .* use the rank grid"):
        domain.require_halo(tile + 1)


def check_noise_does_not_depend_on_the_decomposition(transport: Transport) -> None:
    for domain in domains(transport):
        basis = len(domain.lattice.basis)
        noise = NoiseField(2**63 + 5, Stream.DYNAMICS, domain, components=2)
        whole = torch.arange(prod(domain.lattice.extent)).reshape(domain.lattice.extent)
        for step in (0, 7, 8, 25):
            expected = standard_normal(2**63 + 5, Stream.DYNAMICS, step, whole, basis, 2)
            assert torch.equal(noise(step), expected[tuple(slice(*span) for span in domain.owned)])


ALL = [value for name, value in sorted(globals().items()) if name.startswith("check_")]
