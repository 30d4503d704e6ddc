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
=====================  =======================  ==============================================================

``time`` and ``observables_time`` [hbar/t_nn], ``y`` and ``x`` [a] are dimension scales, so that
``xarray.open_dataset(path, engine="h5netcdf")`` finds names and units.  Attributes of the file say how it was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

_FIELDS = {"q": ("a", "lattice coordinate"), "velocity": ("a t_nn/hbar", "velocity"), "density": ("electrons/site", "n_i")}
_TIME_UNIT = "hbar/t_nn"


class TrajectoryWriter:
    """Writes snapshots and observables of a run; every method is collective, only the root touches the disk.

    ``attributes`` are strings and numbers of the file.  Each snapshot is flushed, so that a run that ends early leaves
    all of it.  Raises :class:`DataError` where ``path`` exists.
    """

    def __init__(self, path: Path, domain: Domain, dt: float, dtype: torch.dtype, attributes: Mapping[str, Any]) -> None:
        self.path, self._domain, self._dt = path, domain, dt
        self._file: h5py.File | None = None
        if domain.rank != 0:
            return
        with _refused_in_words(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = h5py.File(path, "x")
        lattice = domain.lattice
        for name, value in {"schema": SCHEMA, "extent": list(lattice.extent), "lattice": lattice.name, **attributes}.items():
            self._file.attrs[name] = value
        number = np.float64 if dtype == torch.float64 else np.float32
        _create_layout(self._file, lattice.extent, np.dtype(number))

    def write_snapshot(self, state: State) -> None:
        """Append ``q``, ``velocity``, and the density and chemical potential of ``state.forces``, which a running state has."""
        assert state.forces is not None
        fields = {"q": state.q, "velocity": state.velocity, "density": state.forces.density.unsqueeze(-1)}
        gathered = {name: self._domain.gather(field) for name, field in fields.items()}
        if self._file is None:
            return
        index = self._append("time", state.step * self._dt)
        for name, value in gathered.items():
            if value is not None:
                self._put(name, index, value.reshape(self._domain.lattice.extent).cpu().numpy())
        self._put("chemical_potential", index, float(state.forces.chemical_potential))
        self._put("step", index, state.step)  # last: a reader counts snapshots by it
        self._file.flush()

    def write_series(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row of scalars, keys as in :data:`SERIES`; what is absent stays NaN."""
        if self._file is None:
            return
        index = self._append("observables_time", step * self._dt)
        for name, value in values.items():
            self._put(name, index, value)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

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


def _scale(file: h5py.File, name: str, values: NDArray[Any], unit: str, meaning: str, growing: bool = False) -> None:
    dataset = file.create_dataset(name, data=values, maxshape=(None,) if growing else None, chunks=(1024,) if growing else None)
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
    chunk = (1, *cells) if cells else (1024,)
    fill = 0 if number.kind == "i" else np.nan
    dataset = file.create_dataset(name, (0, *cells), number, maxshape=(None, *cells), chunks=chunk, fillvalue=fill)
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
        q, velocity, density = (self._file[name][index] for name in ("q", "velocity", "density"))
        if not (np.isfinite(q).all() and np.isfinite(velocity).all()):
            raise DataError(f"snapshot {index} of {self.path} holds values that are not finite: choose another one")
        mu = float(self._file["chemical_potential"][index])
        return Snapshot(int(self.steps[index]), float(self.times[index]), q, velocity, density, mu)

    def series(self) -> dict[str, NDArray[np.float64]]:
        """Observables and their ``time``, arrays of one length."""
        times = self._file["observables_time"][...]
        found = {name: self._file[name][: len(times)] for name in SERIES}
        padded = {name: np.pad(row, (0, len(times) - len(row)), constant_values=np.nan) for name, row in found.items()}
        return {"time": times, **padded}


def trajectory_of(run: Path) -> Path:
    """The trajectory of ``run``: the folder of a run, or the file itself."""
    return run if run.is_file() else run / "trajectory.h5"


@contextmanager
def open_trajectory(path: Path) -> Iterator[Trajectory]:
    """The trajectory in ``path``; DataError where it is missing, truncated, empty or something else."""
    if not path.is_file():
        raise DataError(f"the trajectory {path} does not exist: give the folder of a run, or its trajectory.h5")
    try:
        file = h5py.File(path, "r")
    except BlockingIOError:
        raise DataError(f"{path} is being written: wait for the end of that run") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read as HDF5 ({error}): it is truncated, damaged or of another format") from None
    with file:
        if file.attrs.get("schema") != SCHEMA:
            raise DataError(f"{path} is not a trajectory of hpc_holstein: give the trajectory.h5 that `hpc-holstein run` wrote")
        if len(file["step"]) == 0:
            raise DataError(f"{path} holds no snapshots: the run ended before the first one, run it again")
        yield Trajectory(path, file)


def is_trajectory(path: Path) -> bool:
    """Whether ``path`` is a trajectory file, of whatever content."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("schema") == SCHEMA)
    except BlockingIOError:  # a run writes it
        return True
    except OSError:
        return False


@contextmanager
def _refused_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise DataError(exists_already(path)) from None
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error}): choose another output") from None
