"""Trajectories that are read while they are written, and when a part of them is damaged."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from written import EVERY, EXTENT, fields_at, opened, state_at, write

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import DataError
from hpc_holstein.lattice import square
from hpc_holstein.output import readers
from hpc_holstein.output.hdf5 import open_trajectory
from hpc_holstein.output.writers import Kind

READER = """
import sys, time, h5py, xarray
path, polls, largest = sys.argv[1], 0, 0
print("ready", flush=True)
while largest < int(sys.argv[2]):
    with h5py.File(path) as file:
        steps = file["step"][...]
        assert file["q"].shape[0] == len(steps), (file["q"].shape, len(steps))
        if len(steps):
            assert abs(file["q"][-1]).sum() > 0
    with xarray.open_dataset(path, engine="h5netcdf") as data:
        found = data.q[-1].values if data.sizes["time"] else 0.0
        assert (found == found).all() if data.sizes["time"] else True
        assert data.sizes["time"] >= len(steps)
    polls, largest = polls + 1, len(steps)
    time.sleep(0.002)
print(polls)
"""


@pytest.mark.parametrize("kind", ["gather", "per-rank"])
def test_another_process_reads_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    """As fast as it can, while each snapshot is brought onto the disk as it comes."""
    monkeypatch.setattr("hpc_holstein.output.background._SHARE", 0.0)
    monkeypatch.setattr("hpc_holstein.output.gather.COMMIT_SECONDS", 0.0)
    monkeypatch.setattr("hpc_holstein.output.parts.COMMIT_SECONDS", 0.0)
    path, domain, last = tmp_path / "trajectory.h5", CartesianDomain(square.build(EXTENT), SerialTransport()), 40
    with opened(kind, path, SerialTransport(), None) as writer:
        command = [sys.executable, "-c", READER, str(path), str(last)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            reader.stdout.readline()
            deadline, step = time.monotonic() + 40, 0
            while reader.poll() is None and time.monotonic() < deadline:
                if step < last:
                    writer.write_series(step, {"order_parameter": 0.5})
                    writer.write_snapshot(*state_at(step % 20, domain)[:1])
                    step += 1
                else:
                    writer.flush()  # what could not go into the file while it was open
                time.sleep(0.05)  # so that the reader comes round many times before the last snapshot
            reader.kill()
            told, wrong = reader.communicate()
    assert reader.returncode == 0, wrong
    assert int(told) > 5


def test_a_reader_that_keeps_the_file_open_keeps_what_it_opened(tmp_path: Path) -> None:
    """Commits stay in the journal meanwhile, where our own readers find them."""
    path, domain = tmp_path / "trajectory.h5", CartesianDomain(square.build(EXTENT), SerialTransport())
    with opened("gather", path, SerialTransport(), None) as writer:
        writer.write_snapshot(*state_at(0, domain))
        writer.flush()
        with h5py.File(path) as file:
            before = path.read_bytes()
            for step in (10, 20):
                writer.write_snapshot(*state_at(step, domain))
                writer.flush()
            assert path.read_bytes()[: len(before)] == before
            assert len(file["step"]) == 1
            with open_trajectory(path) as trajectory:
                assert trajectory.steps.tolist() == [0, 10, 20]
                assert np.array_equal(trajectory.snapshot(2).q, fields_at(20)[0])
        writer.flush()
        with h5py.File(path) as file:
            assert file["step"][...].tolist() == [0, 10, 20]


def test_a_file_system_that_grants_no_lease_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS 4 says of every file that somebody has it open; the locks of HDF5 still count."""
    real = readers.fcntl.fcntl

    def refuse(descriptor: int, what: int, value: int) -> int:
        if what == readers.fcntl.F_SETLEASE:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return int(real(descriptor, what, value))

    monkeypatch.setattr(readers.fcntl, "fcntl", refuse)
    path, domain = tmp_path / "trajectory.h5", CartesianDomain(square.build(EXTENT), SerialTransport())
    with opened("gather", path, SerialTransport(), None) as writer:
        writer.write_snapshot(*state_at(0, domain))
        writer.flush()
        with h5py.File(path) as file:
            assert len(file["step"]) == 1
            before = path.read_bytes()
            writer.write_snapshot(*state_at(10, domain))
            writer.flush()
            assert path.read_bytes()[: len(before)] == before
        writer.flush()
        with h5py.File(path) as file:
            assert file["step"][...].tolist() == [0, 10]


def test_a_flipped_bit_in_a_packed_chunk_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.h5"
    write("gather", path, SerialTransport(), range(0, 20, EVERY), level=1)
    with h5py.File(path) as file:
        place = file["velocity"].id.get_chunk_info(0).byte_offset + 100
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)
    with open_trajectory(path) as trajectory, pytest.raises(DataError, match=r"snapshot 0 of .* cannot be read"):
        trajectory.snapshot(0)


@pytest.mark.parametrize("damage", ["gone", "short", "flipped"])
def test_a_damaged_part_is_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "trajectory.h5"
    run_in_process(2, lambda transport: write("per-rank", path, transport, range(0, 30, EVERY)))
    part = tmp_path / "trajectory.d" / "0000" / "rank-00001.h5"
    content = bytearray(part.read_bytes())
    with h5py.File(part) as file:
        content[file["q"].id.get_chunk_info(0).byte_offset + 100] ^= 16
    if damage == "gone":
        part.unlink()
    else:
        part.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    with open_trajectory(path) as trajectory, pytest.raises(DataError, match="cannot be read"):
        trajectory.snapshot(0)
    if damage != "flipped":
        with pytest.raises(DataError, match=r"trajectory.h5 is damaged .*: move it and trajectory.d away"):
            opened("per-rank", path, SerialTransport(), 20)
