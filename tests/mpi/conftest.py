"""Under mpirun each process is a rank of the one transport there is."""

from __future__ import annotations

import pytest
from domain_checks import OnRanks

from hpc_holstein.domain.transport import MPITransport


@pytest.fixture(params=["mpi"])
def on_ranks() -> OnRanks:
    """``on_ranks(body)`` runs ``body(transport)`` on this rank; the result is a list of one."""
    return lambda body: [body(MPITransport())]
