"""The checks of ``unit/test_halo.py`` on real ranks: mpirun -n 2 python -m mpi4py -m pytest --with-mpi tests/mpi."""

from __future__ import annotations

import time
from typing import Any

import domain_checks
import pytest
import torch
from domain_checks import OnRanks

from hpc_holstein.domain import gpu_buffers
from hpc_holstein.domain.gpu_buffers import Route
from hpc_holstein.domain.torch_transport import connected
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
    monkeypatch.setattr(gpu_buffers, "_on_gpu", lambda device: True)
    monkeypatch.setattr(gpu_buffers, "trial", lambda device: "")
    return monkeypatch


@pytest.mark.mpi
def test_gpu_buffers_go_directly_when_both_trials_are_right(transport: MPITransport, as_if_on_gpus: pytest.MonkeyPatch) -> None:
    assert gpu_buffers.route_of(transport, "cpu") == Route(True)
    assert gpu_buffers.told("mpi", transport, "cpu", "auto") == "halos from GPU to GPU by MPI"
    carried = connected("mpi", transport, "cpu")
    assert isinstance(carried, MPITransport)
    assert carried._direct
    assert connected("mpi", transport, "cpu", "staged") is transport
    assert gpu_buffers.told("mpi", transport, "cpu", "staged").endswith("memory: parallel.gpu_buffers = 'staged'")


@pytest.mark.mpi
def test_a_trial_that_dies_on_one_host_stages_all(transport: MPITransport, as_if_on_gpus: pytest.MonkeyPatch) -> None:
    """One rank of a host tries; the last rank is on another host here."""
    host = "a" if transport.rank < transport.size - 1 else "b"
    tried = []
    as_if_on_gpus.setattr(gpu_buffers.platform, "node", lambda: host)
    as_if_on_gpus.setattr(gpu_buffers, "trial", lambda device: tried.append(host) or ("it dies" if host == "b" else ""))
    assert gpu_buffers.route_of(transport, "cpu") == Route(False, "it dies")
    assert connected("mpi", transport, "cpu") is transport
    assert len(tried) == (transport.rank in (0, transport.size - 1)) * 2
    assert gpu_buffers.route_of(transport, "cpu", "direct") == Route(True)
    assert len(tried) < 3


@pytest.mark.mpi
@pytest.mark.parametrize("fault", ["other bytes", "refused"])
def test_what_goes_wrong_between_ranks(transport: MPITransport, as_if_on_gpus: pytest.MonkeyPatch, fault: str) -> None:
    why = "MPI brings other bytes than are in GPU buffers of another rank"
    right = gpu_buffers._bytes_of
    if fault == "refused":
        why = "MPI refuses GPU buffers (invalid buffer pointer)"

        def refuse(self: MPITransport, messages: object) -> None:
            raise RuntimeError("invalid buffer pointer")

        as_if_on_gpus.setattr(MPITransport, "exchange", refuse)
    elif transport.rank == 1:
        as_if_on_gpus.setattr(gpu_buffers, "_bytes_of", lambda rank, size, device: right(rank, size, device) + (rank == 1))
    assert gpu_buffers.route_of(transport, "cpu") == Route(False, why)
    with pytest.raises(ConfigError, match=rf"gpu_buffers = 'direct' cannot be used, {why[:20]}.*: use 'auto' or 'staged'"):
        gpu_buffers.route_of(transport, "cpu", "direct")


@pytest.mark.mpi
def test_an_exchange_that_never_ends_ends_the_run(transport: MPITransport, as_if_on_gpus: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    as_if_on_gpus.setattr(gpu_buffers, "_PATIENCE", 0.1)
    as_if_on_gpus.setattr(MPITransport, "abort", lambda self, message: said.append(message))
    as_if_on_gpus.setattr(MPITransport, "exchange", lambda self, messages: time.sleep(0.5))
    gpu_buffers.route_of(transport, "cpu")
    assert said == ["MPI does not return from sending GPU buffers: give --set parallel.gpu_buffers=staged"]


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
