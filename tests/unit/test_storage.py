"""Trajectories on disks that fail, in processes that end, and in folders where others have files."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from written import EVERY, EXTENT, FACTS, append, fields_at, opened, write

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.errors import DataError
from hpc_holstein.lattice import square
from hpc_holstein.storage.trajectory import open_trajectory
from hpc_holstein.storage.whole_files import IDENTITY
from hpc_holstein.storage.writer import Storage, TrajectoryWriter, discard

CALLS = ("pwrite", "fsync", "replace", "unlink", "ftruncate")
ALONE = SerialTransport()
DOMAIN = CartesianDomain(square.build(EXTENT), ALONE)


def require_whole(path: Path, wanted: list[list[int]]) -> list[int]:
    """The file holds one of these lists of steps, with the right values; which."""
    with open_trajectory(path) as trajectory:
        steps = trajectory.steps.tolist()
        assert steps in wanted
        for index, step in enumerate(steps):
            assert np.array_equal(trajectory.snapshot(index).q, fields_at(step)[0])
        assert len(trajectory.series()["time"]) in (len(steps), len(steps) + 1)
    return steps


def watched(monkeypatch: pytest.MonkeyPatch, look: Callable[[str], None], body: Callable[[], None]) -> None:
    """``look`` before each call that changes the disk, and in the middle of writes."""

    def of(name: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            look(name)
            if name == "pwrite":
                real(arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])
                look(name)
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(f"hpc_holstein.storage.whole_files.os.{name}", of(name, getattr(os, name)))
        body()


@pytest.mark.parametrize("pack", [True, False])
def test_a_crash_at_any_call_leaves_whole_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: bool) -> None:
    """While a run that is continued removes a step, appends two and packs; then the next one does the same."""
    folder, count = tmp_path / "r", [0]
    write(folder / "trajectory.h5", ALONE, range(0, 40, EVERY), pack=pack)

    def copy(_: str) -> None:
        shutil.copytree(folder, tmp_path / "copies" / str(count[0]))
        count[0] += 1

    watched(monkeypatch, copy, lambda: write(folder / "trajectory.h5", ALONE, range(30, 50, EVERY), 30, pack=pack))
    whole = [list(range(0, end, EVERY)) for end in (30, 40, 50)]
    seen = set()
    for number in range(count[0]):
        path = tmp_path / "copies" / str(number) / "trajectory.h5"
        seen.add(len(require_whole(path, whole)))
        write(path, ALONE, range(30, 50, EVERY), 30, pack=pack)
        require_whole(path, whole[-1:])
        segments = list(path.with_suffix(".d").iterdir()) if not pack else []
        assert sorted(path.parent.rglob("*")) == sorted([path, *segments, *([] if pack else [path.with_suffix(".d")])])
        assert len(segments) <= 4
    assert seen == {3, 4, 5}


@pytest.mark.parametrize("call", CALLS[:3])
def test_a_disk_that_fails_at_any_call_ends_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """And when it works again the run goes on to the same end."""
    whole, number, told, reached = list(range(0, 40, EVERY)), 0, [], True
    while reached:
        number += 1
        path, left = tmp_path / str(number) / "trajectory.h5", [number]
        write(path, ALONE, range(0, 30, EVERY))

        def fail(name: str, left: list[int] = left) -> None:
            left[0] -= name == call
            if left[0] == 0 and name == call:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        told.append(error_of(lambda path=path, fail=fail: watched(monkeypatch, fail, lambda: go_on(path, pack=False))))  # type: ignore[misc]
        require_whole(path, [whole[:2], whole[:3], whole])
        go_on(path)
        require_whole(path, [whole])
        assert os.listdir(path.parent) == ["trajectory.h5"]
        reached = left[0] <= 0
    failed = [one for one in told if one is not None]  # folders need not know how to be brought onto the disk
    assert len(failed) > 3
    assert call == "fsync" or len(failed) == len(told) - 1
    assert all("cannot be written (Input/output error)" in one for one in failed)


def go_on(path: Path, **how: Any) -> None:
    write(path, ALONE, range(20, 40, EVERY), 20, **how)


def error_of(body: Callable[[], None]) -> str | None:
    """What a DataError of ``body`` says."""
    try:
        body()
    except DataError as error:
        return str(error)
    return None


def test_nothing_is_written_or_removed_through_a_link(tmp_path: Path) -> None:
    path, mine = tmp_path / "r" / "trajectory.h5", tmp_path / "mine"
    mine.mkdir()
    (mine / "x.h5").write_text("precious")
    write(path, ALONE, range(0, 30, EVERY), pack=False)
    shutil.move(path.with_suffix(".d"), mine / "d")
    path.with_suffix(".d").symlink_to(mine / "d")
    before = {one: one.read_bytes() for one in mine.rglob("*") if one.is_file()}
    with pytest.raises(DataError, match=r"trajectory.d is a symbolic link and a run writes through none"):
        opened(path, ALONE, 20)
    with pytest.raises(DataError, match="symbolic link"):
        discard(path, FACTS[IDENTITY])
    path.with_suffix(".d").unlink()
    path.unlink()
    path.symlink_to(mine / "x.h5")
    for step in (None, 20):
        with pytest.raises(DataError, match=r"trajectory.h5 is a symbolic link"):
            opened(path, ALONE, step)
    assert before == {one: one.read_bytes() for one in mine.rglob("*") if one.is_file()}
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "other")
    (tmp_path / "other").mkdir()
    write(link / "trajectory.h5", ALONE, range(0, 30, EVERY))  # the folder of the run may be one
    require_whole(link / "trajectory.h5", [[0, 10, 20]])


def test_files_of_others_stay(tmp_path: Path) -> None:
    """Beside the segments, with the names of segments, and of unfinished files."""
    path = tmp_path / "r" / "trajectory.h5"
    write(path, ALONE, range(0, 30, EVERY), pack=False)
    folder = path.with_suffix(".d")
    foreign = tmp_path / "s" / "trajectory.h5"
    foreign.parent.mkdir()
    with TrajectoryWriter(foreign, DOMAIN, ALONE, 0.05, torch.float64, {IDENTITY: "1" * 32}) as writer:
        append(writer, range(0, 20, EVERY), DOMAIN)
    kept = [folder / "2024" / "x.dat", folder / "0000000000-00000-aaaaaaaa.h5", folder / ".mine.tmp", folder / "0000"]
    kept += [path.parent / f".{'1' * 32}.00000000.tmp"]
    kept[0].parent.mkdir()
    for one in kept:
        one.write_bytes(foreign.read_bytes())
    write(path, ALONE, range(20, 60, EVERY), 20)
    require_whole(path, [list(range(0, 60, EVERY))])
    discard(path, FACTS[IDENTITY])
    assert not path.exists()
    assert all(one.read_bytes() == foreign.read_bytes() for one in kept)
    assert sorted(one for one in folder.rglob("*") if one.is_file()) == sorted(kept[:-1])


def test_a_trajectory_or_segment_of_another_run_is_refused(tmp_path: Path) -> None:
    paths = [tmp_path / name / "trajectory.h5" for name in "rs"]
    for path, run in zip(paths, "01", strict=True):
        with TrajectoryWriter(
            path, DOMAIN, ALONE, 0.05, torch.float64, {**FACTS, IDENTITY: 32 * run}, Storage(pack=False)
        ) as writer:
            append(writer, range(0, 30, EVERY), DOMAIN)
    with pytest.raises(DataError, match=r"s/trajectory.h5 is of another run \(1+, not 0+\): move it away"):
        opened(paths[1], ALONE, 20)
    segment, other = (next(path.with_suffix(".d").glob("0000000001*")) for path in paths)
    shutil.copy(other, segment)
    with open_trajectory(paths[0]) as trajectory:
        trajectory.snapshot(0)
        with pytest.raises(DataError, match=r"is not the segment that trajectory.h5 refers to \(it is of run 1+"):
            trajectory.snapshot(1)
    with pytest.raises(DataError, match=r"trajectory.h5 is damaged \(.* is not the segment .*: move it and trajectory.d away"):
        opened(paths[0], ALONE, 20)


@pytest.mark.parametrize("what", ["index", "copy of the index", "segment", "folder"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_notices_that_its_files_are_gone(tmp_path: Path, what: str, ranks: int) -> None:
    path = tmp_path / "trajectory.h5"

    def harm() -> None:
        if what == "index":
            path.unlink()
        elif what == "copy of the index":
            path.write_bytes(path.read_bytes() + b"x")
        elif what == "segment":
            next(path.with_suffix(".d").iterdir()).unlink()
        else:
            shutil.rmtree(path.with_suffix(".d"))

    def run(transport: Transport) -> None:
        domain = CartesianDomain(square.build(EXTENT), transport)
        with opened(path, transport, None, writers=ranks) as writer:
            append(writer, range(0, 20, EVERY), domain)
            writer.flush()
            if transport.rank == 0:
                harm()
            transport.barrier()
            append(writer, range(20, 40, EVERY), domain)

    def body(transport: Transport) -> str:
        with pytest.raises(DataError) as caught:
            run(transport)
        return str(caught.value)

    told = run_in_process(ranks, body)
    assert len(set(told)) == 1
    assert "was removed or exchanged while the run goes on: put back what the run wrote" in told[0]


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


def test_another_process_reads_at_any_time(tmp_path: Path) -> None:
    """As fast as it can, while each snapshot is brought onto the disk as it comes."""
    path, last = tmp_path / "trajectory.h5", 40
    with opened(path, ALONE, None, pack=False) as writer:
        command = [sys.executable, "-c", READER, str(path), str(last)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            reader.stdout.readline()
            deadline, step = time.monotonic() + 60, 0
            while reader.poll() is None and time.monotonic() < deadline:
                if step < last:
                    append(writer, range(step, step + 1), DOMAIN)
                    writer.flush()
                    step += 1
                time.sleep(0.05)  # so that the reader comes round many times before the last snapshot
            reader.kill()
            told, wrong = reader.communicate()
    assert reader.returncode == 0, wrong
    assert int(told) > 5


def test_a_reader_that_keeps_the_file_open_keeps_what_it_opened(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.h5"
    with opened(path, ALONE, None) as writer:
        append(writer, range(0, 10, EVERY), DOMAIN)
        with h5py.File(path) as file:
            append(writer, range(10, 30, EVERY), DOMAIN)
            writer.flush()
            assert len(file["step"]) == 1
            assert np.array_equal(file["q"][0], fields_at(0)[0])
            require_whole(path, [[0, 10, 20]])


@pytest.mark.parametrize("damage", ["gone", "short", "flipped"])
def test_a_damaged_segment_is_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "trajectory.h5"
    run_in_process(2, lambda transport: write(path, transport, range(0, 30, EVERY), writers=2, pack=False))
    segment = next(path.with_suffix(".d").glob("0000000001-00001-*"))
    content = bytearray(segment.read_bytes())
    with h5py.File(segment) as file:
        content[file["q"].id.get_chunk_info(0).byte_offset + 100] ^= 16
    if damage == "gone":
        segment.unlink()
    else:
        segment.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    with open_trajectory(path) as trajectory, pytest.raises(DataError, match="cannot be read"):
        trajectory.snapshot(1)
    if damage != "flipped":
        with pytest.raises(DataError, match=r"trajectory.h5 is damaged .*: move it and trajectory.d away"):
            opened(path, ALONE, 20)


def test_segments_without_their_index_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.h5"
    write(path, ALONE, range(0, 20, EVERY), pack=False)
    path.unlink()
    with pytest.raises(DataError, match=r"trajectory.d exists already and is never overwritten"):
        opened(path, ALONE, None)


def test_a_file_that_an_earlier_version_left_half_way_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.h5"
    write(path, ALONE, range(0, 20, EVERY))
    (tmp_path / ".trajectory.h5.journal").write_bytes(b"")
    require_whole(path, [[0, 10]])
    (tmp_path / ".trajectory.h5.journal").write_bytes(b"hpc_holstein journal 1\n")
    with pytest.raises(DataError, match=r"was left by an earlier version that was killed"), open_trajectory(path):
        pass
    with pytest.raises(DataError, match=r"was left by an earlier version that was killed"):
        opened(path, ALONE, 10)
