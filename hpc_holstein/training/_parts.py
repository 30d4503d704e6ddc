"""Finished pieces of a long job, kept beside its output until the output is complete."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.errors import DataError
from hpc_holstein.files import replaced
from hpc_holstein.inputs import reason_of

_NAME = re.compile(r"[a-z]+(-\d+)+")


class Parts:
    """Named sets of arrays in files ``.<output>.<name>.part``, each of which carries the key of its job.

    The key is a digest of everything that determines the result, so that a job never continues another one.
    """

    def __init__(self, output: Path, job: Mapping[str, Any]) -> None:
        self._output = output
        self._key = hashlib.sha256(json.dumps(job, sort_keys=True, default=str).encode()).hexdigest()

    def save(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write or replace one part, whole or not at all; ``name``: what it is of, and numbers, such as ``labels-0-3``."""
        with replaced(self._path(name)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, key=np.array(self._key), **arrays)

    def load(self, pattern: str) -> list[dict[str, NDArray[Any]]]:
        """All parts whose name matches ``pattern`` (as in shells).

        Errors: :class:`DataError` for a part that is damaged or belongs to another job.
        """
        return [self._read(path) for path in self._found(pattern)]

    def check(self) -> None:
        """Raise what :meth:`load` would raise for any part, before work begins."""
        self.load("*")

    def clear(self) -> None:
        """Remove every part: the output is complete."""
        for path in self._found("*"):
            path.unlink()

    def _found(self, pattern: str) -> list[Path]:
        """Parts that :meth:`save` writes; files of other names are not ours."""
        start, end = f".{self._output.name}.", ".part"
        every = self._output.parent.glob(f"{glob.escape(start)}{pattern}{end}")
        return sorted(path for path in every if _NAME.fullmatch(path.name.removeprefix(start).removesuffix(end)))

    def _path(self, name: str) -> Path:
        return self._output.with_name(f".{self._output.name}.{name}.part")

    def _read(self, path: Path) -> dict[str, NDArray[Any]]:
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except Exception as error:  # NumPy and zipfile raise many kinds, by the place of the damage
            reason = reason_of(error)
            raise DataError(f"{path} cannot be read ({reason}): remove it, and its share of the work is done again") from None
        if str(arrays.pop("key", "")) != self._key:
            raise DataError(
                f"{path} was left by a job with other states or settings: remove it to start afresh, "
                "choose another output, or repeat that job to continue it"
            )
        return arrays
