"""HDF5 files that are written once and never changed: whole under their name, or not there, whatever ends the run.

Each is made under a temporary name, brought onto the disk and renamed.  A run goes through no symbolic link, and replaces or
removes only what carries its identity.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import h5py

from hpc_holstein import inputs
from hpc_holstein.errors import DataError
from hpc_holstein.files import exists_already, sync_folder

IDENTITY = "run"
"""Attribute of checkpoints, trajectory, segments and summary: the same for all that one run wrote, in all its sessions."""


LARGE = 2**26  # bytes of a file that is not made in memory


class Stamp(NamedTuple):
    """Stamp that tells a file from another one that has taken its name."""

    device: int
    inode: int
    size: int


def stamp_of(path: Path) -> Stamp | None:
    """Stamp of a plain file; None for a link, for anything else, and where there is nothing."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return Stamp(found.st_dev, found.st_ino, found.st_size) if stat.S_ISREG(found.st_mode) else None


def refuse_link(path: Path) -> None:
    """DataError where ``path`` is a symbolic link, which may lead to files of others."""
    if path.is_symlink():
        raise DataError(
            f"{path} is a symbolic link and a run writes through none: put the file or folder itself there, or choose another "
            "output with --output"
        )


def require_unchanged(path: Path, before: Stamp | None) -> None:
    """DataError where somebody has removed or exchanged what the run wrote."""
    if stamp_of(path) != before:
        raise DataError(
            f"{path} was removed or exchanged while the run goes on: put back what the run wrote, or choose another output, "
            "and give the command again"
        )


def create(
    path: Path,
    run: str,
    build: Callable[[h5py.File], None],
    libver: tuple[str, str],
    replaces: Stamp | None = None,
    large: bool = False,
) -> Stamp:
    """Write ``path``, which ``build`` fills, and return its stamp.

    ``replaces``: the stamp of the file that is there, None: there is none.  ``large``: never as a whole in memory.
    Raises OSError where the disk fails and DataError where another file is there; then nothing has changed.
    """
    temporary = path.with_name(f".{run}.{uuid4().hex[:8]}.tmp")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        stream, memory = _Stream(descriptor), io.BytesIO()
        with h5py.File(stream if large else memory, "w", libver=libver) as file:
            build(file)
        stream.write(memory.getbuffer())
        if stream.failure is not None:
            raise stream.failure
        os.fsync(descriptor)
        found = os.fstat(descriptor)
        if replaces is None and os.path.lexists(path):
            raise FileExistsError
        if replaces is not None:
            require_unchanged(path, replaces)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        os.close(descriptor)
        with suppress(OSError):
            os.unlink(temporary)
    return Stamp(found.st_dev, found.st_ino, found.st_size)


def remove(path: Path, run: str) -> None:
    """Remove a plain file that carries the identity of ``run``; any other one stays."""
    if stamp_of(path) is None:
        return
    with suppress(OSError, DataError):
        with inputs.opened(path) as file:
            told = file.attributes().get(IDENTITY)
        if told == run:
            os.unlink(path)


def remove_unfinished(folder: Path, run: str) -> None:
    """Remove what :func:`create` of ``run`` left in a folder when it was killed."""
    name = re.compile(rf"\.{re.escape(run)}\.[0-9a-f]{{8}}\.tmp")
    with suppress(OSError):
        for path in folder.iterdir():
            if name.fullmatch(path.name) and stamp_of(path) is not None:
                os.unlink(path)


@contextmanager
def refused_in_words(path: Path) -> Iterator[None]:
    """DataError for an OSError of making or writing ``path``."""
    try:
        yield
    except FileExistsError:
        raise DataError(exists_already(path)) from None
    except OSError as error:
        raise DataError(cannot_write(path, error.strerror or str(error))) from None


def cannot_write(path: Path, reason: str) -> str:
    """The sentence about a disk that fails."""
    return f"{path} cannot be written ({reason}): free space, or choose another output, and give the command again"


class _Stream(io.RawIOBase):
    """A file for HDF5, whose library cannot close one that fails: :attr:`failure` keeps the first error of the disk."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._position = descriptor, 0
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        size, offset = len(view), self._position
        self._position += size
        try:
            while view and self.failure is None:
                written = os.pwrite(self._descriptor, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            self.failure = error
        return size

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = os.pread(self._descriptor, len(view), self._position)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        self._position = (os.fstat(self._descriptor).st_size if base is None else base) + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        length = self._position if size is None else size
        try:
            os.ftruncate(self._descriptor, length)
        except OSError as error:
            self.failure = self.failure or error
        return length
