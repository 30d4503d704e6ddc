"""The trajectory file: names, units, values, and what happens to files that are not one."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.errors import DataError
from hpc_holstein.interfaces import ForceResult, State
from hpc_holstein.lattice import square
from hpc_holstein.output import layout
from hpc_holstein.output.gather import TrajectoryWriter
from hpc_holstein.output.journal import journal_of
from hpc_holstein.output.records import Storage
from hpc_holstein.storage.series import SERIES, TIMINGS
from hpc_holstein.storage.trajectory import is_trajectory, open_trajectory

EXTENT = (4, 6)
DT = 0.05


def global_state(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(step)
    return generator.normal(size=EXTENT), generator.normal(size=EXTENT), generator.uniform(size=EXTENT)


def write(path: Path, transport: Transport, dtype: torch.dtype = torch.float64) -> None:
    """Two snapshots, three rows of observables."""
    domain = CartesianDomain(square.build(EXTENT), transport)
    with TrajectoryWriter(path, domain, DT, dtype, {"config": "x = 1\n", "seed": 3}) as writer:
        for step in (0, 50):
            like = torch.zeros((*domain.local_extent, 1, 1), dtype=dtype)
            q, velocity, n = (domain.scatter(torch.from_numpy(f)[..., None, None], like) for f in global_state(step))
            forces = ForceResult(force=q, density=n[..., 0], chemical_potential=torch.tensor(0.25 + step))
            writer.write_snapshot(State(q, velocity, step, forces))
        for step in (0, 10, 20):
            writer.write_series(step, {"order_parameter": 0.1 * step, "kinetic_temperature": 1.0})


def test_xarray_finds_names_coordinates_and_units(tmp_path: Path) -> None:
    path = tmp_path / "run" / "trajectory.h5"
    write(path, SerialTransport())
    with xr.open_dataset(path, engine="h5netcdf") as data:
        assert data.q.dims == ("time", "y", "x")
        assert data.order_parameter.dims == ("observables_time",)
        assert data.chemical_potential.dims == ("time",)
        assert np.allclose(data.time, [0.0, 2.5])
        assert np.allclose(data.observables_time, [0.0, 0.5, 1.0])
        assert np.array_equal(data.x, np.arange(6.0))
        units = {"time": "hbar/t_nn", "q": "a", "velocity": "a t_nn/hbar", "density": "electrons/site", "y": "a"}
        assert {name: data[name].attrs["units"] for name in units} == units
        assert all("units" in data[name].attrs for name in data.variables)
        for name, expected in zip(("q", "velocity", "density"), global_state(50), strict=True):
            assert np.array_equal(data[name].sel(time=2.5), expected)
        assert np.array_equal(data.chemical_potential, [0.25, 50.25])
        assert np.array_equal(data.step, [0, 50])
        assert np.allclose(data.order_parameter, [0.0, 1.0, 2.0])
        assert np.isnan(data.total_energy).all()
        assert data.attrs["seed"] == 3


def test_timings_are_a_group_with_the_times_of_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    with TrajectoryWriter(path, CartesianDomain(square.build(EXTENT), SerialTransport()), DT, torch.float64, {}) as writer:
        for step in (0, 10):
            writer.write_series(step, {}, {"force": 0.5 + step, "other": 0.25})
    with xr.open_dataset(path, engine="h5netcdf", group="timing") as data:
        assert set(data.data_vars) == {f"{name}_seconds" for name in TIMINGS}
        assert data.force_seconds.dims == ("observables_time",)
        assert {variable.attrs["units"] for variable in data.data_vars.values()} == {"s"}
        assert np.array_equal(data.force_seconds, [0.5, 10.5])
        assert np.isnan(data.output_seconds).all()


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_file_does_not_depend_on_the_ranks(tmp_path: Path, ranks: int) -> None:
    write(tmp_path / "one.h5", SerialTransport())
    run_in_process(ranks, lambda transport: write(tmp_path / "many.h5", transport))
    with xr.open_dataset(tmp_path / "one.h5") as one, xr.open_dataset(tmp_path / "many.h5") as many:
        xr.testing.assert_identical(one, many)


def test_single_precision_is_stored_as_such(tmp_path: Path) -> None:
    write(tmp_path / "t.h5", SerialTransport(), torch.float32)
    with h5py.File(tmp_path / "t.h5") as file:
        assert file["q"].dtype == np.float32


def test_the_reader_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    write(path, SerialTransport())
    assert is_trajectory(path)
    with open_trajectory(path) as trajectory:
        assert len(trajectory) == 2
        assert trajectory.extent == EXTENT
        assert trajectory.attributes["config"] == "x = 1\n"
        snapshot = trajectory.snapshot(-1)
        assert (snapshot.step, snapshot.time, snapshot.chemical_potential) == (50, 2.5, 50.25)
        assert np.array_equal(snapshot.velocity, global_state(50)[1])
        series = trajectory.series()
        assert set(series) == {"time", *SERIES}
        assert {len(row) for row in series.values()} == {3}
        with pytest.raises(DataError, match="snapshot 2 is not in"):
            trajectory.snapshot(2)


def test_what_was_flushed_survives_a_run_that_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    domain = CartesianDomain(square.build(EXTENT), SerialTransport())
    writer = TrajectoryWriter(path, domain, DT, torch.float64, {})
    ones = torch.ones(*EXTENT, 1, 1)
    writer.write_snapshot(State(ones, ones, forces=ForceResult(ones, ones[..., 0], torch.tensor(0.0))))
    copy = tmp_path / "copy.h5"
    copy.write_bytes(path.read_bytes())  # as the disk stands while the run goes on
    writer.close()
    with open_trajectory(copy) as trajectory:
        assert np.array_equal(trajectory.snapshot(0).q, np.ones(EXTENT))


def state_at(step: int) -> State:
    q, velocity, n = (torch.from_numpy(field)[..., None, None] for field in global_state(step))
    return State(q, velocity, step, ForceResult(q, n[..., 0], torch.tensor(0.25 + step)))


def append(writer: TrajectoryWriter, step: int) -> None:
    writer.write_series(step, {"order_parameter": 0.1 * step})
    writer.write_snapshot(state_at(step))
    writer.flush()


def require_whole(path: Path, steps: list[list[int]]) -> None:
    """The file holds one of these lists of steps, in snapshots and rows alike, with the right values."""
    with open_trajectory(path) as trajectory:
        found = [int(step) for step in trajectory.steps]
        assert found in steps
        for index, step in enumerate(found):
            assert np.array_equal(trajectory.snapshot(index).q, global_state(step)[0])
        assert np.allclose(trajectory.series()["order_parameter"], 0.1 * np.array(found))


def test_a_crash_at_any_write_leaves_whole_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While rows are appended, and while those after a checkpoint are removed; before each write, and in its middle."""
    domain = CartesianDomain(square.build(EXTENT), SerialTransport())
    path, real = tmp_path / "t.h5", os.pwrite
    with TrajectoryWriter(path, domain, DT, torch.float64, {"config": ""}) as writer:
        for step in range(0, 60, 10):
            append(writer, step)
    disks: list[tuple[bytes, bytes]] = []

    def look() -> None:
        journal = journal_of(path)
        disks.append((path.read_bytes(), journal.read_bytes() if journal.exists() else b""))

    def watched(descriptor: int, data: memoryview, offset: int) -> int:
        look()
        real(descriptor, data[: len(data) // 2], offset)
        look()
        return real(descriptor, data, offset)

    monkeypatch.setattr("hpc_holstein.output.journal.os.pwrite", watched)
    unguarded = Storage(guarded=False)  # a guarded writer would let look() wait
    with TrajectoryWriter.continued(path, domain, DT, 35, "", unguarded) as writer:
        writer.flush()
        append(writer, 40)
        append(writer, 50)
    monkeypatch.undo()
    before, cut = [0, 10, 20, 30, 40, 50], [0, 10, 20, 30]
    for content, journal in disks:
        path.write_bytes(content)
        journal_of(path).write_bytes(journal)
        require_whole(path, [before, cut, [*cut, 40], [*cut, 40, 50]])
        with TrajectoryWriter.continued(path, domain, DT, 35, "") as writer:
            append(writer, 40)
        require_whole(path, [[*cut, 40]])
    assert len(disks) > 20


def test_a_run_that_goes_on_removes_what_comes_later(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    write(path, SerialTransport())
    domain = CartesianDomain(square.build(EXTENT), SerialTransport())
    with TrajectoryWriter.continued(path, domain, DT, 15, "x = 2\n") as writer:
        assert writer.rows(15) == (1, 2)
        append(writer, 15)
    with open_trajectory(path) as trajectory:
        assert list(trajectory.steps) == [0, 15]
        assert np.allclose(trajectory.series()["time"], [0.0, 0.5, 0.75])
        assert trajectory.attributes["config"] == "x = 2\n"
        assert np.array_equal(trajectory.snapshot(1).q, global_state(15)[0])


def test_a_flipped_bit_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    write(path, SerialTransport())
    content = path.read_bytes()
    start = content.index(global_state(50)[1].tobytes())  # the velocity of the second snapshot
    path.write_bytes(content[: start + 5] + bytes([content[start + 5] ^ 4]) + content[start + 6 :])
    with open_trajectory(path) as trajectory:
        trajectory.snapshot(0)
        with pytest.raises(DataError, match=r"snapshot 1 of .* cannot be read"):
            trajectory.snapshot(1)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    path.write_text("precious")
    with pytest.raises(DataError, match="never overwritten"):
        write(path, SerialTransport())
    assert path.read_text() == "precious"


def test_files_that_are_no_trajectory_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    with pytest.raises(DataError, match="does not exist"), open_trajectory(path):
        pass
    write(path, SerialTransport())
    whole = path.read_bytes()
    (tmp_path / "half.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="truncated"), open_trajectory(tmp_path / "half.h5"):
        pass
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["q"] = np.zeros((1, 2, 2))
    assert not is_trajectory(tmp_path / "other.h5")
    with pytest.raises(DataError, match="not a trajectory"), open_trajectory(tmp_path / "other.h5"):
        pass
    with h5py.File(path, "r+") as file:
        file["q"][1, 2, 3] = np.nan
    with open_trajectory(path) as trajectory, pytest.raises(DataError, match=r"snapshot 1 .*not finite"):
        trajectory.snapshot(-1)


@pytest.mark.parametrize("number", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["noise", "smooth", "equal", "one"])
def test_packed_chunks_are_zlib_streams_and_not_larger(number: type, kind: str) -> None:
    rng = np.random.default_rng(1)
    block = {
        "noise": rng.normal(size=(128, 100)),
        "smooth": np.add.outer(np.arange(128), np.arange(100)),
        "equal": np.full((128, 100), 0.1),
        "one": np.ones((1, 1)),
    }[kind].astype(number)
    planes = block.reshape(-1, 1).view(np.uint8).T.tobytes()
    packed = layout._packed(block, 1)
    assert zlib.decompress(packed) == planes
    assert len(packed) <= 1.01 * len(zlib.compress(planes, 1)) + 16
    if kind != "one":
        noise = [layout._is_noise(plane) for plane in np.frombuffer(planes, np.uint8).reshape(block.itemsize, -1)]
        assert noise[0] == (kind == "noise")
        assert not noise[-1]  # sign and exponent
