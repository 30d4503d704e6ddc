"""Trajectories in HDF5 with named dimensions, coordinates and units: what is in them, and how they are read.

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

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from hpc_holstein.errors import DataError
from hpc_holstein.output.complaints import damage_in_words
from hpc_holstein.output.journal import JournaledFile, read_journal
from hpc_holstein.output.layout import SCHEMA, timing
from hpc_holstein.output.readers import unchanged
from hpc_holstein.output.series import SERIES, TIMINGS, TRUST


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


def parallel() -> bool:
    """Whether h5py is built with MPI."""
    return bool(h5py.get_config().mpi)


def library() -> str:
    """Versions of h5py and HDF5, and whether they write in parallel."""
    kind = "with MPI" if parallel() else "serial"
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
