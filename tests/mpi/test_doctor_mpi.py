"""The doctor on the ranks of MPI."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_holstein.cli import doctor, parser
from hpc_holstein.cli.session import Session
from hpc_holstein.domain.transport import MPITransport

pytestmark = pytest.mark.mpi


def test_ranks_and_their_messages_work(transport: MPITransport, together: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = parser().parse_args(["doctor", "--device", "cpu"])
    assert doctor.execute(args, Session.of(transport)) == 0
    told = capsys.readouterr().out
    if transport.rank == 0:
        assert f"{transport.size} ranks on 1 host(s)" in told
        assert "a lock is refused to the other ranks" in told
        assert "FAILED" not in told
    else:
        assert told == ""
    assert transport.all_arrive(50)
    assert list(together.iterdir()) == []
