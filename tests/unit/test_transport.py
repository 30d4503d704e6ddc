"""Failures: whatever goes wrong on one rank, no rank is left waiting."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hpc_holstein.domain.transport import SerialTransport, Transport, abort_all_on_error, run_in_process
from hpc_holstein.errors import ConfigError, DataError

MPIRUN = Path(sys.executable).parent / "mpirun"
PROGRAM = """
import sys, time, torch
from hpc_holstein.domain import transport as module
from hpc_holstein.domain.transport import MPITransport, abort_all_on_error
from hpc_holstein.errors import DataError, HolsteinError

module._ARRIVAL_SECONDS = 1.0
transport = MPITransport()
transport.barrier()
sys.stdout.write("started at %.3f\\n" % time.time())
sys.stdout.flush()
try:
    with abort_all_on_error(transport):
        {fault}
        transport.allsum(torch.ones(1))
except HolsteinError as error:
    if transport.rank == 0:
        print(error, file=sys.stderr)
    sys.exit(2)
"""


def run_program(fault: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Three MPI ranks with a fault, and the seconds from their start, imports done, to the end of the job.

    The environment of a surrounding MPI job is hidden from them.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_", "MPI", "HYDI"))}
    launcher = str(MPIRUN) if MPIRUN.exists() else "mpirun"
    done = subprocess.run(
        [launcher, "-n", "3", sys.executable, "-c", PROGRAM.format(fault=fault)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**environment, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    ended = time.time()
    started = [float(moment) for moment in re.findall(r"started at (\d+\.\d{3})", done.stdout)]  # lines of ranks may be glued
    return done, ended - min(started)


def test_an_unexpected_error_on_one_rank_ends_all_within_seconds() -> None:
    done, seconds = run_program("if transport.rank == 1: raise ZeroDivisionError('on one rank')")
    assert done.returncode != 0  # that of the rank that fails, or of one that is killed for it, as mpirun sees them end
    assert "Traceback" in done.stderr
    assert "rank 1 of 3" in done.stderr
    assert "ZeroDivisionError: on one rank" in done.stderr
    assert seconds < 15


def test_a_user_error_on_one_rank_ends_all_within_seconds() -> None:
    done, seconds = run_program("if transport.rank == 2: raise DataError('this file is truncated')")
    assert done.returncode != 0
    assert "this file is truncated" in done.stderr
    assert "Traceback" not in done.stderr
    assert seconds < 15


def test_a_user_error_on_all_ranks_is_said_once() -> None:
    done, seconds = run_program("raise DataError('this file is truncated')")
    assert done.returncode == 2
    assert done.stderr.count("this file is truncated") == 1
    assert "Traceback" not in done.stderr
    assert seconds < 15


def test_importing_the_domain_starts_no_mpi() -> None:
    program = (
        "import sys, hpc_holstein.domain.halo, hpc_holstein.domain.noise\n"
        "assert not [name for name in sys.modules if name.startswith('mpi4py')]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_failing_in_process_rank_ends_the_others() -> None:
    def body(transport: Transport) -> None:
        if transport.rank == 1:
            raise ZeroDivisionError("on one rank")
        transport.allsum(torch.ones(1))

    with pytest.raises(ZeroDivisionError, match="on one rank"):
        run_in_process(3, body)


def test_a_rank_that_ends_early_is_noticed() -> None:
    def body(transport: Transport) -> None:
        if transport.rank == 0:
            transport.allsum(torch.ones(1))

    with pytest.raises(RuntimeError, match="rank 0 waits for rank 1"):
        run_in_process(2, body)


def test_in_process_user_error_of_one_rank_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpc_holstein.domain.transport._ARRIVAL_SECONDS", 0.1)

    def body(transport: Transport) -> None:
        with abort_all_on_error(transport):
            if transport.rank == 1:
                raise ConfigError("on one rank")
            transport.barrier()

    with pytest.raises(SystemExit) as caught:
        run_in_process(2, body)
    assert caught.value.code == 2


def test_alone_an_unexpected_error_leaves_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, abort_all_on_error(SerialTransport()):
        raise ZeroDivisionError("alone")
    assert caught.value.code == 1
    assert "ZeroDivisionError: alone" in capsys.readouterr().err


def test_alone_a_user_error_passes_to_the_caller() -> None:
    with pytest.raises(DataError, match="truncated"), abort_all_on_error(SerialTransport()):
        raise DataError("truncated")
