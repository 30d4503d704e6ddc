"""Complaints about a trajectory that cannot be written or read: one sentence, with a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpc_holstein.errors import DataError
from hpc_holstein.files import exists_already
from hpc_holstein.inputs import UnreadableError, reason_of


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


@contextmanager
def damage_before(path: Path, step: int) -> Iterator[None]:
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
