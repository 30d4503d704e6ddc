"""All writers of trajectories: the same content, whole after a crash, readable at any time, on any number of ranks."""

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
import xarray as xr

from hpc_holstein.cli import main
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.errors import ConfigError, DataError
from hpc_holstein.interfaces import ForceResult, State
from hpc_holstein.lattice import square
from hpc_holstein.output import checkpoint, folder_lock, head, journal, readers, tiles, writers
from hpc_holstein.output.folder_lock import FolderLock
from hpc_holstein.output.hdf5 import open_trajectory
from hpc_holstein.output.layout import chunk_of
from hpc_holstein.output.records import Storage
from hpc_holstein.output.series import TIMINGS
from hpc_holstein.output.writers import Kind, Writer, continued_writer, new_writer, writer_kind

EXTENT = (7, 150)  # tiles and chunks of several sizes
DT = 0.05
FACTS = {"config": "x = 1\n", "seed": 3}
EVERY = 10


def fields_at(step: int) -> list[np.ndarray]:
    """Coordinate, velocity, density, deviation."""
    generator = np.random.default_rng(step)
    return [generator.normal(size=EXTENT) for _ in range(4)]


def state_at(step: int, domain: CartesianDomain, dtype: torch.dtype = torch.float64) -> tuple[State, torch.Tensor | None]:
    """A committee joins at step 30."""
    box = tuple(slice(*span) for span in domain.owned)
    q, velocity, n, deviation = (torch.from_numpy(f[box].copy()).to(dtype)[..., None, None] for f in fields_at(step))
    state = State(q, velocity, step, ForceResult(q, n[..., 0], torch.tensor(0.25 + step)))
    return state, deviation[..., 0] if step >= 30 else None


def opened(kind: Kind, path: Path, transport: Transport, step: int | None, level: int = 1, guarded: bool = True) -> Writer:
    """A new one, or one that goes on from a step."""
    domain, storage = CartesianDomain(square.build(EXTENT), transport), Storage(level, guarded)
    if step is None:
        return new_writer(kind, path, domain, transport, DT, torch.float64, FACTS, storage)
    return continued_writer(kind, path, domain, transport, DT, step, torch.float64, "x = 1\n", storage)


def write(kind: Kind, path: Path, transport: Transport, steps: range, start: int | None = None, **options: Any) -> None:
    """Snapshots and rows of these steps."""
    domain = CartesianDomain(square.build(EXTENT), transport)
    with opened(kind, path, transport, start, **options) as writer:
        for step in steps:
            if domain.rank == 0:
                row = {"order_parameter": 0.1 * step, **({"committee_rms": 0.5} if step >= 30 else {})}
                writer.write_series(step, row, dict.fromkeys(TIMINGS, 0.25))
            writer.write_snapshot(*state_at(step, domain))


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
    monkeypatch.setattr("hpc_holstein.output.hdf5.COMMIT_SECONDS", 0.0)
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


def saved_by(ranks: int, folder: Path, step: int, dtype: torch.dtype) -> None:
    def save(transport: Transport) -> None:
        domain = CartesianDomain(square.build(EXTENT), transport)
        stored = tiles.saved(folder, state_at(step, domain, dtype)[0], domain, transport)
        if stored is not None:
            checkpoint.write(folder, checkpoint.with_facts(stored, {"sessions": 2}, {"seed": 3}), 2)

    run_in_process(ranks, save)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ranks", [(1, 3), (6, 2), (2, 2), (4, 1)])
def test_a_checkpoint_of_tiles_is_read_on_any_ranks(tmp_path: Path, ranks: tuple[int, int], dtype: torch.dtype) -> None:
    saved_by(ranks[0], tmp_path, 7, dtype)

    def load(transport: Transport) -> None:
        domain = CartesianDomain(square.build(EXTENT), transport)
        stored = checkpoint.newest(tmp_path)[0] if transport.rank == 0 else None
        state, (expected, _) = checkpoint.restored(stored, domain, transport), state_at(7, domain, dtype)
        assert state.step == 7
        assert state.q.dtype == dtype
        assert state.forces is not None
        assert expected.forces is not None
        for found, wanted in (
            (state.q, expected.q),
            (state.velocity, expected.velocity),
            (state.forces.force, expected.forces.force),
            (state.forces.density, expected.forces.density),
            (state.forces.chemical_potential, expected.forces.chemical_potential),
        ):
            assert torch.equal(found, wanted)

    run_in_process(ranks[1], load)


@pytest.mark.parametrize("damage", ["gone", "short", "flipped", "of another checkpoint"])
def test_a_checkpoint_with_a_damaged_tile_is_passed_over(tmp_path: Path, damage: str) -> None:
    for step in (10, 20):
        saved_by(3, tmp_path, step, torch.float64)
    tile = tmp_path / "step-000000000020.d" / "00001.h5"
    content = bytearray(tile.read_bytes())
    content[-100] ^= 1
    match damage:
        case "gone":
            tile.unlink()
        case "short":
            tile.write_bytes(content[:-1000])
        case "flipped":
            tile.write_bytes(content)
        case _:
            shutil.copy(tmp_path / "step-000000000010.d" / "00001.h5", tile)
    stored, told = checkpoint.newest(tmp_path)
    assert stored is not None
    assert stored.step == 10
    assert len(told) == 1
    assert "step-000000000020.h5 is truncated or damaged (the checksum of its tile 00001.h5 is wrong)" in told[0]


def test_only_the_last_checkpoints_of_tiles_stay(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        saved_by(2, tmp_path, step, torch.float64)
    names = ["step-000000000020.d", "step-000000000020.h5", "step-000000000030.d", "step-000000000030.h5"]
    assert sorted(os.listdir(tmp_path)) == names
    (tmp_path / "step-000000000040.d").mkdir()  # of a run that was killed before the checkpoint was one
    checkpoint.clean(tmp_path, after=20)
    assert sorted(os.listdir(tmp_path)) == names[:2]


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
