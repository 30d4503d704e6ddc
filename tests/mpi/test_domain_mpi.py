"""The checks of ``unit/test_halo.py`` on real ranks: mpirun -n 2 python -m mpi4py -m pytest --with-mpi tests/mpi."""

from __future__ import annotations

from typing import Any

import domain_checks
import pytest
import torch
from domain_checks import OnRanks

from hpc_holstein.domain import torch_transport
from hpc_holstein.domain.transport import MPITransport
from hpc_holstein.errors import ConfigError


@pytest.mark.mpi
@pytest.mark.parametrize("check", domain_checks.ALL, ids=lambda check: check.__name__)
def test_on_ranks(check: Any, on_ranks: OnRanks) -> None:
    on_ranks(check)


@pytest.mark.mpi
@pytest.mark.parametrize("check", domain_checks.ALL, ids=lambda check: check.__name__)
def test_tensors_handed_to_mpi_as_they_are(check: Any, transport: MPITransport) -> None:
    """The way of GPU buffers, with those of the host."""
    check(transport.direct())


@pytest.fixture
def as_if_on_gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch_transport, "_joins_gpus", lambda transport, device: True)
    return monkeypatch


@pytest.mark.mpi
def test_gpu_buffers_go_the_way_that_is_asked_for(transport: MPITransport, as_if_on_gpus: pytest.MonkeyPatch) -> None:
    for asked, direct, told in (("direct", True, "from GPU to GPU by MPI"), ("staged", False, "through pinned host memory")):
        carried = torch_transport.connected("mpi", transport, "cpu", asked)
        assert isinstance(carried, MPITransport)
        assert carried._direct == direct
        assert torch_transport.route_in_words("mpi", transport, "cpu", asked) == f"halos {told}"


@pytest.mark.mpi
def test_other_bytes_of_one_rank_are_refused_by_all(transport: MPITransport, as_if_on_gpus: pytest.MonkeyPatch) -> None:
    right = MPITransport.exchange

    def exchange(self: MPITransport, messages: Any) -> None:
        right(self, messages)
        if self.rank == 1:
            messages[0].recv[-1] = 0

    as_if_on_gpus.setattr(MPITransport, "exchange", exchange)
    with pytest.raises(ConfigError, match=r"gpu_buffers = 'direct' brings other bytes .*, or use 'staged'"):
        torch_transport.connected("mpi", transport, "cpu", "direct")


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
