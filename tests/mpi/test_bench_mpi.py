"""Points of scaling sweeps on the ranks of MPI: one record, with the bytes that left a rank."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import execute

from hpc_holstein.bench.record import Record, read_folder
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.partition import choose_grid
from hpc_holstein.domain.transport import MPITransport
from hpc_holstein.errors import DataError
from hpc_holstein.lattice import square

pytestmark = pytest.mark.mpi

BRIEF = ["--force", "atomic", "--steps", "2", "--repeats", "3", "--warm-up", "1"]


def records(transport: MPITransport, folder: str) -> list[Record]:
    """What is in a folder, for all ranks."""
    return transport.bcast(read_folder(Path(folder)) if transport.rank == 0 else [])


def test_a_strong_point(transport: MPITransport, together: Path) -> None:
    execute(transport, "bench", "strong", "--lattice", "16x16", "--grid", f"{transport.size}x1", *BRIEF, "--output", "s")
    (found,) = records(transport, "s")
    assert (found.ranks, found.setting["grid"], found.setting["lattice"]) == (transport.size, [transport.size, 1], [16, 16])
    assert found.result["halo_bytes"] == 2 * 16 * 8  # one row of 16 float64 to each side
    assert found.result["parts"]["sums"]["median"] > 0
    assert [path.name for path in Path("s").iterdir()] == [f"strong-atomic-mixed-16x16-{transport.size}.json"]
    with pytest.raises(DataError, match="exists already"):
        execute(transport, "bench", "strong", "--lattice", "16x16", "--grid", f"{transport.size}x1", *BRIEF, "--output", "s")


def test_a_weak_point(transport: MPITransport, together: Path) -> None:
    execute(transport, "bench", "weak", "--lattice-per-rank", "8x10", *BRIEF, "--output", "w")
    (found,) = records(transport, "w")
    rows, columns = choose_grid(transport.size, (transport.size,) * 2)
    assert found.setting["lattice"] == [8 * rows, 10 * columns]
    assert found.setting["sites"] == 80 * transport.size
    assert found.setting["lattice_per_rank"] == [8, 10]


def test_yardsticks_of_halos_move_what_the_exchange_does(transport: MPITransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """DMDA compares the ghosts itself."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "machine")
    yardsticks = __import__("yardsticks")
    domain = CartesianDomain(square.build((4 * transport.size, 8)), transport, (transport.size, 1))
    for make in (yardsticks.exchange, *yardsticks.YARDSTICKS.values()):
        action = make(domain, 2, 3)
        assert action is not None
        action()
