"""Trajectories in one HDF5 file that the root writes, from the tiles that it gathers."""

from __future__ import annotations

import io
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

from hpc_holstein.errors import DataError
from hpc_holstein.interfaces import Domain, State
from hpc_holstein.output.background import Background, Pace
from hpc_holstein.output.complaints import damage_before, refused_in_words
from hpc_holstein.output.journal import JournaledFile, write_whole
from hpc_holstein.output.layout import (
    FORMAT,
    add_series,
    create_layout,
    describe_field,
    new_field,
    of_rows,
    of_snapshots,
    put_field,
)
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
from hpc_holstein.output.series import optional


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
        stream, sites = io.BytesIO(), self._storage.sites(self._domain)
        with h5py.File(stream, "w", libver=FORMAT) as file:
            file.attrs.update(facts_of(self._domain, attributes))
            level = self._storage.compression
            create_layout(file, sites, lambda name: new_field(file, name, sites.shape(name), number, level))
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
            sites, numbers = self._storage.sites(self._domain), stored_numbers(state, self._dt)
            fields = {
                name: whole.reshape(sites.shape(name)).cpu().numpy() for name, whole in gathered.items() if whole is not None
            }
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
            sites, level = self._storage.sites(self._domain), self._storage.compression
            describe_field(file, sites, name, new_field(file, name, sites.shape(name), file["q"].dtype, level))
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
        for name in optional(row):
            if name not in file:
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
