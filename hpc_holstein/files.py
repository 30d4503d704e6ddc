"""Output files that are whole or not there, whatever ends the process or the machine, and never overwritten unasked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hpc_holstein.errors import DataError, HolsteinError

_LONGEST_NAME, _LONGEST_PATH = 224, 4000  # bytes: names of temporary files have some more
_LARGEST_TEXT = 1 << 22


@contextmanager
def replaced(path: Path, refusal: type[HolsteinError] = DataError, synced: bool = True) -> Iterator[Path]:
    """A temporary name beside ``path`` that becomes ``path`` when the body has written it, and vanishes when the body fails.

    A reader sees the old file or the whole new one, also after a power cut; without ``synced``, which saves the time of the
    disk, that holds as long as the machine runs.  Folders are made as needed.  Raises ``refusal`` if the file cannot be
    written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if synced:
            sync_file(temporary)
        temporary.replace(path)
        if synced:
            sync_folder(path.parent)
    except OSError as error:
        raise refusal(_cannot_write(path, error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def replace_text(path: Path, text: str) -> None:
    """Write or replace a text file as a whole; raises :class:`DataError` if it cannot be written."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync_file(path: Path) -> None:
    """Bring the content of a file onto the disk; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Bring new and renamed entries of a folder onto the disk, if its file system has a notion of that."""
    with suppress(OSError):
        sync_file(folder)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file to write as in :func:`replaced`; raises :class:`DataError` if ``path`` exists."""
    refuse_existing(path)
    with replaced(path) as temporary:
        yield temporary


def refuse_existing(*paths: Path) -> None:
    """Raise :class:`DataError` where one of the outputs is there already."""
    for path in paths:
        if path.exists():
            raise DataError(exists_already(path))


def require_writable(*paths: Path) -> None:
    """Raise :class:`DataError` where an output exists, or cannot be made: said before the work, not after it."""
    refuse_existing(*paths)
    for path in paths:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise DataError(_cannot_write(path, error)) from None


def usable_path(text: str) -> str:
    """``text`` if a file can have that name, else ValueError."""
    if not text:
        raise ValueError("an empty name is no file or folder: give its name, or leave it out")
    raw = text.encode(errors="surrogateescape")
    if b"\0" in raw:
        raise ValueError("a name with a zero character is no file or folder: give another one")
    longest = max(len(part) for part in raw.split(b"/"))
    if longest > _LONGEST_NAME or len(raw) > _LONGEST_PATH:
        raise ValueError(
            f"a path of {len(raw)} bytes with a name of {longest} is too long: file systems take some {_LONGEST_PATH} and "
            f"{_LONGEST_NAME}"
        )
    return text


def read_text(path: Path, told: str, refusal: type[HolsteinError] = DataError) -> str:
    """Text of a small file, such as a configuration; raises ``refusal``, which begins with ``told``, where there is none.

    A pipe is read if somebody writes to it; never more than :data:`_LARGEST_TEXT` bytes are.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for the writer of a pipe
        os.set_blocking(descriptor, True)
        with open(descriptor, "rb") as file:
            content = file.read(_LARGEST_TEXT + 1)
    except FileNotFoundError:
        raise refusal(f"{told} does not exist: check the path") from None
    except (OSError, ValueError) as error:
        raise refusal(f"{told} cannot be read ({getattr(error, 'strerror', None) or error}): give a text file") from None
    if len(content) > _LARGEST_TEXT:
        raise refusal(f"{told} is larger than {_LARGEST_TEXT >> 20} MiB, which no such file is: give a text file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refusal(f"{told} is not UTF-8 text (byte {error.start}): give a text file") from None


def exists_already(path: Path) -> str:
    """The sentence about an output that would be overwritten."""
    return f"{path} exists already and is never overwritten: remove it or choose another output with --output"


def _cannot_write(path: Path, error: OSError) -> str:
    return f"{path} cannot be written ({error.strerror or error}): choose a folder with space and write permission"
