"""``trajectory.h5`` where the fields are in parts, files of their own: all scalars, and virtual datasets over the parts.

It is written anew at each commit and renamed, so that a reader has the file before or the one after; it refers to no row of a
part that is not on the disk.  The parts are in folders, ``trajectory.d/0000`` and on, one for each generation: what the same
ranks wrote in one go.  A run that is continued, on however many ranks, starts a new generation; those before stay as they are.
"""

from __future__ import annotations

import io
import re
from array import array
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from hpc_holstein.domain.slabs import Box
from hpc_holstein.inputs import InputFile
from hpc_holstein.output.hdf5 import opened, sites_of, tiles_of
from hpc_holstein.output.journal import JournaledFile, journal_of, write_whole
from hpc_holstein.output.layout import (
    FIELDS,
    OPTIONAL_FIELDS,
    Sites,
    add_series,
    create_layout,
    describe_field,
    new_field,
    of_rows,
    of_snapshots,
)
from hpc_holstein.output.records import earlier
from hpc_holstein.output.series import optional

_GENERATION = re.compile(r"\d{4,}")
_PART = re.compile(r"\.?(rank-\d{5,}|all-ranks)\.h5(\.journal(\.tmp)?)?")
_FORMAT = ("v110", "v110")  # the first version with virtual datasets


@dataclass(frozen=True)
class Generation:
    """Snapshots ``[first, end)``: the first ones in each of the files, which hold a box of the lattice each.

    parts   a box and the name of its file relative to the folder of the trajectory
    fields  that are there
    """

    first: int
    end: int
    parts: tuple[tuple[Box, str], ...]
    fields: tuple[str, ...] = ()

    def cut(self, end: int) -> Generation:
        """Without the snapshots from ``end`` on."""
        return replace(self, end=max(self.first, min(self.end, end)))


def parts_of(trajectory: Path) -> Path:
    """The folder of the parts of a trajectory."""
    return trajectory.with_suffix(".d")


class Head:
    """The scalars of a trajectory in memory, and where its snapshots are; ``write`` makes the file."""

    def __init__(self, path: Path, sites: Sites, number: np.dtype[Any], attributes: Mapping[str, Any]) -> None:
        self.path, self.attributes = path, dict(attributes)
        self._sites, self._number = sites, number
        self._scalars: dict[str, array[Any]] = {name: array("d") for name in ("time", "chemical_potential")}
        self._scalars["step"] = array("q")
        self._rows: dict[str, array[Any]] = {"observables_time": array("d")}
        self.generations: list[Generation] = []

    @classmethod
    def read(cls, path: Path) -> Head:
        """That of a file; raises DataError if it is damaged."""
        with opened(path) as file:
            head = cls(path, sites_of(file), file.layout("q")[1], file.attributes())
            for names, numbers in ((list(head._scalars), head._scalars), (of_rows(file), head._rows)):
                for name in names:
                    kind: Literal["q", "d"] = "q" if name == "step" else "d"
                    numbers[name] = array(kind, file.numbers(name, written=False)[...].astype(kind).tobytes())
            head.generations = _generations(file)
        return head

    def rows(self, before: int, dt: float) -> tuple[int, int]:
        """The snapshots and the rows of earlier steps than ``before``."""
        return earlier(np.array(self._scalars["step"]), np.array(self._rows["observables_time"]) / dt, before)

    def cut(self, snapshots: int, rows: int) -> None:
        """Keep so many."""
        for numbers, length in ((self._scalars, snapshots), (self._rows, rows)):
            for values in numbers.values():
                del values[length:]
        self.generations = [kept for item in self.generations if (kept := item.cut(snapshots)).end > kept.first]

    def add_snapshot(self, numbers: Mapping[str, float]) -> None:
        """One number a scalar."""
        for name, value in numbers.items():
            self._scalars[name].append(value)

    def grow(self, end: int, fields: Iterable[str]) -> None:
        """The last generation has the snapshots before ``end`` now, and these fields."""
        last = self.generations[-1]
        self.generations[-1] = replace(last, end=end, fields=tuple(dict.fromkeys((*last.fields, *fields))))

    def add_row(self, row: Mapping[str, float]) -> None:
        """One number a series; NaN where there is none."""
        length = len(self._rows["observables_time"])
        for name in row.keys() - self._rows.keys():
            self._rows[name] = array("d", [np.nan]) * length
        for name, values in self._rows.items():
            values.append(row.get(name, np.nan))

    def writing(self, snapshots: int) -> Callable[[], None]:
        """A function that writes what is there now, so many snapshots of it; another thread may call it."""
        scalars = {name: np.array(values[:snapshots]) for name, values in self._scalars.items()}
        rows = {name: np.array(values) for name, values in self._rows.items()}
        generations = [item.cut(snapshots) for item in self.generations]
        return lambda: self._write(scalars, rows, generations)

    def _write(
        self, scalars: dict[str, NDArray[Any]], rows: dict[str, NDArray[Any]], generations: Sequence[Generation]
    ) -> None:
        """OSError where the disk is full; then the file is as it was."""
        stream = io.BytesIO()
        with h5py.File(stream, "w", libver=_FORMAT) as file:
            file.attrs.update(self.attributes)
            snapshots = len(scalars["step"])
            create_layout(file, self._sites, lambda name: self._field(file, name, snapshots, generations))
            for name in OPTIONAL_FIELDS:
                if any(name in item.fields for item in generations):
                    describe_field(file, self._sites, name, self._field(file, name, snapshots, generations))
            for name in optional(rows):
                add_series(file, name)
            for name in of_rows(file):
                _fill(file[name], rows.get(name), len(rows["observables_time"]))
            for name in of_snapshots(file)[-3:]:
                _fill(file[name], scalars[name], snapshots)
        write_whole(self.path, stream.getbuffer())

    def _field(self, file: h5py.File, name: str, snapshots: int, generations: Sequence[Generation]) -> h5py.Dataset:
        shape = self._sites.shape(name)
        if not snapshots:
            return new_field(file, name, shape, self._number, 0)
        layout = h5py.VirtualLayout((snapshots, *shape), self._number, maxshape=(None, *shape))
        for item in generations:
            count = item.end - item.first
            if name not in item.fields or count == 0:
                continue
            for box, path in item.parts:
                cells = tuple(stop - start for start, stop in box)
                # one more than are meant, so that HDF5 does not take "all", which would be what the part has when it is read
                source = h5py.VirtualSource(path, name, (count + 1, *self._sites.shape(name, cells)), self._number)[:count]
                layout[(slice(item.first, item.end), *(slice(*span) for span in box))] = source
        return file.create_virtual_dataset(name, layout, fillvalue=np.nan)


def _fill(dataset: h5py.Dataset, values: NDArray[Any] | None, length: int) -> None:
    dataset.resize(length, axis=0)
    if values is not None:
        dataset[...] = values


def _generations(file: InputFile) -> list[Generation]:
    """From the virtual datasets."""
    names = [name for name in (*FIELDS, *OPTIONAL_FIELDS) if name in file]
    there = {name: {tile.file for tile in tiles_of(file, name)} for name in names}
    found = []
    tiles = sorted(tiles_of(file, "q"), key=lambda tile: (tile.first, tile.file))
    for (first, end), group in groupby(tiles, key=lambda tile: (tile.first, tile.end)):
        parts = tuple((tuple((span.start, span.stop) for span in tile.box), tile.file) for tile in group)
        found.append(Generation(first, end, parts, tuple(name for name in names if parts[0][1] in there[name])))
    return found


def require_parts(head: Head) -> None:
    """Bring the last commits of all parts into them; OSError where one is missing, damaged or shorter than it was."""
    for generation in head.generations:
        for _, name in generation.parts:
            path = head.path.parent / name
            if journal_of(path).exists():
                JournaledFile(path, "append").close()
            with opened(path) as part:
                if len(part.numbers("q", written=False)) < generation.end - generation.first:
                    raise OSError(f"{name} has lost snapshots")


def next_generation(head: Head) -> int:
    """Its number; generations that no snapshot came of are removed."""
    used = {Path(name).parent.name for item in head.generations for _, name in item.parts}
    remove_parts(parts_of(head.path), used)
    return max((int(name) for name in used), default=-1) + 1


def remove_parts(folder: Path, kept: Container[str] = ()) -> None:
    """Remove the generations in the folder of the parts that are not ``kept``, and no file that a run does not write."""
    for old in folder.glob("[0-9]*"):
        if _GENERATION.fullmatch(old.name) and old.name not in kept:
            with suppress(OSError):
                for path in old.iterdir():
                    if _PART.fullmatch(path.name):
                        path.unlink()
                old.rmdir()
    if not kept:
        with suppress(OSError):
            folder.rmdir()
