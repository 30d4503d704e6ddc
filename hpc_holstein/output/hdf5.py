"""Trajectories in one HDF5 file with named dimensions, coordinates and units; the root gathers and writes.

=====================  =======================  ==============================================================
variable               dimensions               meaning [unit]
=====================  =======================  ==============================================================
``q``                  ``time, y, x``           lattice coordinates [a]
``velocity``           ``time, y, x``           their velocities [a t_nn/hbar]
``density``            ``time, y, x``           electron density n_i [electrons/site]
``chemical_potential`` ``time``                 [t_nn]
``step``               ``time``                 number of the time step [1]
one for each series    ``observables_time``     observables at their own cadence, see :data:`SERIES`
``force_deviation``    ``time, y, x``           standard deviation of the force over a committee [t_nn/a]; only with one
one for each of those  ``observables_time``     how far the network is trusted, see :data:`TRUST`; only where it is judged
in group ``timing``    ``observables_time``     seconds since the row before, see :data:`TIMINGS`
=====================  =======================  ==============================================================

``time`` and ``observables_time`` [hbar/t_nn], ``y`` and ``x`` [a] are dimension scales, so that
``xarray.open_dataset(path, engine="h5netcdf")`` finds names and units.  Attributes of the file say how it was made.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from hpc_holstein.errors import DataError
from hpc_holstein.interfaces import Domain, State
from hpc_holstein.output.background import Background, Pace
from hpc_holstein.output.complaints import damage_before, damage_in_words, refused_in_words
from hpc_holstein.output.journal import JournaledFile, read_journal, write_whole
from hpc_holstein.output.layout import (
    SCHEMA,
    add_series,
    create_layout,
    describe_field,
    new_field,
    of_rows,
    of_snapshots,
    put_field,
    timing,
)
from hpc_holstein.output.readers import unchanged
from hpc_holstein.output.records import (
    COMMIT_SECONDS,
    Storage,
    earlier,
    facts_of,
    number_of,
    require_written,
    stored_fields,
    stored_numbers,
    stored_row,
)
from hpc_holstein.output.series import SERIES, TIMINGS, TRUST

FORMAT = ("v108", "v108")
"""Versions of HDF5: with checksums of its own and, unlike later ones, no mark that a killed writer leaves behind."""


class TrajectoryWriter:
    """Writes snapshots and observables of a run; every method but ``close`` is collective, only the root touches the disk.

    ``attributes`` are strings and numbers of the file.  The file is journaled: whatever ends the run, it holds all rows up to
    the last commit, of which there is one every two seconds or so.  A thread of the root packs and writes while the run goes
    on.  Raises :class:`DataError` where ``path`` exists.
    """

    _file: h5py.File | None
    _bytes: JournaledFile | None

    def __init__(
        self,
        path: Path,
        domain: Domain,
        dt: float,
        dtype: torch.dtype,
        attributes: Mapping[str, Any],
        storage: Storage | None = None,
    ) -> None:
        self._start(path, domain, dt, storage)
        if domain.rank != 0:
            return
        with refused_in_words(path):
            if path.exists():
                raise FileExistsError
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, self._empty(number_of(dtype), attributes))
            self._bytes = JournaledFile(path, "append", self._storage.guarded)
        self._file = h5py.File(self._bytes, "r+", libver=FORMAT)

    @classmethod
    def continued(
        cls, path: Path, domain: Domain, dt: float, step: int, config: str, storage: Storage | None = None
    ) -> TrajectoryWriter:
        """Append to the file of a run that goes on from ``step``: rows of that step and later ones are removed first.

        ``config``: the configuration from here on.  Raises :class:`DataError`, on the root, for a file that is damaged.
        """
        writer = cls.__new__(cls)
        writer._start(path, domain, dt, storage)
        if domain.rank != 0:
            return writer
        with damage_before(path, step):
            writer._bytes = JournaledFile(path, "append", writer._storage.guarded)
            writer._file = h5py.File(writer._bytes, "r+", libver=FORMAT)
            writer._cut(step)
            writer._file.attrs["config"] = config
        return writer

    def _empty(self, number: np.dtype[Any], attributes: Mapping[str, Any]) -> memoryview:
        """The file before the first row."""
        stream, extent = io.BytesIO(), self._domain.lattice.extent
        with h5py.File(stream, "w", libver=FORMAT) as file:
            file.attrs.update(facts_of(self._domain, attributes))
            create_layout(file, extent, lambda name: new_field(file, name, extent, number, self._storage.compression))
        return stream.getbuffer()

    def _start(self, path: Path, domain: Domain, dt: float, storage: Storage | None) -> None:
        self.path, self._domain, self._dt, self._storage = path, domain, dt, storage or Storage()
        self._file, self._bytes = None, None
        self._worker, self._pace = Background(), Pace(COMMIT_SECONDS)

    def _cut(self, step: int) -> None:
        """Keep the rows before ``step``."""
        assert self._file is not None
        snapshots, rows = self.rows(step)
        for names, kept in ((of_snapshots(self._file), snapshots), (of_rows(self._file), rows)):
            for name in names:
                if len(self._file[name]) > kept:
                    self._file[name].resize(kept, axis=0)

    def rows(self, before: int) -> tuple[int, int]:
        """On the root, the snapshots and the rows of observables of earlier steps than ``before``."""
        if self._file is None:
            return 0, 0
        self._worker.wait()
        return earlier(self._file["step"][...], self._file["observables_time"][...] / self._dt, before)

    def write_snapshot(self, state: State, deviation: torch.Tensor | None = None) -> None:
        """Append ``q``, ``velocity``, and the density and chemical potential of ``state.forces``, which a running state has.

        ``deviation [*cells, basis]``: of the force over a committee.
        Raises :class:`DataError` on all ranks where the disk is full.
        """
        self._worker.wait()  # at most one snapshot is in memory beside the run
        gathered = {name: self._domain.gather(field) for name, field in stored_fields(state, deviation).items()}
        if self._file is not None:
            extent, numbers = self._domain.lattice.extent, stored_numbers(state, self._dt)
            fields = {name: whole.reshape(extent).cpu().numpy() for name, whole in gathered.items() if whole is not None}
            self._worker.submit(lambda: self._append_snapshot(fields, numbers))
            if state.step == 0:  # a run that has just begun can be looked at
                self._worker.submit(self._commit)
                self._worker.wait()
        self._require_written()

    def write_series(self, step: int, values: Mapping[str, float], seconds: Mapping[str, float] | None = None) -> None:
        """Append one row of scalars, keys as in :data:`SERIES`, :data:`TRUST`, :data:`TIMINGS`; what is absent stays NaN."""
        if self._file is None:
            return
        row = stored_row(step * self._dt, values, seconds)
        self._worker.submit(lambda: self._append_row(row))

    def flush(self) -> None:
        """Bring all rows onto the disk; raises :class:`DataError` on all ranks where it is full."""
        if self._file is not None:
            self._worker.submit(self._commit)
            self._worker.wait()
        self._require_written()

    def close(self) -> None:
        """Commit, and close the file; :class:`DataError` on the root where the disk is full."""
        if self._file is None or self._bytes is None:
            return
        try:
            self._worker.close()
        finally:
            file, stream, self._file, self._bytes = self._file, self._bytes, None, None
            file.close()
            try:
                with refused_in_words(self.path):
                    stream.commit(force=True)
            finally:
                stream.close()

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(DataError) if error is not None else nullcontext():  # the first error is the one to tell
            self.close()

    def _append_snapshot(self, fields: Mapping[str, NDArray[Any]], numbers: Mapping[str, float]) -> None:
        file = self._file
        assert file is not None
        index = len(file["step"])
        for name in [name for name in fields if name not in file]:  # a run may get a committee when it is continued
            extent, number = self._domain.lattice.extent, file["q"].dtype
            describe_field(file, name, new_field(file, name, extent, number, self._storage.compression))
        for name, values in fields.items():
            put_field(file[name], index, values)
        _grow(file, of_snapshots(file)[:-1], index + 1)
        for name, number in numbers.items():
            _put(file, name, index, number)
        self._commit_when_due()

    def _append_row(self, row: Mapping[str, float]) -> None:
        file = self._file
        assert file is not None
        index = len(file["observables_time"])
        for name in TRUST:
            if name in row and name not in file:
                add_series(file, name)
        _grow(file, of_rows(file)[1:], index + 1)
        for name, value in row.items():
            _put(file, name, index, value)
        self._commit_when_due()

    def _commit_when_due(self) -> None:
        if self._pace.due():
            self._commit()

    def _commit(self) -> None:
        """A disk that fails is told by :meth:`_require_written`."""
        if self._file is None or self._bytes is None:
            return
        start = time.monotonic()
        self._file.flush()
        with suppress(OSError):  # the stream keeps it
            self._bytes.commit()
        self._pace.taken(start)

    def _require_written(self) -> None:
        """Collective: raise what the disk of the root said, in the same words on all ranks."""
        failure = None if self._bytes is None else self._bytes.failure
        require_written(self.path, failure, self._domain)


def _grow(file: h5py.File, names: list[str], length: int) -> None:
    for name in names:
        if len(file[name]) < length:
            file[name].resize(length, axis=0)


def _put(file: h5py.File, name: str, index: int, value: Any) -> None:
    _grow(file, [name], index + 1)
    file[name][index] = value


@dataclass(frozen=True)
class Snapshot:
    """One stored state; arrays ``[y, x]``."""

    step: int
    time: float
    q: NDArray[np.floating]
    velocity: NDArray[np.floating]
    density: NDArray[np.floating]
    chemical_potential: float


class Trajectory:
    """A stored run, read one snapshot at a time; made by :func:`open_trajectory`."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self._file = path, file
        self.attributes: dict[str, Any] = {
            key: value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value for key, value in file.attrs.items()
        }
        self.steps: NDArray[np.int64] = file["step"][...]
        self.times: NDArray[np.float64] = file["time"][: len(self.steps)]
        self.extent: tuple[int, int] = file["q"].shape[1:]
        self.number: np.dtype[Any] = file["q"].dtype
        self._tiles = tiles_of(file["q"]) if file["q"].is_virtual else []

    def __len__(self) -> int:
        return len(self.steps)

    def snapshot(self, index: int) -> Snapshot:
        """Snapshot ``index`` (negative: from the end); DataError when there is none, or when it holds NaN."""
        if not -len(self) <= index < len(self):
            raise DataError(
                f"snapshot {index} is not in {self.path}: it holds {len(self)}, give -{len(self)} to {len(self) - 1}"
            )
        index %= len(self)
        with damage_in_words(self.path, f"snapshot {index} of "):
            q, velocity, density = self._fields(index, ("q", "velocity", "density"))
        if not (np.isfinite(q).all() and np.isfinite(velocity).all()):
            raise DataError(f"snapshot {index} of {self.path} holds values that are not finite: choose another one")
        with damage_in_words(self.path):
            mu = float(self._file["chemical_potential"][index])
        return Snapshot(int(self.steps[index]), float(self.times[index]), q, velocity, density, mu)

    def density(self, index: int) -> NDArray[np.floating]:
        """The electron density of snapshot ``index`` alone, ``[y, x]``."""
        with damage_in_words(self.path, f"snapshot {index} of "):
            return self._fields(index % len(self), ("density",))[0]

    def _fields(self, index: int, names: tuple[str, ...]) -> list[NDArray[Any]]:
        """From the parts themselves where the file refers to such: the last commit of one may be in its journal still."""
        if not self._file["q"].is_virtual:
            return [self._file[name][index] for name in names]
        found = [np.full(self.extent, np.nan, self._file[name].dtype) for name in names]
        for tile in self._tiles:
            if tile.first <= index < tile.end:
                with opened(self.path.parent / tile.file) as part:
                    for field, name in zip(found, names, strict=True):
                        field[tile.box] = part[name][index - tile.first]
        return found

    def series(self) -> dict[str, NDArray[np.float64]]:
        """Observables and their ``time``, arrays of one length."""
        with damage_in_words(self.path, "an observable of "):
            times = self._file["observables_time"][...]
            names = (*SERIES, *(name for name in TRUST if name in self._file))
            found = {name: self._file[name][: len(times)] for name in names}
        padded = {name: np.pad(row, (0, len(times) - len(row)), constant_values=np.nan) for name, row in found.items()}
        return {"time": times, **padded}

    def seconds(self) -> NDArray[np.float64]:
        """Wall time of each row of observables since the row before [s]."""
        with damage_in_words(self.path, "the timings of "):
            return np.sum([self._file[timing(name)][...] for name in TIMINGS], axis=0)


def library() -> str:
    """Versions of h5py and HDF5, and whether they write in parallel."""
    kind = "with MPI" if h5py.get_config().mpi else "serial"
    return f"h5py {h5py.version.version}, HDF5 {h5py.version.hdf5_version}, {kind}"


def trajectory_of(run: Path) -> Path:
    """The trajectory of ``run``: the folder of a run, or the file itself."""
    return run if run.is_file() else run / "trajectory.h5"


@contextmanager
def open_trajectory(path: Path) -> Iterator[Trajectory]:
    """The trajectory in ``path``; DataError where it is missing, truncated, empty or something else."""
    if not path.is_file():
        raise DataError(f"the trajectory {path} does not exist: give the folder of a run, or its trajectory.h5")
    with ExitStack() as stack:
        with damage_in_words(path):
            file = stack.enter_context(opened(path))
            if file.attrs.get("schema") != SCHEMA:
                raise DataError(
                    f"{path} is not a trajectory of hpc_holstein: give the trajectory.h5 that `hpc-holstein run` wrote"
                )
            if len(file["step"]) == 0:
                raise DataError(f"{path} holds no snapshots: the run ended before the first one, run it again")
            trajectory = Trajectory(path, file)
        yield trajectory


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The last commit of a file, which may be in its journal still; no later one goes into it meanwhile."""
    with unchanged(path), h5py.File(path if read_journal(path) is None else JournaledFile(path, "read"), "r") as file:
        yield file


def is_trajectory(path: Path) -> bool:
    """Whether ``path`` is a trajectory file, of whatever content."""
    if not path.is_file():
        return False
    try:
        with opened(path) as file:
            return bool(file.attrs.get("schema") == SCHEMA)
    except OSError:
        return False


class Tile(NamedTuple):
    """The snapshots ``[first, end)`` in a ``box`` of the cells, which are the first ones in a file beside the trajectory."""

    first: int
    end: int
    box: tuple[slice, ...]
    file: str


def tiles_of(field: h5py.Dataset) -> list[Tile]:
    """What a virtual dataset consists of."""
    tiles = []
    for source in field.virtual_sources():
        low, high = source.vspace.get_select_bounds()
        box = tuple(slice(start, last + 1) for start, last in zip(low[1:], high[1:], strict=True))
        tiles.append(Tile(low[0], high[0] + 1, box, source.file_name))
    return tiles
