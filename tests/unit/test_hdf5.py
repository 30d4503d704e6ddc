"""The trajectory file: names, units, values, and what happens to files that are not one."""

from __future__ import annotations

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
from hpc_holstein.storage import layout
from hpc_holstein.storage.series import SERIES, TIMINGS
from hpc_holstein.storage.trajectory import is_trajectory, open_trajectory
from hpc_holstein.storage.writer import TrajectoryWriter

EXTENT = (4, 6)
DT = 0.05
ALONE = SerialTransport()


def global_state(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(step)
    return generator.normal(size=EXTENT), generator.normal(size=EXTENT), generator.uniform(size=EXTENT)


def write(path: Path, transport: Transport, dtype: torch.dtype = torch.float64) -> None:
    """Two snapshots, three rows of observables."""
    domain = CartesianDomain(square.build(EXTENT), transport)
    with TrajectoryWriter(path, domain, transport, DT, dtype, {"config": "x = 1\n", "seed": 3, "run": "0" * 32}) as writer:
        for step in (0, 50):
            like = torch.zeros((*domain.local_extent, 1, 1), dtype=dtype)
            q, velocity, n = (domain.scatter(torch.from_numpy(f)[..., None, None], like) for f in global_state(step))
            forces = ForceResult(force=q, density=n[..., 0], chemical_potential=torch.tensor(0.25 + step))
            writer.write_snapshot(State(q, velocity, step, forces))
        for step in (0, 10, 20):
            writer.write_series(step, {"order_parameter": 0.1 * step, "kinetic_temperature": 1.0})


def test_xarray_finds_names_coordinates_and_units(tmp_path: Path) -> None:
    path = tmp_path / "run" / "trajectory.h5"
    write(path, ALONE)
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
    with TrajectoryWriter(path, CartesianDomain(square.build(EXTENT), ALONE), ALONE, DT, torch.float64, {}) as writer:
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
    write(tmp_path / "one.h5", ALONE)
    run_in_process(ranks, lambda transport: write(tmp_path / "many.h5", transport))
    with xr.open_dataset(tmp_path / "one.h5") as one, xr.open_dataset(tmp_path / "many.h5") as many:
        xr.testing.assert_identical(one, many)


def test_single_precision_is_stored_as_such(tmp_path: Path) -> None:
    write(tmp_path / "t.h5", SerialTransport(), torch.float32)
    with h5py.File(tmp_path / "t.h5") as file:
        assert file["q"].dtype == np.float32


def test_the_reader_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    write(path, ALONE)
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
    domain = CartesianDomain(square.build(EXTENT), ALONE)
    writer = TrajectoryWriter(path, domain, ALONE, DT, torch.float64, {})
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


def test_a_run_that_goes_on_removes_what_comes_later(tmp_path: Path) -> None:
    path, domain = tmp_path / "t.h5", CartesianDomain(square.build(EXTENT), ALONE)
    write(path, ALONE)
    with open_trajectory(path) as trajectory:
        told = {"config": "x = 2\n", "run": trajectory.attributes["run"]}
    with pytest.raises(DataError, match="ends before step 15"):
        TrajectoryWriter.continued(path, domain, ALONE, DT, torch.float64, 15, told, least=(2, 2))
    with TrajectoryWriter.continued(path, domain, ALONE, DT, torch.float64, 15, told, least=(1, 2)) as writer:
        assert writer.rows(15) == (1, 2)
        append(writer, 15)
    with open_trajectory(path) as trajectory:
        assert list(trajectory.steps) == [0, 15]
        assert np.allclose(trajectory.series()["time"], [0.0, 0.5, 0.75])
        assert trajectory.attributes["config"] == "x = 2\n"
        assert np.array_equal(trajectory.snapshot(1).q, global_state(15)[0])


def test_a_flipped_bit_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    write(path, ALONE)
    with h5py.File(path) as file:
        place = file["velocity"].id.get_chunk_info_by_coord((1, 0, 0)).byte_offset + 100
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)
    with open_trajectory(path) as trajectory:
        trajectory.snapshot(0)
        with pytest.raises(DataError, match=r"snapshot 1 of .* cannot be read"):
            trajectory.snapshot(1)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    path.write_text("precious")
    with pytest.raises(DataError, match="never overwritten"):
        write(path, ALONE)
    assert path.read_text() == "precious"


def test_files_that_are_no_trajectory_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    with pytest.raises(DataError, match="does not exist"), open_trajectory(path):
        pass
    write(path, ALONE)
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
