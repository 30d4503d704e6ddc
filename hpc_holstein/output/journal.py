"""A file that changes in whole steps: whatever ends the process, a reader finds what the last commit left.

Bytes behind the end of the last commit go to the disk at once: nothing refers to them yet.  Changes before that end wait in
memory for :meth:`JournaledFile.commit`, which writes them to a journal beside the file, then into the file; a journal that is
found later is applied again.  Each stage is on the disk before the next one starts.  Source: the write-ahead logs of data
bases, Gray and Reuter, Transaction Processing (1992).

Other programs may read the file at any time: changes go into it while nobody has it open (see :mod:`output.readers`), which
takes well below a millisecond.  While somebody does, commits stay in the journal, and that reader keeps what it opened.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from hpc_holstein.files import put_in_place, sync_folder
from hpc_holstein.output.readers import alone

_PAGE = 4096
_MAGIC = b"hpc_holstein journal 1\n"
_HEAD = struct.Struct("<QQ")  # length of the file, number of pages
_INDEX = struct.Struct("<Q")
_EVERYWHERE = 1 << 62
_PATIENCE = 1.0  # seconds to wait for readers before a file changes under them

Pages = dict[int, bytearray]


class JournaledFile(io.RawIOBase):
    """A binary file as HDF5 uses one; ``create`` a new one, ``append`` to one, or ``read`` the last commit of one.

    A disk that fails (full, quota) fails no write: what cannot be stored stays in memory, so that HDF5 can close its file, and
    :attr:`failure` and every later :meth:`commit` tell.  The file then holds the last commit.  Opening raises OSError.
    ``guarded``: heed other readers.
    """

    def __init__(self, path: Path, mode: Literal["create", "append", "read"], guarded: bool = True) -> None:
        self.path, self._guarded = path, guarded
        self.applied = True  # the last commit is in the file, not in the journal alone
        self.failure: OSError | None = None
        self._fd = -1
        self._journal = journal_of(path)
        self._writes = mode != "read"
        flags = {"create": os.O_RDWR | os.O_CREAT | os.O_EXCL, "append": os.O_RDWR, "read": os.O_RDONLY}[mode]
        self._fd = os.open(path, flags, 0o666)
        self._pages: Pages = {}
        self._position = 0
        self._changed = False
        if self._writes:
            self._journal.with_name(f"{self._journal.name}.tmp").unlink(missing_ok=True)
        if mode == "create":
            self._journal.unlink(missing_ok=True)
        self._length = os.fstat(self._fd).st_size
        found = read_journal(path)
        if found is not None:
            self._length, self._pages = found
        self._limit = _aligned(os.fstat(self._fd).st_size) if self._writes else _EVERYWHERE
        if mode == "append" and found is not None:
            self._settle(force=True)
            self._journal.unlink()
            self._limit = _aligned(self._length)

    def commit(self, force: bool = False) -> None:
        """Make everything written so far what a reader finds; raises the OSError of a disk that failed, now or before.

        ``force``: bring it into the file itself even where somebody keeps that open.
        """
        if self.failure is not None:
            raise self.failure
        try:
            if self._changed:
                os.fsync(self._fd)
                self._write_journal()
                self._changed, self.applied = False, False
                self._limit = _aligned(self._length)
            if not self.applied:
                self._settle(force)
        except OSError as error:
            self._fail(error)
            raise

    def _settle(self, force: bool) -> None:
        """Bring the journal into the file, unless a reader is in the way."""
        with alone(self._fd, _PATIENCE if force else 0.0) if self._guarded else nullcontext(True) as free:
            if not (free or force):
                return
            self._put_pages()
        os.fsync(self._fd)
        self._pages.clear()
        os.truncate(self._journal, 0)
        self.applied = True

    def close(self) -> None:
        """Close without a commit."""
        if not self.closed and self._fd >= 0:
            os.close(self._fd)
            if self._writes and read_journal(self.path) is None:
                self._journal.unlink(missing_ok=True)
        super().close()

    def write(self, data: Any) -> int:
        """All of ``data`` at the position."""
        view = memoryview(data).cast("B")
        start, end = self._position, self._position + len(view)
        split = min(max(self._limit - start, 0), len(view))
        self._change(start, view[:split])
        if split < len(view):
            try:
                _write_all(self._fd, view[split:], start + split)
            except OSError as error:
                self._fail(error)
                self._change(start + split, view[split:])
        self._position, self._length, self._changed = end, max(self._length, end), True
        return len(view)

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` from the position, up to the end."""
        view = memoryview(buffer).cast("B")
        start = self._position
        count = max(0, min(len(view), self._length - start))
        _read_all(self._fd, view[:count], start)
        if self._pages:
            for page in range(start // _PAGE, -(-(start + count) // _PAGE)):
                if page in self._pages:
                    low, high = max(start, page * _PAGE), min(start + count, (page + 1) * _PAGE)
                    view[low - start : high - start] = self._pages[page][low - page * _PAGE : high - page * _PAGE]
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Change the length; a file becomes shorter than at the last commit in the next one."""
        length = self._position if size is None else size
        if length != self._length:
            self._length, self._changed = length, True
        if length >= self._limit:
            try:
                os.ftruncate(self._fd, length)
            except OSError as error:
                self._fail(error)
        return length

    def flush(self) -> None:
        """Nothing: see :meth:`commit`."""

    def readable(self) -> bool:
        """True."""
        return True

    def writable(self) -> bool:
        """True; what is written to a file opened to be read stays in memory."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def _change(self, start: int, data: memoryview) -> None:
        """Keep ``data`` in the pages in memory."""
        done = 0
        while done < len(data):
            page, offset = divmod(start + done, _PAGE)
            size = min(_PAGE - offset, len(data) - done)
            if page not in self._pages:
                self._pages[page] = bytearray(_PAGE)
                _read_all(self._fd, memoryview(self._pages[page]), page * _PAGE)
            self._pages[page][offset : offset + size] = data[done : done + size]
            done += size

    def _fail(self, error: OSError) -> None:
        self.failure = self.failure or error
        self._limit = _EVERYWHERE

    def _write_journal(self) -> None:
        """The changes, whole and on the disk, under a checksum that tells a journal that was cut off."""
        pages = sorted(self._pages.items())
        content = _HEAD.pack(self._length, len(pages)) + b"".join(_INDEX.pack(page) + data for page, data in pages)
        new = not self._journal.exists()
        path = self._journal if self.applied else self._journal.with_name(f"{self._journal.name}.tmp")
        with path.open("wb") as file:
            file.write(_MAGIC + hashlib.sha256(content).digest() + content)
            file.flush()
            os.fsync(file.fileno())
        if path != self._journal:  # that holds a commit which is nowhere else
            os.replace(path, self._journal)
        if new or path != self._journal:
            sync_folder(self.path.parent)

    def _put_pages(self) -> None:
        """The journal's changes in the file."""
        for page, data in self._pages.items():
            _write_all(self._fd, memoryview(data)[: max(0, self._length - page * _PAGE)], page * _PAGE)
        os.ftruncate(self._fd, self._length)


def journal_of(path: Path) -> Path:
    """Where the journal of a file is."""
    return path.with_name(f".{path.name}.journal")


def read_journal(path: Path) -> tuple[int, Pages] | None:
    """Length and changed pages of a commit that may not be in the file yet; None without a whole journal."""
    try:
        data = journal_of(path).read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + hashlib.sha256().digest_size
    content = data[start:]
    if data[:start] != _MAGIC + hashlib.sha256(content).digest():
        return None
    length, count = _HEAD.unpack_from(content)
    size = _INDEX.size + _PAGE
    pages: Pages = {}
    for record in range(_HEAD.size, _HEAD.size + count * size, size):
        (page,) = _INDEX.unpack_from(content, record)
        pages[page] = bytearray(content[record + _INDEX.size : record + size])
    return length, pages


def write_whole(path: Path, content: Any) -> None:
    """A file that is there with all of ``content``, or as it was before; raises OSError."""
    temporary = unfinished(path)
    temporary.write_bytes(content)
    put_in_place(temporary, path)


def unfinished(path: Path) -> Path:
    """What :func:`write_whole` leaves of ``path`` where it is killed."""
    return path.with_name(f".{path.name}.tmp")


def _aligned(length: int) -> int:
    """``length`` rounded up to whole pages."""
    return -(-length // _PAGE) * _PAGE


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _read_all(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Fill ``buffer``; zeros behind the end of the file."""
    while buffer:
        data = os.pread(descriptor, len(buffer), offset)
        if not data:
            buffer[:] = bytes(len(buffer))
            return
        buffer[: len(data)] = data
        buffer, offset = buffer[len(data) :], offset + len(data)
