"""Trajectories whose fields are written by all ranks, each its tile, to a file of its own: no rank ever holds the lattice.

All ranks bring their parts onto the disk; when all have, the root writes a new ``trajectory.h5`` over them, see
:mod:`output.head`.  A rank packs and writes in a thread while it computes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from hpc_holstein.domain.transport import Transport, agreed
from hpc_holstein.errors import DataError
from hpc_holstein.files import sync_folder
from hpc_holstein.interfaces import Domain, State
from hpc_holstein.output.background import Background, Pace
from hpc_holstein.output.complaints import damage_before, refused_in_words
from hpc_holstein.output.head import Generation, Head, next_generation, parts_of, require_parts
from hpc_holstein.output.journal import JournaledFile
from hpc_holstein.output.layout import FORMAT, new_field, put_field
from hpc_holstein.output.records import (
    COMMIT_SECONDS,
    Storage,
    facts_of,
    number_of,
    require_written,
    stored_fields,
    stored_numbers,
    stored_row,
)


class Part:
    """The fields of one tile in a journaled file."""

    def __init__(self, path: Path, number: np.dtype[Any], storage: Storage) -> None:
        self._number, self._storage = number, storage
        path.parent.mkdir(parents=True, exist_ok=True)
        self._bytes = JournaledFile(path, "create", storage.guarded)
        self._file = h5py.File(self._bytes, "w", libver=FORMAT)
        self._length = 0
        self.settled = 0  # snapshots that every reader of the file finds
        for folder in (path.parent, path.parents[1], path.parents[2]):
            sync_folder(folder)

    @property
    def failure(self) -> OSError | None:
        """Of the disk."""
        return self._bytes.failure

    def append(self, fields: Mapping[str, NDArray[Any]]) -> None:
        """One snapshot, arrays as they are stored."""
        for name in [name for name in fields if name not in self._file]:
            new_field(self._file, name, fields[name].shape, self._number, self._storage.compression, self._length)
        for name, dataset in self._file.items():
            if name in fields:
                put_field(dataset, self._length, fields[name])
            else:
                dataset.resize(self._length + 1, axis=0)
        self._length += 1

    def commit(self, force: bool = False) -> None:
        """Onto the disk; :attr:`failure` tells what went wrong."""
        self._file.flush()
        with suppress(OSError):
            self._bytes.commit(force)
        if self.failure is None and self._bytes.applied:
            self.settled = self._length

    def close(self) -> None:
        """Commit, and close."""
        self._file.close()
        try:
            self._bytes.commit(force=True)
        finally:
            self._bytes.close()


class PartsWriter:
    """As :class:`output.gather.TrajectoryWriter`, each rank writing what it owns; every method but ``close`` is collective.

    A snapshot is seen when it is on the disk of all ranks.
    """

    _part: Part | None
    _head: Head | None

    def __init__(
        self,
        path: Path,
        domain: Domain,
        transport: Transport,
        dt: float,
        dtype: torch.dtype,
        attributes: Mapping[str, Any],
        storage: Storage | None = None,
    ) -> None:
        self._start(path, domain, transport, dt, storage)
        self._number = number_of(dtype)
        if domain.rank != 0:
            return
        for place in (path, parts_of(path)):
            with refused_in_words(place):
                if place.exists():
                    raise FileExistsError
                path.parent.mkdir(parents=True, exist_ok=True)
        self._head = Head(path, self._storage.sites(domain), self._number, facts_of(domain, attributes))
        with refused_in_words(path):
            self._head.writing(0)()

    @classmethod
    def continued(
        cls,
        path: Path,
        domain: Domain,
        transport: Transport,
        dt: float,
        step: int,
        dtype: torch.dtype,
        config: str,
        storage: Storage | None = None,
    ) -> PartsWriter:
        """See :meth:`output.gather.TrajectoryWriter.continued`; on any number of ranks."""
        writer = cls.__new__(cls)
        writer._start(path, domain, transport, dt, storage)
        writer._number = number_of(dtype)
        if domain.rank != 0:
            return writer
        with damage_before(path, step):
            head = Head.read(path)
            require_parts(head)
        head.attributes["config"] = config
        writer._seen = writer._count = head.rows(step, dt)[0]
        head.cut(*head.rows(step, dt))
        with refused_in_words(path):
            head.writing(writer._seen)()
        writer._head = head
        return writer

    def _start(self, path: Path, domain: Domain, transport: Transport, dt: float, storage: Storage | None) -> None:
        self.path, self._domain, self._transport, self._dt = path, domain, transport, dt
        self._storage = storage or Storage()
        self._part = self._head = None
        self._failure: OSError | None = None  # of the head
        self._worker, self._pace, self._head_pace = Background(), Pace(COMMIT_SECONDS), Pace(COMMIT_SECONDS)
        self._first = self._count = self._seen = 0  # snapshots before this generation, now, and in the head; of the root
        self._appended = 0  # to the part
        self._awaited: int | None = None  # snapshots of the part that are on their way to the disk on all ranks

    def rows(self, before: int) -> tuple[int, int]:
        """On the root, the snapshots and the rows of observables of earlier steps than ``before``."""
        return self._head.rows(before, self._dt) if self._head is not None else (0, 0)

    def write_snapshot(self, state: State, deviation: torch.Tensor | None = None) -> None:
        """See :meth:`output.gather.TrajectoryWriter.write_snapshot`."""
        self._worker.wait()  # at most one snapshot is in memory beside the run
        if self._part is None:
            self._begin()
        part = self._part
        assert part is not None
        tiles = stored_fields(state, deviation)
        fields = {name: self._local(name, tile).to("cpu", copy=True).numpy() for name, tile in tiles.items()}
        self._worker.submit(lambda: part.append(fields))
        self._appended += 1
        if self._head is not None:
            self._count += 1
            self._head.grow(self._count, fields)
            self._head.add_snapshot(stored_numbers(state, self._dt))
        self._settle()
        if state.step == 0:
            self.flush()  # a run that has just begun can be looked at

    def write_series(self, step: int, values: Mapping[str, float], seconds: Mapping[str, float] | None = None) -> None:
        """See :meth:`output.gather.TrajectoryWriter.write_series`."""
        if self._head is None:
            return
        self._head.add_row(stored_row(step * self._dt, values, seconds))
        if self._head_pace.due():
            self._worker.submit(self._publishing())

    def flush(self) -> None:
        """Bring all rows onto the disk; raises :class:`DataError` on all ranks where one is full."""
        start, part = time.monotonic(), self._part
        if part is not None:
            self._worker.submit(lambda: part.commit(force=True))
        self._worker.wait()
        self._require_written()
        self._awaited = None
        if self._head is not None:
            self._seen = self._count
            self._publishing()()
        self._pace.taken(start)
        self._require_written()

    def close(self) -> None:
        """Close the part and, on the root, write what all ranks have brought onto the disk; DataError where one is full."""
        part, head = self._part, self._head
        try:
            self._worker.close()
        finally:
            self._part = self._head = None
            with refused_in_words(self.path):
                try:
                    if part is not None:
                        part.close()
                finally:
                    if head is not None:
                        head.writing(self._seen)()

    def __enter__(self) -> PartsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(DataError) if error is not None else nullcontext():  # the first error is the one to tell
            try:
                if error is None:
                    self.flush()
            finally:
                self.close()

    def _local(self, name: str, tile: torch.Tensor) -> torch.Tensor:
        """The tile of this rank as it is stored."""
        return tile.reshape(self._storage.sites(self._domain).shape(name, self._domain.local_extent))

    def _begin(self) -> None:
        """A new generation, a part of it each rank; collective."""
        number = self._transport.bcast(None if self._head is None else next_generation(self._head))
        boxes = self._transport.gather(self._domain.owned)
        folder = parts_of(self.path) / f"{number:04d}"
        with agreed(self._transport), refused_in_words(folder):
            path = folder / f"rank-{self._domain.rank:05d}.h5"
            self._part = Part(path, self._number, self._storage)
        if self._head is not None and boxes is not None:
            names = tuple((box, f"{folder.parent.name}/{folder.name}/rank-{r:05d}.h5") for r, box in enumerate(boxes))
            self._first = self._count
            self._head.generations.append(Generation(self._count, self._count, names))

    def _settle(self) -> None:
        """Collective: when it is time, bring the parts onto the disk; when that is done on all ranks, tell readers."""
        part = self._part
        assert part is not None
        settled = self._awaited is not None and part.settled >= self._awaited
        due = self._head is not None and self._pace.due()
        told = self._domain.allsum(torch.tensor([settled, due], dtype=torch.float64)).tolist()
        self._require_written()
        if self._awaited is not None and told[0] == self._domain.size:
            if self._head is not None:
                self._seen = self._first + self._awaited
                self._worker.submit(self._publishing())
            self._awaited = None
        elif told[1] or self._awaited is not None:
            self._awaited = self._awaited or self._appended
            self._worker.submit(self._committing(part))

    def _committing(self, part: Part) -> Any:
        def commit() -> None:
            start = time.monotonic()
            part.commit()
            self._pace.taken(start)

        return commit

    def _publishing(self) -> Any:
        """A function that writes the head with the snapshots that all ranks have brought onto the disk."""
        assert self._head is not None
        writing = self._head.writing(self._seen)

        def publish() -> None:
            start = time.monotonic()
            try:
                writing()
            except OSError as error:
                self._failure = self._failure or error
            self._head_pace.taken(start)

        return publish

    def _require_written(self) -> None:
        part_failure = None if self._part is None else self._part.failure
        require_written(self.path, part_failure or self._failure, self._domain)
