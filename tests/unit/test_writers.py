"""Trajectories: the same content from any writers on any ranks, in segments and packed, merged and continued."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from written import EVERY, EXTENT, append, fields_at, opened, write

from hpc_holstein.cli import main
from hpc_holstein.config import load_config
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.errors import ConfigError, DataError
from hpc_holstein.lattice import square
from hpc_holstein.output import folder_lock
from hpc_holstein.output.folder_lock import FolderLock
from hpc_holstein.storage import segments
from hpc_holstein.storage.layout import chunk_of
from hpc_holstein.storage.shares import CELLS, writers_of
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
    """What one rank writes, in one file."""

    def of(steps: range) -> dict[str, Any]:
        path = tmp_path / "expected.h5"
        write(path, SerialTransport(), steps, compression=0)
        assert not path.with_suffix(".d").exists()
        found = contents(path)
        for step, q in zip(steps, found["h5py q"][0], strict=True):
            assert np.array_equal(q, fields_at(step)[0])
        return found

    return of


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(("writers", "ranks", "level"), [(1, 1, 0), (0, 2, 1), (2, 3, 9), (9, 6, 1)])
def test_any_writers_write_the_same(tmp_path: Path, expected: Any, writers: int, ranks: int, level: int, pack: bool) -> None:
    path, steps = tmp_path / "r" / "trajectory.h5", range(0, 60, EVERY)
    how = {"compression": level, "writers": writers, "pack": pack}
    run_in_process(ranks, lambda transport: write(path, transport, steps, **how))
    require_equal(contents(path), expected(steps))
    with open_trajectory(path) as trajectory:
        for index, step in enumerate(steps):
            snapshot = trajectory.snapshot(index)
            for found, values in zip((snapshot.q, snapshot.velocity, snapshot.density), fields_at(step), strict=False):
                assert np.array_equal(found, values)
            assert np.array_equal(trajectory.density(index), fields_at(step)[2])
        assert np.array_equal(trajectory.field("force_deviation", 4), fields_at(40)[3])
        assert np.isnan(trajectory.field("force_deviation", 0)).all()
        assert np.allclose(trajectory.seconds(), 1.0)
    if pack:
        assert os.listdir(path.parent) == ["trajectory.h5"]
    else:
        boxes = {name[11:16] for name in os.listdir(path.with_suffix(".d"))}
        assert len(boxes) == min(writers or 1, ranks)


@pytest.mark.parametrize("pack", [None, False])
def test_a_run_goes_on_on_other_ranks(tmp_path: Path, expected: Any, pack: bool | None) -> None:
    """Each session repeats a step of the one before, which was behind the checkpoint; the folder is moved at last."""
    folder = tmp_path / "r"
    for ranks, writers, steps in (
        (2, 2, range(0, 30, EVERY)),
        (3, 2, range(20, 50, EVERY)),
        (1, 0, range(40, 50, EVERY)),
        (4, 0, range(40, 60, EVERY)),
    ):
        start, how = steps.start or None, {"writers": writers, "pack": pack}
        run_in_process(
            ranks,
            lambda transport, steps=steps, start=start, how=how: write(
                folder / "trajectory.h5", transport, steps, start, **how
            ),
        )
    folder.rename(tmp_path / "moved")
    require_equal(contents(tmp_path / "moved" / "trajectory.h5"), expected(range(0, 60, EVERY)))


def test_many_restarts_leave_no_larger_files(tmp_path: Path) -> None:
    """Of one step each, the last one of which is written again."""

    def size(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    steps = range(0, 200, EVERY)
    write(tmp_path / "whole" / "trajectory.h5", SerialTransport(), steps)
    for name, pack in (("packed", None), ("segments", False)):
        path = tmp_path / name / "trajectory.h5"
        write(path, SerialTransport(), range(0, 2 * EVERY, EVERY), pack=pack)
        for start in range(EVERY, steps[-1], EVERY):
            write(path, SerialTransport(), range(start, start + 2 * EVERY, EVERY), start, pack=pack)
        with h5py.File(path) as file, h5py.File(tmp_path / "whole" / "trajectory.h5") as whole:
            assert np.array_equal(file["q"], whole["q"])
        assert size(path.parent) < size(tmp_path / "whole") * (1.001 if pack is None else 1.5)  # an index besides


def test_segments_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: Any) -> None:
    """No more than some a box, of which the index refers to those that are there."""
    monkeypatch.setattr(segments, "MOST", 4)
    path, steps = tmp_path / "r" / "trajectory.h5", range(0, 30 * EVERY, EVERY)

    def body(transport: Transport) -> None:
        domain = CartesianDomain(square.build(EXTENT), transport)
        with opened(path, transport, None, writers=2, pack=False) as writer:
            for step in steps:
                append(writer, range(step, step + 1), domain)
                writer.flush()
                transport.barrier()
                with open_trajectory(path) as trajectory:
                    assert np.array_equal(trajectory.snapshot(-1).q, fields_at(step)[0])
                    assert np.array_equal(trajectory.snapshot(0).q, fields_at(0)[0])
                transport.barrier()

    run_in_process(2, body)
    assert len(os.listdir(path.with_suffix(".d"))) <= 2 * 5
    require_equal(contents(path), expected(steps))


def test_large_files_are_not_made_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: Any) -> None:
    """Those that are merged, shortened and packed."""
    monkeypatch.setattr(segments, "MOST", 4)
    for room in ("segments", "index"):
        monkeypatch.setattr(f"hpc_holstein.storage.{room}.LARGE", 0)
    path = tmp_path / "r" / "trajectory.h5"
    write(path, SerialTransport(), range(0, 30, EVERY))
    domain = CartesianDomain(square.build(EXTENT), SerialTransport())
    with opened(path, SerialTransport(), 20) as writer:
        for step in range(20, 120, EVERY):
            append(writer, range(step, step + 1), domain)
            writer.flush()
    require_equal(contents(path), expected(range(0, 120, EVERY)))


def test_no_rank_holds_the_lattice_where_all_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a run with checkpoints, and when it goes on."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("a rank has gathered, or dealt out, the lattice")

    monkeypatch.setattr(CartesianDomain, "gather", refuse)
    monkeypatch.setattr(CartesianDomain, "scatter", refuse)
    path, steps = tmp_path / "trajectory.h5", range(0, 40, EVERY)
    run_in_process(4, lambda transport: write(path, transport, steps, writers=4, pack=False))
    for segment in path.with_suffix(".d").iterdir():
        with h5py.File(segment) as file:
            assert file["q"][0].size < np.prod(EXTENT) / 2


@pytest.mark.parametrize(("ranks", "writers"), [(1, 0), (3, 3), (3, 2)])
def test_a_full_disk_of_one_rank_is_the_same_error_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int, writers: int
) -> None:
    real, path = os.pwrite, tmp_path / "trajectory.h5"
    written = [0]

    def limited(descriptor: int, data: Any, offset: int) -> int:
        if "trajectory.d" in os.readlink(f"/proc/self/fd/{descriptor}"):
            written[0] += len(data)
            if written[0] > 300_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, offset)

    monkeypatch.setattr("hpc_holstein.storage.whole_files.os.pwrite", limited)
    monkeypatch.setattr("hpc_holstein.storage.writer.WAITING_BYTES", 50_000)

    def body(transport: Transport) -> str:
        with pytest.raises(DataError) as caught:
            write(path, transport, range(0, 600, EVERY), compression=0, writers=writers)
        return str(caught.value)

    told = run_in_process(ranks, body)
    assert set(told) == {
        f"{path} cannot be written (No space left on device): free space, or choose another output, and give the command again"
    }
    monkeypatch.undo()
    with open_trajectory(path) as trajectory:
        assert len(trajectory) > 2
        for index, step in enumerate(trajectory.steps.tolist()):
            assert np.array_equal(trajectory.snapshot(index).q, fields_at(step)[0])
    assert not [other for other in tmp_path.rglob(".*") if other.is_file()]


def test_how_many_ranks_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert [writers_of(0, sites, 8) for sites in (1, CELLS, CELLS + 1, 100 * CELLS)] == [1, 1, 2, 8]
    assert [writers_of(asked, CELLS, 8) for asked in (1, 5, 10**9)] == [1, 5, 8]

    def output(**given: Any) -> tuple[int, bool | None]:
        overrides = {"dynamics.steps": 1, "force.kind": "atomic", **{f"output.{name}": value for name, value in given.items()}}
        section = load_config(preset_name="paper-2601.04104", overrides=overrides).output
        return section.writers, section.pack

    assert output() == output(writer="auto") == (0, None)
    assert output(writer="gather") == (1, None)
    assert output(writer="per-rank") == output(writer="mpio") == (10**9, False)
    assert output(writer="per-rank", pack=True) == (10**9, True)
    with pytest.raises(ConfigError, match=r"writer = 'gather' is the older name of writers = 4: give one"):
        output(writer="gather", writers=4)
    monkeypatch.chdir(tmp_path)
    given = ["run", "--preset", "paper-2601.04104", "--lattice", "8x6", "--force", "atomic", "--steps", "1"]
    assert main([*given, "--set", "output.writer=nobody"]) == 2
    assert "writer" in capsys.readouterr().err


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
    assert not asked


def test_chunks_are_equal_parts() -> None:
    assert chunk_of((200, 4096)) == (100, 128)
    assert chunk_of((7, 150)) == (7, 75)
    assert chunk_of((129, 1)) == (65, 1)
