"""Under mpirun each process is a rank of the one transport there is; without ``--with-mpi`` nothing here is collected."""

from __future__ import annotations

from pathlib import Path

import pytest
from domain_checks import OnRanks

from hpc_holstein.domain.transport import MPITransport


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these tests to the runs under mpirun, instead of reporting them as skipped."""
    return None if config.getoption("with_mpi") else True


@pytest.fixture(params=["mpi"])
def on_ranks() -> OnRanks:
    """``on_ranks(body)`` runs ``body(transport)`` on this rank; the result is a list of one."""
    return lambda body: [body(MPITransport())]


@pytest.fixture(scope="session")
def transport() -> MPITransport:
    """All ranks."""
    return MPITransport()


@pytest.fixture
def together(request: pytest.FixtureRequest, transport: MPITransport, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One empty folder for all ranks, which is where they work; commands set the threads of this process: one each.

    Rank 0 alone makes it: ranks that clear old temporary folders at the same time disturb each other.
    """
    folder: Path = transport.bcast(request.getfixturevalue("tmp_path") if transport.rank == 0 else Path())
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder
