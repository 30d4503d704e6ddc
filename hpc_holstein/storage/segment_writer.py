"""The part of a writer that a thread of one rank does: it packs snapshots of a box, and writes and merges segments of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from hpc_holstein.domain.slabs import Box
from hpc_holstein.storage.layout import Form, packed_field
from hpc_holstein.storage.segments import Segment, Snapshot, merge, write_segment
from hpc_holstein.storage.whole_files import remove

MOST = 32
"""Segments of one box, from which on the smallest neighbours are merged, half as many."""


class News(NamedTuple):
    """A segment that is on the disk, ``instead`` of those of these names."""

    segment: Segment
    instead: tuple[str, ...] = ()


class SegmentWriter:
    """Writes the snapshots of ``box`` from number ``first`` on; ``own``: segments of that box that are there."""

    def __init__(
        self, trajectory: Path, run: str, writer: int, box: Box, form: Form, first: int, own: Iterable[Segment]
    ) -> None:
        self._trajectory, self._run, self._writer, self._box, self._form = trajectory, run, writer, box, form
        self._first, self._own = first, list(own)
        self._waiting: list[Snapshot] = []
        self._news: list[News] = []
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

    def take_news(self) -> list[News]:
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
        self._news.append(News(new, instead))

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
