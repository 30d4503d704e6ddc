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
