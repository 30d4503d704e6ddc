"""Domain and transports, serially and on in-process ranks; ``tests/mpi`` runs the same checks under MPI."""

from __future__ import annotations

from typing import Any

import domain_checks
import pytest
import torch
from domain_checks import OnRanks

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.errors import DomainError
from hpc_holstein.interfaces import Domain
from hpc_holstein.lattice import square


@pytest.mark.parametrize("check", domain_checks.ALL, ids=lambda check: check.__name__)
def test_on_ranks(check: Any, on_ranks: OnRanks) -> None:
    on_ranks(check)


@pytest.mark.parametrize(("periodic", "width"), [((True, True), 2), ((True, True), 5), ((False, True), 3)])
def test_gradient_of_pad(periodic: tuple[bool, bool], width: int, rng: torch.Generator) -> None:
    domain = CartesianDomain(square.build((3, 4), periodic), SerialTransport())
    owned = torch.randn((2, 3, 4, 1, 2), generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda field: domain.pad(field, width), (owned,))


def test_an_exchange_allocates_nothing_again() -> None:
    """But for the copies that in-process ranks make of what they send: both edges."""
    bytes_sent = 2 * 3 * 400 * 8

    def peak(transport: Transport) -> int:
        domain = CartesianDomain(square.build((400, 400)), transport, (2, 1))
        ghosted = domain.pad(torch.zeros((*domain.local_extent, 1, 1), dtype=torch.float64), 3)
        transport.barrier()
        if transport.rank == 1:
            domain.exchange(ghosted, 3)
            return 0
        with torch.profiler.profile(profile_memory=True) as profile:
            domain.exchange(ghosted, 3)
        return sum(max(0, event.self_cpu_memory_usage) for event in profile.events())

    assert run_in_process(2, peak)[0] == bytes_sent


def test_domain_describes_its_tile() -> None:
    def describe(transport: Transport) -> tuple[Any, ...]:
        domain: Domain = CartesianDomain(square.build((5, 7)), transport, (2, 2))
        return domain.rank, domain.size, domain.owned, domain.local_extent

    assert run_in_process(4, describe) == [
        (0, 4, ((0, 3), (0, 4)), (3, 4)),
        (1, 4, ((0, 3), (4, 7)), (3, 3)),
        (2, 4, ((3, 5), (0, 4)), (2, 4)),
        (3, 4, ((3, 5), (4, 7)), (2, 3)),
    ]


def test_a_grid_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DomainError, match="rank grid 2x1 does not fit 1"):
        CartesianDomain(square.build((6, 6)), SerialTransport(), (2, 1))


def test_a_global_field_of_another_lattice_is_refused() -> None:
    domain = CartesianDomain(square.build((6, 6)), SerialTransport())
    with pytest.raises(DomainError, match=r"\[6, 5, 1, 1\] cannot .* the 6x6 lattice: give shape \[6, 6, 1, 1\]"):
        domain.scatter(torch.zeros(6, 5, 1, 1), torch.zeros(6, 6, 1, 1))
