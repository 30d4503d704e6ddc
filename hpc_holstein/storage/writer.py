"""The writer of trajectories: some ranks, or all, write segments, and the root the index over those that all have on the disk.

A thread packs and writes while the run goes on.  A commit has two stages: the segments of all ranks are renamed, then the index
is.  Whatever ends the run, the index refers to whole segments; others of the run are removed when it goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import numpy as np
import torch

from hpc_holstein.domain.transport import Transport, agreed
from hpc_holstein.errors import DataError, HolsteinError
from hpc_holstein.inputs import UnreadableError, reason_of
from hpc_holstein.interfaces import Domain, State
from hpc_holstein.memory import WAITING_BYTES
from hpc_holstein.storage.background import Background, Budget, Pace
from hpc_holstein.storage.index import Index
from hpc_holstein.storage.layout import DEVIATION, SCHEMA, Sites, StoredForm, timing
from hpc_holstein.storage.segments import NAME, NewSegment, SegmentWriter, checked, folder_of, merge
from hpc_holstein.storage.shares import Shares, writers_of
from hpc_holstein.storage.whole_files import (
    IDENTITY,
    cannot_write,
    refuse_link,
    refused_in_words,
    remove,
    remove_unfinished,
)

COMMIT_SECONDS = 10.0
"""Between two commits of rows, and between two of snapshots, at least."""

_PACKED = 2**30  # bytes of a trajectory that becomes one file when the run ends
_ARRIVAL_SECONDS = 5.0
_BUDGET = Budget()  # of all runs of a process


@dataclass(frozen=True)
class Storage:
    """Options of the storage of a trajectory.

    compression  0 (none) to 9
    writers      ranks that write, 0: as many as the lattice is large
    pack         whether it becomes one file at the end, None: if it is small
    components   numbers of a coordinate
    """

    compression: int = 1
    writers: int = 0
    pack: bool | None = None
    components: int = 1

    def form(self, domain: Domain, dtype: torch.dtype) -> StoredForm:
        """Form of the stored fields."""
        lattice = domain.lattice
        square = len(lattice.basis) == 1 and bool(np.array_equal(np.array(lattice.vectors)[::-1], np.eye(len(lattice.extent))))
        sites = Sites(tuple(lattice.extent), len(lattice.basis), self.components, square)
        return StoredForm(sites, np.dtype(np.float64 if dtype == torch.float64 else np.float32), self.compression)


class TrajectoryWriter:
    """Writes snapshots and observables of a run; every method but ``close`` is collective, and so is making one.

    ``attributes`` are strings and numbers of the file.  Raises :class:`DataError` where ``path`` exists.
    """

    _index: Index | None
    _pen: SegmentWriter | None

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
        self._start(path, domain, transport, dt, dtype, storage)
        facts = {"schema": SCHEMA, "extent": list(domain.lattice.extent), "lattice": domain.lattice.name, **attributes}
        with agreed(transport):
            if domain.rank == 0:
                self._index = Index(path, self._form, {IDENTITY: uuid4().hex, **facts})
                for place in (path, folder_of(path)):
                    with refused_in_words(place):
                        refuse_link(place)
                        if place.exists():
                            raise FileExistsError
                        path.parent.mkdir(parents=True, exist_ok=True)
                with refused_in_words(path):
                    self._index.writing()()
        self._begin()

    @classmethod
    def continued(
        cls,
        path: Path,
        domain: Domain,
        transport: Transport,
        dt: float,
        dtype: torch.dtype,
        step: int,
        attributes: Mapping[str, Any],
        storage: Storage | None = None,
        least: tuple[int, int] = (0, 0),
    ) -> TrajectoryWriter:
        """Append to the file of a run that goes on from ``step``: rows of that step and later ones are removed first.

        ``attributes`` replace those of the same names.  Raises :class:`DataError`, before anything changes, for a file that is
        damaged, of another run, or has fewer snapshots and rows before ``step`` than ``least``.
        """
        writer = cls.__new__(cls)
        writer._start(path, domain, transport, dt, dtype, storage)
        with agreed(transport):
            if domain.rank == 0:
                writer._index = _read(path, step, writer._storage.compression, attributes)
                if writer.rows(step) < least:
                    raise DataError(
                        f"{path} ends before step {step}, from where the run goes on: put the whole file back, or move it away "
                        "to go on in a new one"
                    )
        writer._go_on(step)
        writer._begin()
        return writer

    def _start(
        self, path: Path, domain: Domain, transport: Transport, dt: float, dtype: torch.dtype, storage: Storage | None
    ) -> None:
        self.path, self._domain, self._transport, self._dt = path, domain, transport, dt
        self._storage = storage or Storage()
        self._form = self._storage.form(domain, dtype)
        self._shares = Shares(domain, transport, self._storage.writers)
        self._index, self._pen = None, None
        self._open = 1
        _BUDGET.users += self._open
        self.gathers = writers_of(self._storage.writers, domain.lattice.sites, domain.size) == 1  # all is on the root
        self._worker, self._index_pace, self._pace = Background(), Pace(COMMIT_SECONDS, _BUDGET), Pace(COMMIT_SECONDS, _BUDGET)

    def _go_on(self, step: int) -> None:
        """Cut the index, check all segments and shorten those that are cut, some on each rank; remove what comes later."""
        index, run, segments = self._index, "", []
        if index is not None:
            index.cut(*index.rows(step, self._dt))
            run, segments = index.run, index.segments
        run, segments = self._transport.bcast((run, segments))
        news: list[NewSegment] = []
        with agreed(self._transport):
            for segment in segments[self._domain.rank :: self._domain.size]:
                with _damage_before(self.path, step):
                    found, longer = checked(self.path, segment, run)
                with refused_in_words(self.path):
                    new = merge(self.path, run, [found], self._domain.rank, self._form) if longer else found
                news.append(NewSegment(new, (segment.name,)))
        everyone = self._transport.gather(news)
        with agreed(self._transport), refused_in_words(self.path):
            if index is not None and everyone is not None:
                for one in (one for of_rank in everyone for one in of_rank):
                    index.refer(*one)
                index.writing()()
                _remove_others(index)

    def _begin(self) -> None:
        """Make the writer of each rank, once the index is there."""
        index = self._index
        told = ("", 0, []) if index is None else (index.run, index.covered, index.segments)
        run, self._count, segments = self._transport.bcast(told)
        self._sealed = self._count
        box = self._shares.box
        if box is not None:
            own = [segment for segment in segments if segment.box == box]
            self._pen = SegmentWriter(self.path, run, self._domain.rank, box, self._form, self._count, own)

    def rows(self, before: int) -> tuple[int, int]:
        """On the root, the snapshots and the rows of observables of earlier steps than ``before``."""
        return self._index.rows(before, self._dt) if self._index is not None else (0, 0)

    def write_snapshot(self, state: State, deviation: torch.Tensor | None = None) -> None:
        """Append ``q``, ``velocity``, and the density and chemical potential of ``state.forces``, which a running state has.

        ``deviation [*cells, basis]``: of the force over a committee.
        Raises :class:`DataError` on all ranks where the disk is full, or where what was written is not there any more.
        """
        self._settle()  # at most one snapshot is in memory beside the run and what is packed
        assert state.forces is not None
        fields = {"q": state.q, "velocity": state.velocity, "density": state.forces.density.unsqueeze(-1)}
        if deviation is not None:
            fields[DEVIATION] = deviation.unsqueeze(-1)
        moved = {name: self._shares(field) for name, field in fields.items()}
        pen, box = self._pen, self._shares.box
        if pen is not None and box is not None:
            cells = tuple(stop - start for start, stop in box)
            stored = {name: field.reshape(self._form.sites.shape(name, cells)).numpy() for name, field in moved.items()}
            self._worker.submit(lambda: pen.append(stored))
        if self._index is not None:
            mu = float(state.forces.chemical_potential)
            self._index.add_snapshot({"time": state.step * self._dt, "chemical_potential": mu, "step": state.step})
        self._count += 1
        if state.step == 0:
            self.flush()  # a run that has just begun can be looked at

    def describe(self, series: Mapping[str, tuple[str, str]]) -> None:
        """Unit and meaning of scalars that :func:`write_series` gets besides those of every run."""
        if self._index is not None and series:
            self._index.describe(series)

    def write_series(self, step: int, values: Mapping[str, float], seconds: Mapping[str, float] | None = None) -> None:
        """Append one row of scalars, keys as in :data:`SERIES`, :data:`TRUST`, :data:`TIMINGS`; what is absent stays NaN."""
        if self._index is None:
            return
        timings = {timing(name): value for name, value in (seconds or {}).items()}
        self._index.add_row({"observables_time": step * self._dt, **values, **timings})
        if self._index_pace.due():
            self._submit_index()

    def flush(self) -> None:
        """Bring all snapshots and rows onto the disk; raises DataError, on all ranks, where one is full."""
        self._settle()
        if self._count > self._sealed:
            self._seal()
        self._settle(commit=True)
        self._settle()

    def close(self) -> None:
        """End the thread; what was not flushed is left out."""
        self._worker.end()
        _BUDGET.users -= self._open
        self._open = 0

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Flush, and pack if that is asked for; with an error that all ranks have, flush as far as that goes."""
        try:
            with suppress(HolsteinError) if error is not None else nullcontext():  # the first error is the one to tell
                if error is None or self._all_have(error):
                    self.flush()
                if error is None:
                    self._finish()
        finally:
            self.close()

    def _all_have(self, error: BaseException) -> bool:
        alone = self._transport.size == 1
        return alone or (isinstance(error, HolsteinError) and self._transport.all_arrive(_ARRIVAL_SECONDS))

    def _settle(self, commit: bool = False) -> None:
        """Collective: when all ranks have done what they were to do, refer to what is new, and write what is due."""
        error = self._failure()
        news: list[NewSegment] = self._pen.take_news() if self._pen is not None else []
        due = (self._pen is not None and self._pen.bytes * _BUDGET.users > WAITING_BYTES) or (
            self._index is not None and self._pace.due()
        )
        everyone = self._transport.allgather((error, news, due and self._count > self._sealed))
        first = next((told for told, _, _ in everyone if told is not None), None)
        if first is not None:
            raise DataError(first)
        new = [one for _, of_rank, _ in everyone for one in of_rank]
        if self._index is not None and (new or commit):
            for one in new:
                self._index.refer(*one)
            self._submit_index()
        if any(asked for _, _, asked in everyone):
            self._seal()

    def _failure(self) -> str | None:
        """Sentence about what failed in the thread of this rank; None if nothing did."""
        try:
            self._worker.wait()
        except HolsteinError as error:
            return str(error)
        except OSError as error:
            return cannot_write(self.path, error.strerror or str(error))
        return None

    def _seal(self) -> None:
        self._sealed = self._count
        if self._pen is not None:
            pen, pace = self._pen, self._pace
            self._worker.submit(lambda: pace.timed(pen.seal))

    def _submit_index(self) -> None:
        """Write the index, if all is there that it refers to."""
        index, pace = self._index, self._index_pace
        assert index is not None
        writing = index.writing()
        self._worker.submit(lambda: pace.timed(writing))

    def _finish(self) -> None:
        """One file instead of the segments, and the segments that merged ones replace."""
        asked = self._storage.pack
        with agreed(self._transport), refused_in_words(self.path):
            index = self._index
            if index is not None and index.segments and (index.size <= _PACKED if asked is None else asked):
                with suppress(OSError) if asked is None else nullcontext():  # without it nothing is lost
                    index.pack()
                    index.segments = []
            if index is not None:
                _remove_others(index)


def _read(path: Path, step: int, level: int, attributes: Mapping[str, Any]) -> Index:
    """The index of the run that goes on; DataError where that is another one, or cannot be gone on with."""
    for place in (path, folder_of(path)):
        refuse_link(place)
    with _damage_before(path, step):
        index = Index.read(path, level)
    run = attributes.get(IDENTITY)
    if index.attributes.get(IDENTITY, run) != run:
        raise DataError(
            f"{path} is of another run ({index.run}, not {run}): move it away, or continue its run in its own folder"
        )
    if not all(segment.name == path.name or NAME.fullmatch(Path(segment.name).name) for segment in index.segments):
        raise DataError(
            f"{path} was written in parts by an earlier version, which are read but not gone on with: continue from the "
            "checkpoint in another folder, with --restart and --output"
        )
    index.attributes |= attributes
    return index


@contextmanager
def _damage_before(path: Path, step: int) -> Iterator[None]:
    """DataError where the trajectory of a run that is to go on from ``step`` cannot be read."""
    try:
        yield
    except (DataError, OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = error.reason if isinstance(error, UnreadableError) else reason_of(error)
        parts = path.with_suffix(".d")
        there = f"it and {parts.name}" if parts.is_dir() else "it"
        raise DataError(
            f"{path} is damaged ({reason}): move {there} away, and the run goes on from step {step} in a new file"
        ) from None


def discard(path: Path, run: str) -> None:
    """Remove the trajectory of ``run``, and nothing else: it starts again."""
    for place in (path, folder_of(path)):
        refuse_link(place)
    remove(path, run)
    _remove_segments(path, run, set())


def _remove_others(index: Index) -> None:
    """Remove the files of the run that the index does not refer to."""
    _remove_segments(index.path, index.run, {segment.name for segment in index.segments})


def _remove_segments(path: Path, run: str, kept: set[str]) -> None:
    folder = folder_of(path)
    remove_unfinished(path.parent, run)
    if folder.is_symlink() or not folder.is_dir():
        return
    remove_unfinished(folder, run)
    for other in folder.iterdir():
        if NAME.fullmatch(other.name) and f"{folder.name}/{other.name}" not in kept:
            remove(other, run)
    with suppress(OSError):
        folder.rmdir()
