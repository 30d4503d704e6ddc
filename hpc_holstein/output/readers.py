"""Changing a file that other programs may read: they find it before the change or after it, never in its middle.

A Linux lease on a file is granted while nobody else has it open, and makes whoever opens it wait until it is given back; it
needs nothing of the reader.  Where there are no leases an exclusive lock keeps HDF5 readers out, which take a shared one.
"""

from __future__ import annotations

import fcntl
import functools
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_POLL = 0.01  # seconds between two tries


@contextmanager
def alone(descriptor: int, patience: float = 0.0) -> Iterator[bool]:
    """Keep others from opening a file of ours in the block; False, and nothing is kept, where somebody has it open.

    ``patience``: seconds to wait for them to close it.
    """
    deadline = time.monotonic() + patience
    while not (taken := _taken(descriptor)) and time.monotonic() < deadline:
        time.sleep(_POLL)
    try:
        yield taken
    finally:
        if taken:
            _given_back(descriptor)


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Keep a writer from changing the file in the block.

    A library that opens a file while it holds the interpreter would stop a writer in this process from giving back its lease.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() not in ("FALSE", "0"):
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    """Whether nobody else has the file open, as far as the file system knows; then others wait."""
    if not _leased(descriptor) and _leases_work(str(Path(os.readlink(f"/proc/self/fd/{descriptor}")).parent)):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _given_back(descriptor)
        return False
    except OSError:  # no locks either
        pass
    return True


def _leased(descriptor: int) -> bool:
    """False where somebody has the file open, or where the file system says so of every file; True without leases."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # of somebody who waits; it is ignored
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return False
    except (OSError, AttributeError):  # not on this file system, or not in this operating system
        pass
    return True


@functools.cache
def _leases_work(folder: str) -> bool:
    """Whether a file that nobody else knows can be leased, which NFS 4 refuses."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".lease-") as file:
            return _leased(file.fileno())
    except OSError:
        return True


def _given_back(descriptor: int) -> None:
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    with suppress(OSError, AttributeError):
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
