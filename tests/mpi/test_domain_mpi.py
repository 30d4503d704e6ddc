"""The checks of ``unit/test_halo.py`` on real ranks: mpirun -n 2 python -m mpi4py -m pytest --with-mpi tests/mpi."""

from __future__ import annotations

from typing import Any

import domain_checks
import pytest
import torch
from domain_checks import OnRanks

from hpc_holstein.domain.transport import MPITransport


@pytest.mark.mpi
@pytest.mark.parametrize("check", domain_checks.ALL, ids=lambda check: check.__name__)
def test_on_ranks(check: Any, on_ranks: OnRanks) -> None:
    on_ranks(check)


@pytest.mark.mpi
def test_a_communicator_of_some_ranks_is_a_transport_too() -> None:
    """Each rank alone: what a task farm hands to the serial part of its work."""
    from mpi4py import MPI

    alone = MPITransport(MPI.COMM_SELF)
    assert (alone.rank, alone.size) == (0, 1)
    assert float(alone.allsum(torch.tensor(3.0))) == 3.0


@pytest.mark.mpi
def test_arrival_times_out_when_a_rank_stays_away() -> None:
    transport = MPITransport()
    if transport.rank == 0:
        assert transport.all_arrive(0.2) == (transport.size == 1)
    transport.barrier()
