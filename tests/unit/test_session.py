"""The line that says who took what: threads, cores, GPUs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hpc_holstein.cli import session
from hpc_holstein.cli.session import Session
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
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


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"SLURM_STEP_NUM_TASKS": "4"}, "Slurm started 4 tasks but MPI joins none"),
        ({"PMI_SIZE": "4", "PMI_RANK": "0"}, "the launcher started 4 tasks but MPI joins none"),
        ({"OMPI_COMM_WORLD_SIZE": "4", "SLURM_STEP_NUM_TASKS": "1"}, "the launcher started 4 tasks but MPI joins none"),
        ({"PMI_SIZE": "1", "SLURM_STEP_NUM_TASKS": "2"}, None),  # mpirun -n 1 on two nodes
    ],
)
def test_ranks_that_do_not_know_each_other_are_an_error(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: str | None
) -> None:
    for name in ("PMI_SIZE", "PMI_RANK", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if words is None:
        session.require_one_job(SerialTransport())
    else:
        with pytest.raises(ConfigError, match=words):
            session.require_one_job(SerialTransport())


@pytest.mark.parametrize(
    ("gpus", "asked", "visible", "ranks", "words"),
    [
        ("2", "auto", 0, 2, "sees none"),
        ("2", "auto", 2, 3, "3 ranks on"),
        ("2", "cuda", 1, 4, "4 ranks on"),
        ("2", "cpu", 0, 4, None),
        ("2", "cuda:0", 2, 4, None),
        ("0", "auto", 0, 4, None),
        ("4", "auto", 4, 3, None),
    ],
)
def test_gpus_and_ranks_of_a_job_belong_together(
    monkeypatch: pytest.MonkeyPatch, gpus: str, asked: str, visible: int, ranks: int, words: str | None
) -> None:
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", gpus)
    monkeypatch.setattr("torch.cuda.device_count", lambda: visible)
    here = session.Session(SerialTransport(), 0, ranks, 1, 4)
    if words is None:
        assert here._require_gpus(asked, here.device(asked)) == (1 if gpus == "4" else 0)
    else:
        with pytest.raises(ConfigError, match=words):
            here._require_gpus(asked, here.device(asked))
