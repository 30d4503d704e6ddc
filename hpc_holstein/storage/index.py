"""``trajectory.h5``: all scalars of a run, and virtual datasets over the segments that hold its fields.

It is written anew at each commit and renamed, so that a reader has the file before or the one after, and it refers to nothing
that is not on the disk.  A snapshot that is not in the index does not exist.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from hpc_holstein.errors import DataError
from hpc_holstein.inputs import InputFile, damage_in_words
from hpc_holstein.storage.layout import (
    FIELDS,
    FORMAT,
    OPTIONAL_FIELDS,
    StoredForm,
    new_field,
    of_rows,
    packed_field,
    put_chunks,
    write_layout,
)
from hpc_holstein.storage.segments import Segment, copy
from hpc_holstein.storage.series import OWN, Series, own_series
from hpc_holstein.storage.trajectory import opened, segments_of, sites_of
from hpc_holstein.storage.whole_files import IDENTITY, LARGE, Stamp, create, require_unchanged, stamp_of

_VIRTUAL = ("v110", "v110")  # the first version with virtual datasets

Numbers = dict[str, NDArray[Any]]


class Index:
    """The scalars of a trajectory in memory, and where its snapshots are; ``writing`` makes the file.

    ``segments`` are in the order of their snapshots, those of one time beside each other.
    """

    def __init__(self, path: Path, form: StoredForm, attributes: Mapping[str, Any]) -> None:
        self.path, self.form, self.attributes = path, form, dict(attributes)
        self._scalars: dict[str, array[Any]] = {name: array("d") for name in ("time", "chemical_potential")}
        self._scalars["step"] = array("q")
        self._rows: dict[str, array[Any]] = {"observables_time": array("d")}
        self.segments: list[Segment] = []
        self._stamp: Stamp | None = None

    @classmethod
    def read(cls, path: Path, level: int) -> Index:
        """Index of a file, which may hold the fields itself: it is then a segment.  DataError if it is damaged."""
        with opened(path) as file:
            index = cls(path, StoredForm(sites_of(file), file.layout("q")[1], level), file.attributes())
            rows = of_rows(file, index.own)
            for names, numbers in ((list(index._scalars), index._scalars), (rows, index._rows)):
                for name in names:
                    kind: Literal["q", "d"] = "q" if name == "step" else "d"
                    numbers[name] = array(kind, file.numbers(name, written=False)[...].astype(kind).tobytes())
            index.segments = segments_of(file) or index._as_segment(file)
            if index.covered != len(index._scalars["step"]):
                raise DataError(f"{path} counts {len(index._scalars['step'])} snapshots and holds {index.covered}")
        index._stamp = stamp_of(path)
        return index

    def _as_segment(self, file: InputFile) -> list[Segment]:
        fields = tuple(name for name in (*FIELDS, *OPTIONAL_FIELDS) if name in file)
        box = tuple((0, cells) for cells in self.form.sites.extent)
        count = len(self._scalars["step"])
        return [Segment(self.path.name, 0, count, box, fields, stamp_of(self.path))] if count else []

    @property
    def run(self) -> str:
        """The identity of the run."""
        return str(self.attributes[IDENTITY])

    @property
    def own(self) -> dict[str, Series]:
        """Series of further kinds of observables."""
        return own_series(self.attributes)

    def describe(self, series: Mapping[str, Sequence[str]]) -> None:
        """Add some to :attr:`own`."""
        self.attributes[OWN] = json.dumps({**self.own, **series})

    @property
    def covered(self) -> int:
        """Snapshots that are in segments."""
        return max((segment.end for segment in self.segments), default=0)

    @property
    def size(self) -> int:
        """Bytes of the segments."""
        return sum(segment.size for segment in self.segments)

    def rows(self, before: int, dt: float) -> tuple[int, int]:
        """The snapshots and the rows of earlier steps than ``before``."""
        times = np.rint(np.array(self._rows["observables_time"]) / dt)
        return int(np.searchsorted(np.array(self._scalars["step"]), before)), int(np.searchsorted(times, before))

    def cut(self, snapshots: int, rows: int) -> None:
        """Keep so many."""
        for numbers, length in ((self._scalars, snapshots), (self._rows, rows)):
            for values in numbers.values():
                del values[length:]
        kept = [replace(item, count=min(item.end, snapshots) - item.first) for item in self.segments]
        self.segments = [item for item in kept if item.count > 0]

    def add_snapshot(self, numbers: Mapping[str, float]) -> None:
        """One number a scalar."""
        for name, value in numbers.items():
            self._scalars[name].append(value)

    def add_row(self, row: Mapping[str, float]) -> None:
        """One number a series; NaN where there is none."""
        length = len(self._rows["observables_time"])
        for name in row.keys() - self._rows.keys():
            self._rows[name] = array("d", [np.nan]) * length
        for name, values in self._rows.items():
            values.append(row.get(name, np.nan))

    def refer(self, new: Segment, instead: Iterable[str] = ()) -> None:
        """To a segment, ``instead`` of those of these names."""
        gone = set(instead)
        segments = [item for item in self.segments if item.name not in gone]
        self.segments = sorted([*segments, new], key=lambda item: (item.first, item.box))

    def writing(self) -> Callable[[], None]:
        """A function that writes what is there now, the snapshots that are covered; another thread may call it.

        It raises DataError where somebody has removed or exchanged the file or a segment.
        """
        snapshots, rows = self._numbers(self.covered)
        segments = list(self.segments)

        def build(file: h5py.File) -> None:
            self._fill(file, snapshots, rows, segments, lambda name: self._virtual(file, name, segments))

        def write() -> None:
            self._require_unchanged()
            self._stamp = create(self.path, self.run, build, _VIRTUAL if segments else FORMAT, self._stamp)

        return write

    def _require_unchanged(self) -> None:
        if self._stamp is not None:
            require_unchanged(self.path, self._stamp)
        for segment in self.segments:
            require_unchanged(self.path.parent / segment.name, segment.stamp)

    def pack(self) -> None:
        """Write one file with everything in it instead; the segments stay, and nothing refers to them."""
        self._require_unchanged()
        snapshots, rows = self._numbers(self.covered)
        sites, number, level = self.form

        def build(file: h5py.File) -> None:
            def field(name: str) -> h5py.Dataset:
                return new_field(file, name, sites.shape(name), number, level, len(snapshots["step"]))

            self._copy(self._fill(file, snapshots, rows, self.segments, field))

        self._stamp = create(self.path, self.run, build, FORMAT, self._stamp, self.size > LARGE)

    def _copy(self, made: Mapping[str, h5py.Dataset]) -> None:
        """All snapshots of the segments into the fields of the lattice."""
        tiles = []
        for segment in self.segments:
            if segment.cells == self.form.sites.extent:
                copy(self.path, segment, made, self.form, segment.first)
            else:
                tiles.append(segment)
        for number in sorted({number for tile in tiles for number in range(tile.first, tile.end)}):
            there = [tile for tile in tiles if tile.first <= number < tile.end]
            for name in there[0].fields:
                whole = np.full(self.form.sites.shape(name), np.nan, self.form.number)
                for tile in there:
                    whole[tile.index] = self._read(tile, name, number)
                put_chunks(made[name], number, packed_field(whole, self.form.number, self.form.level))

    def _read(self, tile: Segment, name: str, number: int) -> NDArray[Any]:
        path = self.path.parent / tile.name
        with damage_in_words(str(path)), h5py.File(path, "r", locking=False) as file:
            return np.asarray(file[name][number - tile.first])

    def _numbers(self, count: int) -> tuple[Numbers, Numbers]:
        """Numbers of so many snapshots, and of all rows."""
        scalars = {name: np.array(values[:count]) for name, values in self._scalars.items()}
        return scalars, {name: np.array(values) for name, values in self._rows.items()}

    def _fill(
        self,
        file: h5py.File,
        snapshots: Numbers,
        rows: Numbers,
        segments: Sequence[Segment],
        field: Callable[[str], h5py.Dataset],
    ) -> dict[str, h5py.Dataset]:
        """Attributes, scales and scalars, and the fields that ``field`` makes, which it returns."""
        optional = [name for name in OPTIONAL_FIELDS if any(name in item.fields for item in segments)]
        fields = {name: field(name) for name in (*FIELDS, *optional)}
        file.attrs.update(self.attributes)
        write_layout(file, self.form.sites, fields, snapshots, rows, self.own)
        return fields

    def _virtual(self, file: h5py.File, name: str, segments: Sequence[Segment]) -> h5py.Dataset:
        sites, number, _ = self.form
        shape = sites.shape(name)
        if not segments:
            return new_field(file, name, shape, number)
        count = max(segment.end for segment in segments)
        layout = h5py.VirtualLayout((count, *shape), number, maxshape=(None, *shape))
        for item in segments:
            if name in item.fields:
                # one more than are meant, so that HDF5 does not take "all", which would be what the segment has when it is read
                whole = (item.count + 1, *sites.shape(name, item.cells))
                source = h5py.VirtualSource(item.name, name, whole, number)[: item.count]
                layout[(slice(item.first, item.end), *item.index)] = source
        return file.create_virtual_dataset(name, layout, fillvalue=np.nan)
