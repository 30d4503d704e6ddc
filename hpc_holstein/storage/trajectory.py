"""Trajectories in HDF5 with named dimensions, coordinates and units: what is in them, and how they are read.

=====================  =======================  ==============================================================
variable               dimensions               meaning [unit]
=====================  =======================  ==============================================================
``q``                  ``time, *cells``         lattice coordinates [a]
``velocity``           ``time, *cells``         their velocities [a t_nn/hbar]
``density``            ``time, *cells``         electron density n_i [electrons/site]
``chemical_potential`` ``time``                 [t_nn]
``step``               ``time``                 number of the time step [1]
one for each series    ``observables_time``     observables at their own cadence, see :data:`SERIES`
``force_deviation``    ``time, *cells``         standard deviation of the force over a committee [t_nn/a]; only with one
one for each of those  ``observables_time``     how far the network is trusted, see :data:`TRUST`; only where it is judged
in group ``timing``    ``observables_time``     seconds since the row before, see :data:`TIMINGS`
=====================  =======================  ==============================================================

``cells`` are ``y, x`` on a lattice of two dimensions, see :func:`fields.site_dims`: then ``site`` if a cell has several, then
``component``, ``(x, y, z)``, of coordinates and velocities that are vectors.  ``time`` and ``observables_time`` [hbar/t_nn],
``y`` and ``x`` [a; 1 if cells are no squares] are dimension scales, so that
``xarray.open_dataset(path, engine="h5netcdf")`` finds names and units.  Attributes of the file say how it was made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_holstein import inputs
from hpc_holstein.errors import DataError
from hpc_holstein.inputs import InputFile, Numbers, UnreadableError
from hpc_holstein.storage.layout import FIELDS, OPTIONAL_FIELDS, SCHEMA, Sites, timing
from hpc_holstein.storage.segments import NAME, Segment, opened_segment
from hpc_holstein.storage.series import TIMINGS, own_series, series_of
from hpc_holstein.storage.whole_files import IDENTITY

_PART = re.compile(rf"[^/]+\.d/({NAME.pattern}|\d{{4,}}/(rank-\d{{5,}}|all-ranks)\.h5)")  # the second kind: of earlier versions


@dataclass(frozen=True)
class Snapshot:
    """One stored state; arrays ``[*cells(, site)(, component)]``, see :func:`fields.stored_shape`."""

    step: int
    time: float
    q: NDArray[np.floating]
    velocity: NDArray[np.floating]
    density: NDArray[np.floating]
    chemical_potential: float


class Trajectory:
    """A stored run, read one snapshot at a time; made by :func:`open_trajectory`."""

    def __init__(self, path: Path, file: InputFile) -> None:
        self.path, self._file = path, file
        self._known: dict[str, Numbers] = {}
        self.attributes: dict[str, Any] = file.attributes()
        self.steps: NDArray[np.int64] = self._numbers("step")[...]
        self.times: NDArray[np.float64] = self._numbers("time")[...][: len(self.steps)]
        shape, self.number = file.layout("q")
        self.sites = sites_of(file)
        rows = min(shape[:1] + self.times.shape, default=0)
        if shape[1:] != self.sites.shape("q") or self.steps.ndim != 1 or self.steps.dtype.kind != "i" or rows < len(self.steps):
            raise DataError(f"{path} is damaged (q, time and step do not belong together): use another copy of it")
        self.extent = self.sites.extent
        self._segments = segments_of(file)

    @property
    def config(self) -> str:
        """The configuration of the run as TOML; DataError if the file does not say it."""
        text = self.attributes.get("config")
        if not isinstance(text, str):
            raise DataError(
                f"{self.path} does not hold the configuration of its run (attribute config): use one that `run` wrote"
            )
        return text

    def __len__(self) -> int:
        return len(self.steps)

    def snapshot(self, index: int) -> Snapshot:
        """Snapshot ``index`` (negative: from the end); DataError when there is none, or when it holds NaN."""
        if not -len(self) <= index < len(self):
            raise DataError(
                f"snapshot {index} is not in {self.path}: it holds {len(self)}, give -{len(self)} to {len(self) - 1}"
            )
        index %= len(self)
        with self._naming(f"snapshot {index}"):
            q, velocity, density = self._fields(index, ("q", "velocity", "density"))
        if not (np.isfinite(q).all() and np.isfinite(velocity).all()):
            raise DataError(f"snapshot {index} of {self.path} holds values that are not finite: choose another one")
        mu = float(self._numbers("chemical_potential")[index])
        return Snapshot(int(self.steps[index]), float(self.times[index]), q, velocity, density, mu)

    def density(self, index: int) -> NDArray[np.floating]:
        """The electron density of snapshot ``index`` alone, ``[*cells(, site)]``."""
        return self.field("density", index)

    def field(self, name: str, index: int) -> NDArray[Any]:
        """A field of snapshot ``index``, NaN where the run did not store it."""
        with self._naming(f"snapshot {index}"):
            return self._fields(index % len(self), (name,))[0]

    def _fields(self, index: int, names: tuple[str, ...]) -> list[NDArray[Any]]:
        """From the segments themselves where the file refers to such: HDF5 would give NaN for one that is missing."""
        if not self._segments:
            return [self._numbers(name)[index] for name in names]
        found = {name: np.full(self.sites.shape(name), np.nan, self.number) for name in names}
        for segment in self._segments:
            if segment.first <= index < segment.end:
                with opened_segment(self.path, segment, self.attributes.get(IDENTITY)) as file:
                    for name in found.keys() & set(segment.fields):
                        values = file.numbers(name, written=False)[index - segment.first]
                        self._put(found[name], segment, values)
        return list(found.values())

    def _put(self, field: NDArray[Any], segment: Segment, values: NDArray[Any]) -> None:
        if field[segment.index].shape != values.shape:
            raise DataError(
                f"{segment.name} holds {list(values.shape)} cells and {self.path} expects others: use another copy of the run"
            )
        field[segment.index] = values

    def series(self) -> dict[str, NDArray[np.float64]]:
        """Observables and their ``time``, arrays of one length."""
        with self._naming("an observable"):
            times = self._numbers("observables_time")[...]
            names = series_of(self._file, own_series(self.attributes))
            found = {name: self._numbers(name)[...][: len(times)] for name in names}
        padded = {name: np.pad(row, (0, len(times) - len(row)), constant_values=np.nan) for name, row in found.items()}
        return {"time": times, **padded}

    def seconds(self) -> NDArray[np.float64]:
        """Wall time of each row of observables since the row before [s]."""
        with self._naming("the timings"):
            rows = [self._numbers(timing(name))[...] for name in TIMINGS]
            return np.sum([row[: min(map(len, rows))] for row in rows], axis=0)

    def _numbers(self, name: str) -> Numbers:
        """Its rows that nobody wrote hold NaN."""
        if name not in self._known:
            self._known[name] = self._file.numbers(name, written=False)
        return self._known[name]

    @contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        """Say of what cannot be read which part of the run it is."""
        try:
            yield
        except UnreadableError as error:
            raise UnreadableError(f"{what} of {self.path}", error.reason) from None


def trajectory_of(run: Path) -> Path:
    """The trajectory of ``run``: the folder of a run, or the file itself."""
    return run if run.is_file() else run / "trajectory.h5"


@contextmanager
def open_trajectory(path: Path) -> Iterator[Trajectory]:
    """The trajectory in ``path``; DataError where it is missing, truncated, empty or something else."""
    if not path.is_file():
        raise DataError(f"the trajectory {path} does not exist: give the folder of a run, or its trajectory.h5")
    with opened(path) as file:
        if file.attributes().get("schema") != SCHEMA:
            raise DataError(f"{path} is not a trajectory of hpc_holstein: give the trajectory.h5 that `hpc-holstein run` wrote")
        trajectory = Trajectory(path, file)
        if len(trajectory) == 0:
            raise DataError(f"{path} holds no snapshots: the run ended before the first one, run it again")
        yield trajectory


@contextmanager
def opened(path: Path) -> Iterator[InputFile]:
    """A file to read; DataError also where an earlier version, when it was killed, left changes of it in a journal."""
    journal = path.with_name(f".{path.name}.journal")
    if journal.is_file() and journal.stat().st_size:
        raise DataError(
            f"{path} was left by an earlier version that was killed ({journal.name} holds a part of it): continue the run from "
            "its checkpoint in another folder, with --restart and --output"
        )
    with inputs.opened(path) as file:
        yield file


def is_trajectory(path: Path) -> bool:
    """True if ``path`` is a trajectory file, of whatever content."""
    if not path.is_file():
        return False
    try:
        with opened(path) as file:
            return bool(file.attributes().get("schema") == SCHEMA)
    except DataError:
        return False


def sites_of(file: InputFile) -> Sites:
    """Sites of the fields of a trajectory; for a damaged file those of a part of it."""
    cells, coordinates = file.layout("density")[0][1:], file.layout("q")[0][1:]
    said = file.attributes().get("extent")
    dimension = len(said) if isinstance(said, list) else 2  # files are older than the attribute
    basis, components = (math.prod(shape) for shape in (cells[dimension:], coordinates[len(cells) :]))
    return Sites(cells[:dimension], basis, components, "x" not in file or file.attributes("x").get("units") == "a")


def segments_of(file: InputFile) -> list[Segment]:
    """Segments of the fields of a trajectory, nothing if they are in the file itself.

    Raises DataError for what no run writes: a trajectory refers to files in the folder beside it only.
    """
    found: dict[tuple[str, int], Segment] = {}
    axes = len(sites_of(file).extent)
    for name in (*FIELDS, *OPTIONAL_FIELDS):
        for source in (file.sources(name) if name in file else None) or ():
            if not _PART.fullmatch(source.file) or source.dataset.strip("/") != name:
                raise DataError(
                    f"{name} of {file.path} lies in {source.file}, which is no part of a run: use the file that `run` wrote"
                )
            first, *low = source.low
            end, *high = (last + 1 for last in source.high)
            box = tuple(zip(low, high, strict=True))[:axes]
            before = found.get((source.file, first), Segment(source.file, first, end - first, box, ()))
            found[source.file, first] = replace(before, fields=(*before.fields, name))
    return sorted(found.values(), key=lambda item: (item.first, item.box))
