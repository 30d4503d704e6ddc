"""Whether MPI takes GPU buffers is tried out in a process of its own, whose death, lies and silence only stage them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hpc_holstein.cli import doctor, main, run
from hpc_holstein.cli.doctor import PROBES
from hpc_holstein.config import load_config
from hpc_holstein.config.builders import build_simulation
from hpc_holstein.domain import gpu_buffers, torch_transport
from hpc_holstein.domain.gpu_buffers import Route
from hpc_holstein.domain.transport import SerialTransport, run_in_process

TORCH = """
uint8 = 0
class cuda:
    def set_device(name):
        assert name == "cuda:0"
    def synchronize():
        pass
class Field:
    is_cuda = True
    def __init__(self, numbers):
        self.numbers = list(numbers)
    def to(self, dtype):
        return self
def arange(size, device):
    return Field(range(size))
def zeros_like(field):
    return Field([0] * len(field.numbers))
def equal(one, other):
    return one.numbers == other.numbers
"""
MPI = """
import os, signal, time
class COMM_SELF:
    def Sendrecv(sent, dest, sendtag, got, source, recvtag):
        {}
class MPI:
    COMM_SELF = COMM_SELF
"""


@pytest.fixture(autouse=True)
def _tried_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(gpu_buffers, "trial", cache(gpu_buffers.trial.__wrapped__))


def test_the_real_library_on_memory_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a launcher says of the ranks of this job is kept from the trial, which would wait for them."""
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "2")
    assert gpu_buffers.trial("cpu") == ""


@pytest.mark.parametrize(
    ("exchange", "why"),
    [
        ("got.numbers[:] = sent.numbers", ""),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "MPI with GPU buffers ends with SIGSEGV"),
        ("got.numbers[:-1] = sent.numbers[:-1]", "MPI brings other bytes than are in GPU buffers"),
        ("time.sleep(30)", "a trial with GPU buffers did not end within 0.7 s"),
        ("raise RuntimeError('MPI_ERR_BUFFER')", "a trial with GPU buffers failed (RuntimeError: MPI_ERR_BUFFER)"),
        ("os._exit(9)", "a trial with GPU buffers failed (exit code 9)"),
    ],
)
def test_libraries_that_do_something_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exchange: str, why: str) -> None:
    (tmp_path / "torch.py").write_text(TORCH)
    (tmp_path / "mpi4py.py").write_text(MPI.format(exchange))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(gpu_buffers, "_SIZES", (10, 1000))
    if "sleep" in exchange:
        monkeypatch.setattr(gpu_buffers, "_PATIENCE", 0.7)
    assert gpu_buffers.trial("cuda:0") == why


def test_it_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_buffers, "_PROGRAM", "print('one')")
    assert gpu_buffers.trial("cuda:0") == ""
    monkeypatch.setattr(gpu_buffers, "_PROGRAM", "import nothing")
    assert gpu_buffers.trial("cuda:0") == ""
    assert gpu_buffers.trial("cuda:1") != ""


def test_ranks_without_mpi_or_gpus_try_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_buffers, "trial", lambda device: pytest.fail("tried"))
    assert gpu_buffers.route_of(SerialTransport(), "cuda:0") is None
    assert run_in_process(2, lambda transport: gpu_buffers.told("mpi", transport, "cuda:0", "auto")) == ["", ""]
    assert run_in_process(2, lambda transport: gpu_buffers.told("nccl", transport, "cpu", "auto")) == ["", ""]
    by_nccl = run_in_process(2, lambda transport: gpu_buffers.told("nccl", transport, "cuda:0", "auto"))
    assert by_nccl == ["halos from GPU to GPU by NCCL"] * 2


RUN = ["run", "--preset", "paper-2601.04104", "--lattice", "8x8", "--steps", "1", "--force", "atomic", "--device", "cpu"]


def test_the_line_of_who_took_what_says_how_halos_travel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told = str(Route(False, "MPI with GPU buffers ends with SIGSEGV"))
    monkeypatch.setattr(run.gpu_buffers, "told", lambda kind, transport, device, asked: f"{told} ({kind}, {device}, {asked})")
    assert main([*RUN, "--set", "parallel.gpu_buffers=staged"]) == 0
    line = "device cpu; halos through pinned host memory: MPI with GPU buffers ends with SIGSEGV (mpi, cpu, staged)\n"
    assert line in capsys.readouterr().out


def test_what_is_asked_for_decides_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def route_of(transport: Any, device: Any, how: str) -> Route:
        asked.append(how)
        return Route(how == "direct")

    class Transport(SerialTransport):
        def direct(self) -> Transport:
            asked.append("taken")
            return self

    monkeypatch.setattr(torch_transport.gpu_buffers, "route_of", route_of)
    for how in ("staged", "direct"):
        given = {"lattice.extent": [8, 8], "force.kind": "atomic", "parallel.gpu_buffers": how}
        build_simulation(load_config(preset_name="paper-2601.04104", overrides=given), Transport(), "cpu")
    assert asked == ["staged", "direct", "taken"]


@pytest.mark.parametrize("why", ["", "MPI with GPU buffers ends with SIGSEGV"])
def test_the_doctor_tries_and_reports_what_the_environment_claims(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    monkeypatch.setattr(doctor, "PROBES", tuple(probe for probe in PROBES if probe.name == "GPU buffers"))
    monkeypatch.setattr(doctor.Session, "use", lambda session, threads, device: "cuda:0")
    monkeypatch.setattr(gpu_buffers, "trial", lambda device: why)
    monkeypatch.setenv("MPICH_GPU_SUPPORT_ENABLED", "1")
    assert main(["doctor", "--output", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "the environment says MPICH_GPU_SUPPORT_ENABLED = 1" in told
    if why:
        assert "GPU buffers     absent  halos go through pinned host memory: MPI with GPU buffers ends with SIGSEGV" in told
        assert "-> use an MPI library with GPU support" in told
    else:
        assert "GPU buffers     ok      MPI takes GPU buffers, short and long ones come right" in told
