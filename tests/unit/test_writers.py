"""All writers of trajectories: the same content, whole after a crash, readable at any time, on any number of ranks."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from written import EVERY, EXTENT, fields_at, opened, state_at, write

from hpc_holstein.cli import main
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.errors import ConfigError, DataError
from hpc_holstein.lattice import square
from hpc_holstein.output import folder_lock, head, journal, writers
from hpc_holstein.output.folder_lock import FolderLock
from hpc_holstein.output.writers import Kind, writer_kind
from hpc_holstein.storage.layout import chunk_of
from hpc_holstein.storage.trajectory import open_trajectory


def contents(path: Path) -> dict[str, Any]:
    """Every dataset and attribute, through h5py and through xarray."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        found |= {f"attribute {name}": np.asarray(value) for name, value in file.attrs.items()}

        def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Dataset):
                told = {key: value for key, value in item.attrs.items() if key not in ("DIMENSION_LIST", "REFERENCE_LIST")}
                dims = [[scale.name for scale in dim.values()] for dim in item.dims]
                found[f"h5py {name}"] = (item[...], item.dtype, item.maxshape, item.fillvalue, told, dims)

        file.visititems(visit)
    for group in (None, "timing"):
        with xr.open_dataset(path, engine="h5netcdf", group=group) as data:
            found[f"xarray {group}"] = data.load()
    return found


def require_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if name.startswith("xarray"):
            xr.testing.assert_identical(value, other[name])
        elif name.startswith("h5py"):
            np.testing.assert_array_equal(value[0], other[name][0], err_msg=name)
            np.testing.assert_equal(value[1:], other[name][1:], err_msg=name)
        else:
            np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.fixture
def expected(tmp_path: Path) -> Callable[[range], dict[str, Any]]:
    """What one rank writes that gathers, without compression."""

    def of(steps: range) -> dict[str, Any]:
        path = tmp_path / "expected.h5"
        write("gather", path, SerialTransport(), steps, level=0)
        found = contents(path)
        for step, q in zip(steps, found["h5py q"][0], strict=True):
            assert np.array_equal(q, fields_at(step)[0])
        return found

    return of


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize(("kind", "ranks"), [("gather", 2), ("per-rank", 1), ("per-rank", 2), ("per-rank", 6)])
def test_all_writers_write_the_same(tmp_path: Path, expected: Any, kind: Kind, ranks: int, level: int) -> None:
    path, steps = tmp_path / "r" / "trajectory.h5", range(0, 60, EVERY)
    run_in_process(ranks, lambda transport: write(kind, path, transport, steps, level=level))
    require_equal(contents(path), expected(steps))
    with open_trajectory(path) as trajectory:
        for index, step in enumerate(steps):
            snapshot = trajectory.snapshot(index)
            for found, values in zip((snapshot.q, snapshot.velocity, snapshot.density), fields_at(step), strict=False):
                assert np.array_equal(found, values)
            assert np.array_equal(trajectory.density(index), fields_at(step)[2])
        assert np.allclose(trajectory.seconds(), 1.0)
    if kind == "per-rank":
        assert sorted(file.name for file in (tmp_path / "r" / "trajectory.d" / "0000").iterdir()) == [
            f"rank-{rank:05d}.h5" for rank in range(ranks)
        ]


def test_a_run_goes_on_on_other_ranks_in_new_parts_and_the_old_ones_stay(tmp_path: Path, expected: Any) -> None:
    """Each session repeats a step of the one before, which was behind the checkpoint, and is moved as a folder."""
    folder = tmp_path / "r"
    for ranks, steps in ((2, range(0, 30, EVERY)), (3, range(20, 50, EVERY)), (1, range(40, 60, EVERY))):
        before = {file: file.read_bytes() for file in folder.glob("trajectory.d/*/*")}
        start = steps.start or None
        run_in_process(
            ranks,
            lambda transport, steps=steps, start=start: write("per-rank", folder / "trajectory.h5", transport, steps, start),
        )
        assert before == {file: file.read_bytes() for file in before}
    folder.rename(tmp_path / "moved")
    require_equal(contents(tmp_path / "moved" / "trajectory.h5"), expected(range(0, 60, EVERY)))
    assert len(list(tmp_path.glob("moved/trajectory.d/*/*"))) == 6


def copies(monkeypatch: pytest.MonkeyPatch, folder: Path, into: Path, body: Callable[[], None]) -> int:
    """Copies of the folder before each write, rename and removal in ``body``, and in the middle of writes; how many."""
    count = 0

    def look() -> None:
        nonlocal count
        shutil.copytree(folder, into / str(count))
        count += 1

    def watched(name: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            look()
            if name == "pwrite":
                real(arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])
                look()
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("pwrite", "replace", "truncate"):
            patch.setattr(f"hpc_holstein.output.journal.os.{name}", watched(name, getattr(os, name)))
        body()
    return count


def test_a_crash_at_any_write_leaves_whole_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of parts and of what refers to them, while a run that is continued appends a snapshot."""
    folder = tmp_path / "r"
    write("per-rank", folder / "trajectory.h5", SerialTransport(), range(0, 40, EVERY))
    domain = CartesianDomain(square.build(EXTENT), SerialTransport())

    def go_on() -> None:
        with opened("per-rank", folder / "trajectory.h5", SerialTransport(), 30, guarded=False) as writer:
            writer.write_series(30, {"order_parameter": 3.0})
            writer.write_snapshot(*state_at(30, domain))
            writer.flush()

    count = copies(monkeypatch, folder, tmp_path / "copies", go_on)
    whole = [list(range(0, end, EVERY)) for end in (30, 40)]
    seen = set()
    for number in range(count):
        path = tmp_path / "copies" / str(number) / "trajectory.h5"
        with open_trajectory(path) as trajectory:
            steps = trajectory.steps.tolist()
            assert steps in whole
            for index, step in enumerate(steps):
                assert np.array_equal(trajectory.snapshot(index).q, fields_at(step)[0])
            assert len(trajectory.series()["time"]) in (len(steps), len(steps) + 1)
        seen.add(len(steps))
        write("per-rank", path, SerialTransport(), range(30, 40, EVERY), 30)
        with h5py.File(path) as file:
            assert file["step"][...].tolist() == whole[-1]
            assert np.array_equal(file["q"][-1], fields_at(30)[0])
        assert not list(path.parent.glob("**/.*"))
    assert seen == {3, 4}
    assert count > 15


def test_no_rank_holds_the_lattice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a run with checkpoints, and when it goes on."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("a rank has gathered, or dealt out, the lattice")

    monkeypatch.setattr(CartesianDomain, "gather", refuse)
    monkeypatch.setattr(CartesianDomain, "scatter", refuse)
    monkeypatch.chdir(tmp_path)
    given = ["run", "--preset", "paper-2601.04104", "--lattice", "8x6", "--force", "atomic", "--output", "r"]
    given += ["--set", "output.writer=per-rank", "--set", "output.snapshot_every=5"]
    for steps in (10, 20):
        assert main([*given, "--steps", str(steps)]) == 0
    with open_trajectory(Path("r/trajectory.h5")) as trajectory:
        assert trajectory.steps.tolist() == [0, 5, 10, 15, 20]


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_full_disk_of_one_rank_is_the_same_error_on_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    real, path = os.pwrite, tmp_path / "trajectory.h5"

    def limited(descriptor: int, data: Any, offset: int) -> int:
        if f"rank-{ranks - 1:05d}.h5" in os.readlink(f"/proc/self/fd/{descriptor}") and offset > 80_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, offset)

    monkeypatch.setattr("hpc_holstein.output.journal.os.pwrite", limited)

    def body(transport: Transport) -> str:
        with pytest.raises(DataError) as caught:
            write("per-rank", path, transport, range(0, 600, EVERY), level=0)
        return str(caught.value)

    told = run_in_process(ranks, body)
    assert set(told) == {
        f"{path} cannot be written (No space left on device): free space, or choose another output, and give the command again"
    }
    monkeypatch.undo()
    with open_trajectory(path) as trajectory:
        for index, step in enumerate(trajectory.steps.tolist()):
            assert np.array_equal(trajectory.snapshot(index).q, fields_at(step)[0])


def test_which_writer_a_run_takes(tmp_path: Path) -> None:
    path, large = tmp_path / "trajectory.h5", writers.LARGEST_GATHERED
    assert writer_kind("auto", None, 0, large - 1, 8) == "gather"
    assert writer_kind("auto", None, 0, large, 8) == "per-rank"
    assert writer_kind("auto", None, 0, large, 1) == "gather"
    assert writer_kind("per-rank", None, 0, 4, 1) == "per-rank"
    write("per-rank", path, SerialTransport(), range(0, 20, EVERY))
    assert writer_kind("auto", path, 10, 4, 1) == "per-rank"
    with pytest.raises(ConfigError, match=r"'gather' cannot go on with .*trajectory.h5, of the writer 'per-rank': give that"):
        writer_kind("gather", path, 10, 4, 1)
    path.unlink()
    write("gather", path, SerialTransport(), range(0, 20, EVERY))
    assert writer_kind("auto", path, 10, large, 8) == "gather"
    with pytest.raises(ConfigError, match="give that or auto"):
        writer_kind("per-rank", path, 10, 4, 1)


def test_mpio_needs_an_h5py_with_mpi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if h5py.get_config().mpi:
        pytest.skip("this h5py has MPI")
    monkeypatch.chdir(tmp_path)
    given = ["run", "--preset", "paper-2601.04104", "--lattice", "8x6", "--force", "atomic", "--steps", "1"]
    assert main([*given, "--set", "output.writer=mpio"]) == 2
    told = capsys.readouterr().err
    assert "output.writer = 'mpio' needs an h5py that is built with MPI and this one is serial: install such a one" in told
    assert told.count("\n") == 1


def test_parts_without_their_trajectory_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.h5"
    write("per-rank", path, SerialTransport(), range(0, 20, EVERY))
    path.unlink()
    with pytest.raises(DataError, match=r"trajectory.d exists already and is never overwritten"):
        opened("per-rank", path, SerialTransport(), None)


def test_locking_is_asked_for_or_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*arguments: int) -> None:
        asked.append(arguments)
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(folder_lock.fcntl, "flock", refuse)
    with FolderLock(tmp_path) as lock:
        lock.acquire()
    assert asked
    with FolderLock(tmp_path, "on") as lock, pytest.raises(DataError, match=r"cannot be locked \(No locks available\) and"):
        lock.acquire()
    asked.clear()
    with FolderLock(tmp_path, "off") as lock:
        lock.acquire()
    stream = journal.JournaledFile(tmp_path / "f", "create", guarded=False)
    stream.write(b"x")
    stream.commit()
    stream.close()
    assert not asked


def test_chunks_are_equal_parts() -> None:
    assert chunk_of((200, 4096)) == (100, 128)
    assert chunk_of((7, 150)) == (7, 75)
    assert chunk_of((129, 1)) == (65, 1)


def test_parts_are_beside_their_trajectory() -> None:
    assert head.parts_of(Path("r/trajectory.h5")) == Path("r/trajectory.d")
