"""The line that says who took what: threads, cores, GPUs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hpc_holstein.cli import session
from hpc_holstein.cli.session import Session
from hpc_holstein.domain.transport import Transport, run_in_process
from hpc_holstein.errors import ConfigError


def line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ranks: int, gpus: int, cores: int, device: str = "auto"
) -> str:
    """What ``ranks`` on one host say, and the devices that they return."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("SLURM_GPUS_ON_NODE", raising=False)
    monkeypatch.setattr(session, "_usable_cores", lambda: set(range(cores)))
    monkeypatch.setattr(session.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda name: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda name: SimpleNamespace(uuid=f"id of {name}"))

    def body(transport: Transport) -> str:
        return Session.of(transport).use(None, device)

    taken = run_in_process(ranks, body)
    return f"{capsys.readouterr().out.strip()} | {' '.join(taken)}"


@pytest.mark.parametrize(
    ("ranks", "gpus", "cores", "said"),
    [
        (1, 0, 8, "1 rank, 8 threads each, device cpu | cpu"),
        (4, 0, 8, "4 ranks, 2 threads each, device cpu | cpu cpu cpu cpu"),
        (4, 0, 2, "4 ranks, 1 thread each, device cpu; 4 ranks share 2 cores | cpu cpu cpu cpu"),
        (2, 1, 4, "2 ranks, 2 threads each, device cuda:0; 2 ranks share a GPU | cuda:0 cuda:0"),
        (2, 2, 4, "2 ranks, 2 threads each, device rank 0: cuda:0, rank 1: cuda:1 | cuda:0 cuda:1"),
        (
            3,
            2,
            4,
            "3 ranks, 1 thread each, device rank 0: cuda:0, rank 1: cuda:1, rank 2: cuda:0; 2 ranks share a GPU | "
            "cuda:0 cuda:1 cuda:0",
        ),
    ],
)
def test_one_line_says_who_took_what(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ranks: int, gpus: int, cores: int, said: str
) -> None:
    assert line(monkeypatch, capsys, ranks, gpus, cores) == said


def test_many_ranks_are_told_in_few_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = line(monkeypatch, capsys, 10, 5, 20).partition(" | ")[0]
    assert said == "10 ranks, 2 threads each, device cuda:0, cuda:1, cuda:2, cuda:3, cuda:4 in turn; 2 ranks share a GPU"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="'cuda:1' is not there, 1 GPU"):
        line(monkeypatch, capsys, 1, 1, 4, "cuda:1")
