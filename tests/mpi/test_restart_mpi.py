"""Runs that are interrupted and continued on the ranks of MPI: bit for bit on as many, to round-off on another number."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from commands import write_small_network

from hpc_holstein.cli import parser, run
from hpc_holstein.cli.session import Session
from hpc_holstein.domain.transport import MPITransport, SerialTransport, Transport
from hpc_holstein.errors import DataError
from hpc_holstein.output import checkpoint
from hpc_holstein.simulation import StopSignals

pytestmark = pytest.mark.mpi

LATTICE = "22x26"  # tiles of several sizes
ROUND_OFF = 1e-11
CASES = {
    "exact": ("--force", "exact", "--lattice", "8x6"),
    "neural": ("--force", "model.safetensors", "--dtype", "float64"),
    "neural-mixed": ("--force", "model.safetensors", "--set", "dynamics.scheme=baoab"),
    "kpm": ("--force", "kpm", "--lattice", "8x6", "--set", "force.tolerance=1e-3"),
    "atomic": ("--force", "atomic", "--set", "dynamics.scheme=baoab"),
}


def start(transport: Transport, output: str, steps: int, *more: object) -> int:
    """``hpc-holstein run``; its exit code."""
    cadence = ["--set", "output.snapshot_every=5", "--set", "output.observables_every=3"]
    given = ["run", "--preset", "paper-2601.04104", "--lattice", LATTICE, *cadence, *map(str, more)]
    args = parser().parse_args([*given, "--steps", str(steps), "--output", output])
    return run.execute(args, Session.of(transport))


def contents(folder: str) -> dict[str, np.ndarray]:
    """Trajectory and last checkpoint."""
    with h5py.File(f"{folder}/trajectory.h5") as file:
        found = {name: dataset[...] for name, dataset in file.items() if name != "timing"}
    stored, _ = checkpoint.newest(Path(folder) / "checkpoints")
    assert stored is not None
    return found | {f"checkpoint {name}": array for name, array in stored.arrays.items()}


def difference(first: str, second: str) -> float:
    """Largest difference of anything; shapes and NaN agree."""
    one, other = contents(first), contents(second)
    assert one.keys() == other.keys()
    worst = 0.0
    for name, array in one.items():
        assert array.shape == other[name].shape, name
        with np.errstate(invalid="ignore"):
            gap = np.where(array == other[name], 0.0, np.abs(array - other[name]))
        assert np.array_equal(np.isnan(array), np.isnan(other[name])), name
        worst = max(worst, float(np.nanmax(gap, initial=0.0)))
    return worst


@pytest.mark.parametrize("case", CASES)
def test_two_halves_are_the_whole_bit_for_bit(transport: MPITransport, together: Path, case: str) -> None:
    if transport.rank == 0:
        write_small_network(Path("model.safetensors"))
    assert transport.all_arrive(50)
    steps = 4 if case == "kpm" else 14  # thousands of messages a force, between ranks that share cores
    assert start(transport, "whole", steps, *CASES[case]) == 0
    assert start(transport, "halves", steps // 2, *CASES[case]) == 0
    assert start(transport, "halves", steps, *CASES[case]) == 0
    if transport.rank == 0:
        assert difference("whole", "halves") == 0.0
    assert transport.all_arrive(50)


@pytest.mark.parametrize("first_alone", [True, False])
def test_a_run_goes_on_with_another_number_of_ranks(transport: MPITransport, together: Path, first_alone: bool) -> None:
    """To the round-off of sums over ranks."""
    if transport.rank == 0:
        write_small_network(Path("model.safetensors"))
        start(SerialTransport(), "whole", 20, *CASES["neural"])
    for steps, alone in ((10, first_alone), (20, not first_alone)):
        if not alone:
            assert start(transport, "halves", steps, *CASES["neural"]) == 0
        elif transport.rank == 0:
            assert start(SerialTransport(), "halves", steps, *CASES["neural"]) == 0
        assert transport.all_arrive(50)  # asleep, so that rank 0 has a core
    if transport.rank == 0:
        assert difference("whole", "halves") <= ROUND_OFF
    assert transport.all_arrive(50)


def test_a_signal_on_any_rank_stops_all(transport: MPITransport, together: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Told(StopSignals):
        def __init__(self) -> None:
            super().__init__()
            self.arrived[signal.SIGTERM] = int(transport.rank == transport.size - 1)

    with monkeypatch.context() as patch:
        patch.setattr(run, "StopSignals", Told)
        assert start(transport, "stopped", 12, *CASES["atomic"]) == 75
    assert start(transport, "stopped", 12, *CASES["atomic"]) == 0
    assert start(transport, "whole", 12, *CASES["atomic"]) == 0
    if transport.rank == 0:
        assert difference("whole", "stopped") == 0.0
    assert transport.all_arrive(50)


def damage(name: str) -> None:
    path = checkpoint.path_of(Path("r/checkpoints"), 6) if name == "checkpoint" else Path("r/trajectory.h5")
    path.write_bytes(path.read_bytes()[:-2000])
    if name == "checkpoint":
        checkpoint.path_of(Path("r/checkpoints"), 0).unlink()


@pytest.mark.parametrize(("name", "words"), [("trajectory", "trajectory.h5 is damaged"), ("checkpoint", "no checkpoint in")])
def test_what_the_root_alone_reads_is_refused_by_all(transport: MPITransport, together: Path, name: str, words: str) -> None:
    assert start(transport, "r", 6, *CASES["atomic"]) == 0
    if transport.rank == 0:
        damage(name)
    assert transport.all_arrive(50)
    with pytest.raises(DataError, match=words) as caught:
        start(transport, "r", 12, *CASES["atomic"])
    assert len(set(transport.allgather(str(caught.value)))) == 1


def test_a_full_disk_is_the_same_error_on_all_ranks(
    transport: MPITransport, together: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the run goes on when there is space again."""
    import os

    real, written = os.pwrite, [0]

    def limited(descriptor: int, data: Any, offset: int) -> int:
        written[0] += len(data)
        if written[0] > 60_000:
            raise OSError(28, os.strerror(28))
        return real(descriptor, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr("hpc_holstein.storage.whole_files.os.pwrite", limited)
        with pytest.raises(DataError, match=r"trajectory.h5 cannot be written \(No space left on device\)") as caught:
            start(transport, "r", 40, *CASES["atomic"], "--set", "output.checkpoint_every=5")
    assert len(set(transport.allgather(str(caught.value)))) == 1
    assert start(transport, "r", 40, *CASES["atomic"]) == 0
    assert start(transport, "whole", 40, *CASES["atomic"]) == 0
    if transport.rank == 0:
        assert difference("whole", "r") == 0.0
    assert transport.all_arrive(50)
