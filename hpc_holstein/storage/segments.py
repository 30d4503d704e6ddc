"""Segments of a trajectory: files in ``trajectory.d`` with some snapshots of a box of the cells, which never change.

A thread of each rank that writes packs snapshots of its box, and writes and merges segments of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import h5py
import numpy as np
from numpy.typing import NDArray

from hpc_holstein import inputs
from hpc_holstein.domain.slabs import Box
from hpc_holstein.errors import DataError
from hpc_holstein.files import sync_folder
from hpc_holstein.inputs import InputFile, damage_in_words
from hpc_holstein.storage.layout import (
    FIELDS,
    FORMAT,
    OPTIONAL_FIELDS,
    Chunks,
    StoredForm,
    copy_chunks,
    new_field,
    packed_field,
    put_chunks,
)
from hpc_holstein.storage.whole_files import IDENTITY, LARGE, Stamp, create, refuse_link, remove, stamp_of

SCHEMA = "hpc_holstein segment 1"
NAME = re.compile(r"\d{10,}-\d{5,}-[0-9a-f]{8}\.h5")

Snapshot = Mapping[str, Chunks]
"""The packed chunks of each field."""

MOST = 32
"""Segments of one box, from which on the smallest neighbours are merged, half as many."""


@dataclass(frozen=True)
class Segment:
    """The snapshots ``[first, first + count)`` of a ``box``, the first ones in the file ``name`` beside the trajectory."""

    name: str
    first: int
    count: int
    box: Box
    fields: tuple[str, ...]
    stamp: Stamp | None = None

    @property
    def end(self) -> int:
        """Number of the first snapshot behind it."""
        return self.first + self.count

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.stamp.size if self.stamp else 0

    @property
    def cells(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return tuple(stop - start for start, stop in self.box)

    @property
    def index(self) -> tuple[slice, ...]:
        """Index of the box in a field of the lattice."""
        return tuple(slice(*span) for span in self.box)


def folder_of(trajectory: Path) -> Path:
    """The folder of the segments of a trajectory."""
    return trajectory.with_suffix(".d")


def write_segment(
    trajectory: Path, run: str, first: int, box: Box, writer: int, form: StoredForm, snapshots: Sequence[Snapshot]
) -> Segment:
    """A new segment of snapshots that have the same fields; OSError where the disk fails."""

    def fill(datasets: Mapping[str, h5py.Dataset]) -> None:
        for index, snapshot in enumerate(snapshots):
            for name, chunks in snapshot.items():
                put_chunks(datasets[name], index, chunks)

    fields = tuple(snapshots[0]) if snapshots else ()
    return _new(trajectory, run, Segment("", first, len(snapshots), box, fields), writer, form, fill)


def merge(trajectory: Path, run: str, parts: Sequence[Segment], writer: int, form: StoredForm) -> Segment:
    """A new segment with the snapshots of ``parts``, which follow each other in one box; those stay."""
    first, count = parts[0].first, sum(part.count for part in parts)
    fields = tuple(dict.fromkeys(name for part in parts for name in part.fields))

    def fill(datasets: Mapping[str, h5py.Dataset]) -> None:
        for part in parts:
            copy(trajectory, part, datasets, form, part.first - first)

    size = sum(part.size for part in parts)
    return _new(trajectory, run, Segment("", first, count, parts[0].box, fields), writer, form, fill, size)


def copy(trajectory: Path, part: Segment, datasets: Mapping[str, h5py.Dataset], form: StoredForm, to: int) -> None:
    """The snapshots of ``part`` into datasets of its box, from number ``to`` on; packed chunks stay as they are."""
    path = trajectory.parent / part.name
    with damage_in_words(str(path)), h5py.File(path, "r", locking=False) as file:
        for name in part.fields:
            source, target = file[name], datasets[name]
            for index in range(part.count):
                if not copy_chunks(source, index, target, to + index):
                    put_chunks(target, to + index, packed_field(source[index], form.number, form.level))


def _new(
    trajectory: Path,
    run: str,
    told: Segment,
    writer: int,
    form: StoredForm,
    fill: Callable[[Mapping[str, h5py.Dataset]], None],
    size: int = 0,
) -> Segment:
    folder = folder_of(trajectory)
    refuse_link(folder)
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
    path = folder / f"{told.first:010d}-{writer:05d}-{uuid4().hex[:8]}.h5"

    def build(file: h5py.File) -> None:
        file.attrs.update({"schema": SCHEMA, IDENTITY: run, "first": told.first, "box": np.array(told.box)})
        datasets = {}
        for name in told.fields:
            datasets[name] = new_field(file, name, form.sites.shape(name, told.cells), form.number, form.level, told.count)
            unit, meaning = {**FIELDS, **OPTIONAL_FIELDS}[name]
            datasets[name].attrs.update(units=unit, long_name=meaning)
        fill(datasets)

    return replace(told, name=f"{folder.name}/{path.name}", stamp=create(path, run, build, FORMAT, large=size > LARGE))


@contextmanager
def opened_segment(trajectory: Path, segment: Segment, run: str | None) -> Iterator[InputFile]:
    """A segment to read; DataError where it is missing, damaged, of another run, or not what the index says."""
    with inputs.opened(trajectory.parent / segment.name) as file:
        attributes = file.attributes()
        if attributes.get("schema") == SCHEMA:  # parts of earlier versions do not say it
            told = attributes.get(IDENTITY), attributes.get("first"), attributes.get("box")
            if told != (run, segment.first, [list(span) for span in segment.box]):
                raise DataError(
                    f"{file.path} is not the segment that {trajectory.name} refers to (it is of run {told[0]}, or of other "
                    "snapshots or cells): put back the one that the run wrote"
                )
        for name in segment.fields:
            if len(file.numbers(name, written=False)) < segment.count:
                raise DataError(f"{file.path} has lost snapshots: put back the segment that the run wrote")
        yield file


def checked(trajectory: Path, segment: Segment, run: str) -> tuple[Segment, bool]:
    """The segment with its stamp, and whether it holds snapshots that are not meant; DataError as :func:`opened_segment`."""
    path = trajectory.parent / segment.name
    refuse_link(path)
    with opened_segment(trajectory, segment, run) as file:
        longer = len(file.numbers(segment.fields[0], written=False)) > segment.count
    return replace(segment, stamp=stamp_of(path)), longer or path == trajectory


class NewSegment(NamedTuple):
    """A segment that is on the disk, ``instead`` of those of these names."""

    segment: Segment
    instead: tuple[str, ...] = ()


class SegmentWriter:
    """Writes the snapshots of ``box`` from number ``first`` on; ``own``: segments of that box that are there."""

    def __init__(
        self, trajectory: Path, run: str, writer: int, box: Box, form: StoredForm, first: int, own: Iterable[Segment]
    ) -> None:
        self._trajectory, self._run, self._writer, self._box, self._form = trajectory, run, writer, box, form
        self._first, self._own = first, list(own)
        self._waiting: list[Snapshot] = []
        self._news: list[NewSegment] = []
        self._replaced: list[str] = []  # that the index does not refer to any more
        self.bytes = 0  # packed, not on the disk yet

    def append(self, fields: Mapping[str, NDArray[Any]]) -> None:
        """One snapshot, arrays of the box as they are stored."""
        if self._waiting and self._waiting[0].keys() != fields.keys():
            self.seal()
        snapshot = {name: packed_field(values, self._form.number, self._form.level) for name, values in fields.items()}
        self._waiting.append(snapshot)
        self.bytes += sum(len(content) for chunks in snapshot.values() for _, content in chunks)

    def seal(self) -> None:
        """Bring what is there onto the disk; OSError where that fails."""
        if not self._waiting:
            return
        new = write_segment(self._trajectory, self._run, self._first, self._box, self._writer, self._form, self._waiting)
        self._first, self._waiting, self.bytes = new.end, [], 0
        self._tell(new)
        if len(self._own) > MOST:
            self._merge()

    def take_news(self) -> list[NewSegment]:
        """News since the last call, in their order; the caller then refers to them in the index."""
        news, self._news = self._news, []
        return news

    def remove_replaced(self) -> None:
        """Remove segments that the index does not refer to any more."""
        for name in self._replaced:
            remove(self._trajectory.parent / name, self._run)
        self._replaced = []

    def _tell(self, new: Segment, instead: tuple[str, ...] = ()) -> None:
        self._own = sorted([*(item for item in self._own if item.name not in instead), new], key=lambda item: item.first)
        self._news.append(NewSegment(new, instead))

    def _merge(self) -> None:
        """The smallest neighbours into one; those of the merge before are not looked at by anybody any more."""
        self.remove_replaced()
        half = MOST // 2
        runs = [self._own[start : start + half] for start in range(len(self._own) - half + 1)]
        whole = [run for run in runs if all(one.end == other.first for one, other in pairwise(run))]
        if whole:
            parts = min(whole, key=lambda run: sum(item.size for item in run))
            names = tuple(item.name for item in parts)
            self._tell(merge(self._trajectory, self._run, parts, self._writer, self._form), names)
            self._replaced += names
