"""torch.distributed as a transport: on one rank here, on those of MPI in ``tests/mpi``; and when NCCL is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hpc_holstein.cli import main
from hpc_holstein.domain import torch_transport
from hpc_holstein.domain.torch_transport import TorchTransport, connected
from hpc_holstein.domain.transport import Message, SerialTransport, Transport, run_in_process
from hpc_holstein.errors import ConfigError


def test_a_rank_alone_sends_to_itself_and_may_meet_again() -> None:
    for _ in range(2):
        transport = TorchTransport(SerialTransport(), "cpu", "gloo")
        got = torch.zeros(3)
        channel = transport.channel([Message(0, torch.arange(3.0), 0, got)])
        channel.start()
        channel.wait()
        assert got.tolist() == [0, 1, 2]
        assert float(transport.allsum(torch.tensor(2.5))) == 2.5
        assert transport.gather("object") == ["object"]


def test_mpi_is_the_transport_that_is_there() -> None:
    transport = SerialTransport()
    assert connected("mpi", transport, "cpu") is transport


def test_nccl_without_a_gpu_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given = ["run", "--preset", "paper-2601.04104", "--lattice", "8x8", "--steps", "2", "--force", "atomic", "--device", "cpu"]
    assert main([*given, "--set", "parallel.transport=nccl"]) == 2
    told = capsys.readouterr().err
    assert "parallel.transport = 'nccl' cannot be used with device = 'cpu': give each rank a GPU of its own" in told
    assert told.count("\n") == 1


def test_nccl_refuses_ranks_that_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_transport.dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=f"id of {device}"))

    def body(transport: Transport) -> None:
        with pytest.raises(ConfigError, match="cannot share a GPU, and 3 ranks have 2"):
            connected("nccl", transport, f"cuda:{transport.rank % 2}")

    run_in_process(3, body)
