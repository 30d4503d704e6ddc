"""The writers of trajectories in runs on the ranks of MPI: the same file, on other ranks as well, and errors that all tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from commands import execute, write_small_network

from hpc_holstein.cli import parser, run
from hpc_holstein.cli.session import Session
from hpc_holstein.domain.transport import MPITransport, SerialTransport, Transport
from hpc_holstein.errors import DataError
from hpc_holstein.storage.trajectory import open_trajectory

pytestmark = pytest.mark.mpi

WRITERS = [1, 2, 99]  # one, some or all, all
ROUND_OFF = 1e-11


def start(transport: Transport, output: str, steps: int, *more: str) -> int:
    """``hpc-holstein run``; its exit code."""
    settings = ["output.snapshot_every=5", "output.observables_every=3", *more]
    given = ["run", "--preset", "paper-2601.04104", "--lattice", "22x26", "--force", "atomic", "--output", output]
    args = parser().parse_args([*given, "--steps", str(steps), *(item for text in settings for item in ("--set", text))])
    return run.execute(args, Session.of(transport))


def require_same(one: str, other: str, atol: float) -> None:
    """Variables, their attributes and dimensions; attributes of the files but when and how they were made."""
    with (
        xr.open_dataset(f"{one}/trajectory.h5", engine="h5netcdf") as first,
        xr.open_dataset(f"{other}/trajectory.h5", engine="h5netcdf") as second,
    ):
        assert set(first.variables) == set(second.variables)
        for name, variable in first.variables.items():
            assert variable.dims == second[name].dims
            assert variable.attrs == second[name].attrs
            np.testing.assert_allclose(variable, second[name], rtol=0, atol=atol, err_msg=str(name))
        made = {"config", "date", "ranks", "mpi", "run"}
        assert set(first.attrs) - made == set(second.attrs) - made
        for name in first.attrs.keys() - made:
            np.testing.assert_array_equal(first.attrs[name], second.attrs[name], err_msg=name)


@pytest.mark.parametrize("writers", WRITERS)
def test_the_run_is_the_same_whoever_writes(transport: MPITransport, together: Path, writers: int) -> None:
    assert start(transport, "r", 22, f"output.writers={writers}") == 0
    assert start(transport, "whole", 22) == 0
    if transport.rank == 0:
        require_same("whole", "r", 0.0)
        assert not Path("r/trajectory.d").exists()
    assert transport.all_arrive(50)


@pytest.mark.parametrize("writers", WRITERS[1:])
@pytest.mark.parametrize("first_alone", [True, False])
def test_it_goes_on_on_another_number_of_ranks(
    transport: MPITransport, together: Path, writers: int, first_alone: bool
) -> None:
    """Alone, and together."""
    if transport.rank == 0:
        start(SerialTransport(), "whole", 20)
    for steps, alone in ((10, first_alone), (20, not first_alone)):
        if not alone:
            assert start(transport, "r", steps, f"output.writers={writers}") == 0
        elif transport.rank == 0:
            assert start(SerialTransport(), "r", steps, "output.pack=false") == 0
        assert transport.all_arrive(50)
    if transport.rank == 0:
        require_same("whole", "r", ROUND_OFF)
        with open_trajectory(Path("r/trajectory.h5")) as trajectory:
            assert len(trajectory) == 5
    assert transport.all_arrive(50)


@pytest.mark.parametrize("writers", WRITERS[1:])
def test_a_run_that_is_judged_by_a_committee(transport: MPITransport, together: Path, writers: int) -> None:
    """From half way on: parts of before lack the deviation, rows of before the scalars; every second row has them."""
    if transport.rank == 0:
        for seed, name in enumerate("ab"):
            write_small_network(Path(f"{name}.safetensors"), seed)
    transport.barrier()
    run = ["run", "--preset", "paper-2601.04104", "--lattice", "24x24", "--force", "a.safetensors"]
    run += ["--set", "output.snapshot_every=3", "--set", "output.observables_every=1"]
    judged = ["--set", "force.committee=['b.safetensors']", "--set", "trust.every=2"]
    for name, count in (("one", 1), ("more", writers)):
        to = ["--set", f"output.writers={count}", "--set", f"output.pack={str(count == 1).lower()}", "--output", name]
        execute(transport, *run, *to, "--steps", "6")
        execute(transport, *run, *to, *judged, "--steps", "12")
    if transport.rank == 0:
        require_same("one", "more", 0.0)
        with open_trajectory(Path("more", "trajectory.h5")) as trajectory:
            assert np.isfinite(trajectory.series()["committee_rms"]).tolist() == [False] * 6 + [True, False] * 3 + [True]
        with xr.open_dataset("more/trajectory.h5", engine="h5netcdf") as found:
            deviation = found["force_deviation"].values
            assert np.isfinite(deviation).all(axis=(1, 2)).tolist() == [False, False, True, True, True]
            assert not np.isfinite(deviation[:2]).any()
    assert transport.all_arrive(50)


def test_a_full_disk_of_the_last_rank_is_the_same_error_on_all(
    transport: MPITransport, together: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the run goes on when there is space again."""
    import os

    real, written = os.pwrite, [0]

    def limited(descriptor: int, data: Any, offset: int) -> int:
        written[0] += len(data)
        if transport.rank == transport.size - 1 and written[0] > 40_000:
            raise OSError(28, os.strerror(28))
        return real(descriptor, data, offset)

    settings = ("output.checkpoint_every=5", "output.writers=99")
    with monkeypatch.context() as patch:
        patch.setattr("hpc_holstein.storage.whole_files.os.pwrite", limited)
        with pytest.raises(DataError, match=r"trajectory.h5 cannot be written \(No space left on device\)") as caught:
            start(transport, "r", 60, *settings)
    assert len(set(transport.allgather(str(caught.value)))) == 1
    assert start(transport, "r", 60, *settings) == 0
    assert start(transport, "whole", 60) == 0
    if transport.rank == 0:
        require_same("whole", "r", 0.0)
    assert transport.all_arrive(50)
