"""Trajectories whose fields all ranks write together through MPI-IO, into one part: for an h5py that is built with MPI.

A part is closed at each commit and never changed again; then the root writes a new ``trajectory.h5`` over all of them
(:mod:`output.head`).  What a killed run leaves is whole parts, and one that nothing refers to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import torch
from numpy.typing import NDArray

from hpc_holstein.domain.transport import agreed
from hpc_holstein.errors import ConfigError
from hpc_holstein.files import sync_file, sync_folder
from hpc_holstein.interfaces import State
from hpc_holstein.output.background import Pace
from hpc_holstein.output.complaints import refused_in_words
from hpc_holstein.output.hdf5 import parallel
from hpc_holstein.output.head import Generation, next_generation, parts_of
from hpc_holstein.output.layout import new_field
from hpc_holstein.output.parts import PartsWriter
from hpc_holstein.output.records import stored_fields, stored_numbers

_PART_SECONDS = 30.0  # a part is closed after so long, or when the run asks for its rows on the disk


def require_parallel() -> None:
    """Raise ConfigError where h5py is serial."""
    if not parallel():
        raise ConfigError(
            "output.writer = 'mpio' needs an h5py that is built with MPI and this one is serial: install such a one, or give "
            "'per-rank' or 'gather'"
        )


class CollectiveWriter(PartsWriter):
    """As :class:`output.parts.PartsWriter`, all ranks in one file."""

    _shared: h5py.File | None
    _place: Path

    def write_snapshot(self, state: State, deviation: torch.Tensor | None = None) -> None:
        """See :meth:`output.gather.TrajectoryWriter.write_snapshot`."""
        fields = {name: self._local(name, tile).cpu().numpy() for name, tile in stored_fields(state, deviation).items()}
        if self._shared is not None and set(self._shared) != set(fields):
            self.flush()
        if self._shared is None:
            self._open(fields)
        with self._disk():
            self._append(fields)
        if self._head is not None:
            self._count += 1
            self._head.grow(self._count, fields)
            self._head.add_snapshot(stored_numbers(state, self._dt))
        self._require_written()
        due = self._head is not None and self._pace.due()
        if state.step == 0 or self._domain.allsum(torch.tensor(float(due))) > 0:
            self.flush()

    def flush(self) -> None:
        """Close the part, and bring all rows onto the disk; raises DataError on all ranks where that is full."""
        if self._shared is not None:
            shared, self._shared = self._shared, None
            with self._disk():
                shared.close()
                if self._domain.rank == 0:
                    _onto_disk(self._place)
        super().flush()

    def _start(self, *arguments: Any) -> None:
        super()._start(*arguments)
        self._pace, self._shared, self._place = Pace(_PART_SECONDS), None, Path()

    def _open(self, fields: Mapping[str, NDArray[Any]]) -> None:
        """A new part, for the snapshots from now on; collective."""
        number = self._transport.bcast(None if self._head is None else next_generation(self._head))
        folder = parts_of(self.path) / f"{number:04d}"
        with agreed(self._transport), refused_in_words(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._place = folder / "all-ranks.h5"
        extent = self._domain.lattice.extent
        with self._disk():
            communicator = self._transport.communicator  # type: ignore[attr-defined]
            locking = {} if self._storage.guarded else {"locking": False}
            self._shared = h5py.File(self._place, "w", driver="mpio", comm=communicator, libver=("v110", "v110"), **locking)
            for name in fields:
                shape = self._storage.sites(self._domain).shape(name)
                new_field(self._shared, name, shape, self._number, self._storage.compression)
        if self._head is not None:
            whole = tuple((0, cells) for cells in extent)
            name = f"{folder.parent.name}/{folder.name}/{self._place.name}"
            self._head.generations.append(Generation(self._count, self._count, ((whole, name),)))

    def _append(self, fields: Mapping[str, NDArray[Any]]) -> None:
        assert self._shared is not None
        box = tuple(slice(*span) for span in self._domain.owned)
        for name, values in fields.items():
            dataset = self._shared[name]
            index = len(dataset)
            dataset.resize(index + 1, axis=0)
            with dataset.collective:
                dataset[(index, *box)] = values

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Keep an error of the disk, for :meth:`_require_written` to tell on all ranks."""
        try:
            yield
        except OSError as error:
            self._failure = self._failure or error


def _onto_disk(path: Path) -> None:
    sync_file(path)
    for folder in (path.parent, path.parents[1], path.parents[2]):
        sync_folder(folder)
