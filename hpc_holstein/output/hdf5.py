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
in group ``timing``    ``observables_time``     seconds since the row before, see :data:`TIMINGS`
=====================  =======================  ==============================================================

``time`` and ``observables_time`` [hbar/t_nn], ``y`` and ``x`` [a] are dimension scales, so that
``xarray.open_dataset(path, engine="h5netcdf")`` finds names and units.  Attributes of the file say how it was made.
"""

from __future__ import annotations

import errno
import math
import os
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
from hpc_holstein.files import exists_already
from hpc_holstein.interfaces import Domain, State
from hpc_holstein.output.journal import JournaledFile, read_journal

SCHEMA = "hpc_holstein trajectory 1"


class Series(NamedTuple):
    """Unit and meaning of a scalar observable."""

    unit: str
    meaning: str


SERIES = {
    "order_parameter": Series("1", "CDW order parameter |mean phi| of the density"),
    "order_parameter_q": Series("a", "CDW order parameter |mean phi| of the lattice coordinate"),
    "domain_length_first_zero": Series("a", "CDW domain length: first zero of C(r)"),
    "domain_length_half_height": Series("a", "CDW domain length: half height of C(r)"),
    "domain_length_inverse_moment": Series("a", "CDW domain length: 1 / first moment of S(|q - K|)"),
    "domain_wall_density": Series("1", "part of the nearest-neighbour bonds across which phi changes sign"),
    "kinetic_temperature": Series("t_nn", "kinetic temperature m <v^2>"),
    "kinetic_energy": Series("t_nn/site", "kinetic energy"),
    "classical_energy": Series("t_nn/site", "classical potential V(q)"),
    "electronic_energy": Series("t_nn/site", "electronic free energy (NaN where the force provider does not know it)"),
    "total_energy": Series("t_nn/site", "sum of the three energies (NaN where one is not known)"),
    "electron_number": Series("electrons/site", "mean electron density"),
    "mu": Series("t_nn", "chemical potential at the cadence of the observables"),
}
"""Name -> unit and meaning of every scalar that a run records."""

TIMINGS = {
    "force": "forces, without communication",
    "communication": "halo exchanges and sums over ranks, waiting included",
    "output": "observables, trajectory and checkpoints, without communication",
    "other": "integration, noise and bookkeeping",
}
"""Name -> meaning of the seconds of rank 0 since the row before, which add up to the time that passed."""

_FIELDS = {"q": ("a", "lattice coordinate"), "velocity": ("a t_nn/hbar", "velocity"), "density": ("electrons/site", "n_i")}
_TIME_UNIT = "hbar/t_nn"
_COMMIT_SECONDS, _COMMIT_SHARE = 2.0, 100.0  # between two commits: at least, and in units of what one takes
_ROWS = 1024  # numbers in a chunk of a series
_FORMAT = ("v108", "v108")  # with checksums of its own and, unlike later versions, no mark that a killed writer leaves behind


class TrajectoryWriter:
    """Writes snapshots and observables of a run; every method but ``close`` is collective, only the root touches the disk.

    ``attributes`` are strings and numbers of the file.  The file is journaled: whatever ends the run, it holds all rows up to
    the last commit, of which there is one every two seconds or so.  Raises :class:`DataError` where ``path`` exists.
    """

    _file: h5py.File | None
    _bytes: JournaledFile | None

    def __init__(self, path: Path, domain: Domain, dt: float, dtype: torch.dtype, attributes: Mapping[str, Any]) -> None:
        self._start(path, domain, dt)
        if domain.rank != 0:
            return
        with _refused_in_words(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._bytes = JournaledFile(path, "create")
        self._file = h5py.File(self._bytes, "w", libver=_FORMAT)
        lattice = domain.lattice
        for name, value in {"schema": SCHEMA, "extent": list(lattice.extent), "lattice": lattice.name, **attributes}.items():
            self._file.attrs[name] = value
        number = np.float64 if dtype == torch.float64 else np.float32
        _create_layout(self._file, lattice.extent, np.dtype(number))

    @classmethod
    def continued(cls, path: Path, domain: Domain, dt: float, step: int, config: str) -> TrajectoryWriter:
        """Append to the file of a run that goes on from ``step``: rows of that step and later ones are removed first.

        ``config``: the configuration from here on.  Raises :class:`DataError`, on the root, for a file that is damaged.
        """
        writer = cls.__new__(cls)
        writer._start(path, domain, dt)
        if domain.rank != 0:
            return writer
        try:
            writer._bytes = JournaledFile(path, "append")
            writer._file = h5py.File(writer._bytes, "r+", libver=_FORMAT)
            writer._cut(step)
            writer._file.attrs["config"] = config
        except (OSError, KeyError, RuntimeError) as error:
            raise DataError(
                f"{path} is damaged ({error}): move it away, and the run goes on from step {step} in a new file"
            ) from None
        return writer

    def _start(self, path: Path, domain: Domain, dt: float) -> None:
        self.path, self._domain, self._dt = path, domain, dt
        self._file, self._bytes = None, None
        self._committed, self._pause = -math.inf, _COMMIT_SECONDS

    def _cut(self, step: int) -> None:
        """Keep the rows before ``step``."""
        assert self._file is not None
        snapshots, rows = self.rows(step)
        of_rows = (*SERIES, *map(_timing, TIMINGS), "observables_time")
        for names, kept in (((*_FIELDS, "chemical_potential", "step", "time"), snapshots), (of_rows, rows)):
            for name in names:
                if len(self._file[name]) > kept:
                    self._file[name].resize(kept, axis=0)

    def rows(self, before: int) -> tuple[int, int]:
        """On the root, the snapshots and the rows of observables of earlier steps than ``before``."""
        if self._file is None:
            return 0, 0
        observed = np.rint(self._file["observables_time"][...] / self._dt)
        return int(np.searchsorted(self._file["step"][...], before)), int(np.searchsorted(observed, before))

    def write_snapshot(self, state: State) -> None:
        """Append ``q``, ``velocity``, and the density and chemical potential of ``state.forces``, which a running state has.

        Raises :class:`DataError` on all ranks where the disk is full.
        """
        assert state.forces is not None
        fields = {"q": state.q, "velocity": state.velocity, "density": state.forces.density.unsqueeze(-1)}
        gathered = {name: self._domain.gather(field) for name, field in fields.items()}
        if self._file is not None:
            index = self._append("time", state.step * self._dt)
            for name, value in gathered.items():
                if value is not None:
                    self._put(name, index, value.reshape(self._domain.lattice.extent).cpu().numpy())
            self._put("chemical_potential", index, float(state.forces.chemical_potential))
            self._put("step", index, state.step)  # last: a reader counts snapshots by it
        self._commit()
        self._require_written()

    def write_series(self, step: int, values: Mapping[str, float], seconds: Mapping[str, float] | None = None) -> None:
        """Append one row of scalars, keys as in :data:`SERIES` and :data:`TIMINGS`; what is absent stays NaN."""
        if self._file is None:
            return
        index = self._append("observables_time", step * self._dt)
        timings = {_timing(name): value for name, value in (seconds or {}).items()}
        for name, value in {**values, **timings}.items():
            self._put(name, index, value)
        self._commit()

    def flush(self) -> None:
        """Bring all rows onto the disk; raises :class:`DataError` on all ranks where it is full."""
        self._commit(force=True)
        self._require_written()

    def close(self) -> None:
        """Commit, and close the file; :class:`DataError` on the root where the disk is full."""
        if self._file is None or self._bytes is None:
            return
        file, stream, self._file, self._bytes = self._file, self._bytes, None, None
        file.close()
        try:
            with _refused_in_words(self.path):
                stream.commit()
        finally:
            stream.close()

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(DataError) if error is not None else nullcontext():  # the first error is the one to tell
            self.close()

    def _commit(self, force: bool = False) -> None:
        """On the root, when it is time or when it must be; a disk that fails is told by :meth:`_require_written`."""
        start = time.monotonic()
        if self._file is None or self._bytes is None or not (force or start - self._committed > self._pause):
            return
        self._file.flush()
        with suppress(OSError):  # the stream keeps it
            self._bytes.commit()
        self._committed = time.monotonic()
        self._pause = max(_COMMIT_SECONDS, _COMMIT_SHARE * (self._committed - start))

    def _require_written(self) -> None:
        """Collective: raise what the disk of the root said, in the same words on all ranks."""
        failure = None if self._bytes is None else self._bytes.failure
        code = torch.tensor(0 if failure is None else failure.errno or errno.EIO, dtype=torch.float64)
        told = int(self._domain.allsum(code))
        if told:
            raise DataError(_cannot_write(self.path, os.strerror(told)))

    def _append(self, scale: str, time: float) -> int:
        assert self._file is not None
        index = len(self._file[scale])
        self._put(scale, index, time)
        return index

    def _put(self, name: str, index: int, value: Any) -> None:
        assert self._file is not None
        dataset = self._file[name]
        if len(dataset) <= index:
            dataset.resize(index + 1, axis=0)
        dataset[index] = value


def _create_layout(file: h5py.File, extent: tuple[int, ...], number: np.dtype[Any]) -> None:
    """Empty variables with their scales attached."""
    for name in ("time", "observables_time"):
        _scale(file, name, np.empty(0), _TIME_UNIT, "time", growing=True)
    for name, cells in zip(("y", "x"), extent, strict=True):
        _scale(file, name, np.arange(cells, dtype=np.float64), "a", f"{name} of the site")
    for name, (unit, meaning) in _FIELDS.items():
        _variable(file, name, ("time", "y", "x"), extent, number, unit, meaning)
    _variable(file, "chemical_potential", ("time",), (), np.dtype(np.float64), "t_nn", "chemical potential")
    _variable(file, "step", ("time",), (), np.dtype(np.int64), "1", "number of the time step")
    for name, series in SERIES.items():
        _variable(file, name, ("observables_time",), (), np.dtype(np.float64), series.unit, series.meaning)
    for name, meaning in TIMINGS.items():
        _variable(file, _timing(name), ("observables_time",), (), np.dtype(np.float64), "s", meaning)


def _timing(name: str) -> str:
    """In a group of their own: they differ from run to run."""
    return f"timing/{name}_seconds"


def _scale(file: h5py.File, name: str, values: NDArray[Any], unit: str, meaning: str, growing: bool = False) -> None:
    chunk = (_ROWS,) if growing else None
    dataset = file.create_dataset(name, data=values, maxshape=(None,) if growing else None, chunks=chunk, fletcher32=growing)
    dataset.make_scale(name)
    dataset.attrs.update(units=unit, long_name=meaning)


def _variable(
    file: h5py.File,
    name: str,
    dims: tuple[str, ...],
    cells: tuple[int, ...],
    number: np.dtype[Any],
    unit: str,
    meaning: str,
) -> None:
    chunk = (1, *cells) if cells else (_ROWS,)
    fill = 0 if number.kind == "i" else np.nan
    shape, longest = (0, *cells), (None, *cells)
    dataset = file.create_dataset(name, shape, number, maxshape=longest, chunks=chunk, fillvalue=fill, fletcher32=True)
    for axis, dim in enumerate(dims):
        dataset.dims[axis].attach_scale(file[dim])
    dataset.attrs.update(units=unit, long_name=meaning)


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

    def __len__(self) -> int:
        return len(self.steps)

    def snapshot(self, index: int) -> Snapshot:
        """Snapshot ``index`` (negative: from the end); DataError when there is none, or when it holds NaN."""
        if not -len(self) <= index < len(self):
            raise DataError(
                f"snapshot {index} is not in {self.path}: it holds {len(self)}, give -{len(self)} to {len(self) - 1}"
            )
        index %= len(self)
        with _damage_in_words(self.path, f"snapshot {index} of "):
            q, velocity, density = (self._file[name][index] for name in ("q", "velocity", "density"))
        if not (np.isfinite(q).all() and np.isfinite(velocity).all()):
            raise DataError(f"snapshot {index} of {self.path} holds values that are not finite: choose another one")
        with _damage_in_words(self.path):
            mu = float(self._file["chemical_potential"][index])
        return Snapshot(int(self.steps[index]), float(self.times[index]), q, velocity, density, mu)

    def series(self) -> dict[str, NDArray[np.float64]]:
        """Observables and their ``time``, arrays of one length."""
        with _damage_in_words(self.path, "an observable of "):
            times = self._file["observables_time"][...]
            found = {name: self._file[name][: len(times)] for name in SERIES}
        padded = {name: np.pad(row, (0, len(times) - len(row)), constant_values=np.nan) for name, row in found.items()}
        return {"time": times, **padded}


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
        with _damage_in_words(path):
            file = stack.enter_context(_opened(path))
            if file.attrs.get("schema") != SCHEMA:
                raise DataError(
                    f"{path} is not a trajectory of hpc_holstein: give the trajectory.h5 that `hpc-holstein run` wrote"
                )
            if len(file["step"]) == 0:
                raise DataError(f"{path} holds no snapshots: the run ended before the first one, run it again")
            trajectory = Trajectory(path, file)
        yield trajectory


def _opened(path: Path) -> h5py.File:
    """The last commit of a file, which may be in its journal still."""
    return h5py.File(path if read_journal(path) is None else JournaledFile(path, "read"), "r")


def is_trajectory(path: Path) -> bool:
    """Whether ``path`` is a trajectory file, of whatever content."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    try:
        with _opened(path) as file:
            return bool(file.attrs.get("schema") == SCHEMA)
    except OSError:
        return False


@contextmanager
def _refused_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise DataError(exists_already(path)) from None
    except OSError as error:
        raise DataError(_cannot_write(path, error.strerror or str(error))) from None


def _cannot_write(path: Path, reason: str) -> str:
    return f"{path} cannot be written ({reason}): free space, or choose another output, and give the command again"


@contextmanager
def _damage_in_words(path: Path, what: str = "") -> Iterator[None]:
    """HDF5 checks its checksums when it reads."""
    try:
        yield
    except (OSError, KeyError, RuntimeError) as error:
        raise DataError(f"{what}{path} cannot be read ({error}): the file is truncated, damaged or of another format") from None
