"""One run a folder: two that write the same files would destroy them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Literal

from hpc_holstein.errors import DataError


class FolderLock:
    """Held from :meth:`acquire` to the end of the ``with`` block, and released by the system if the process is killed.

    ``locking``: ``auto`` does not protect where there are no locks on folders (some network file systems), ``on`` refuses to
    work there, and ``off`` takes none.
    """

    def __init__(self, folder: Path, locking: Literal["auto", "on", "off"] = "auto") -> None:
        self._folder, self._locking = folder, locking
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Make the folder and lock it, if it is not yet; DataError where another run has it, or where it cannot be made."""
        if self._descriptor is not None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._folder, os.O_RDONLY)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"{self._folder} cannot be used ({reason}): choose another folder with --output") from None
        if self._locking == "off":
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"another run is writing to {self._folder}: wait for its end, or choose another folder with --output"
            ) from None
        except OSError as error:
            if self._locking == "on":
                raise DataError(
                    f"{self._folder} cannot be locked ({error.strerror}) and output.locking = 'on': give auto, or choose "
                    "another folder with --output"
                ) from None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
