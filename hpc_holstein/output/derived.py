"""Results that a command derives from a source, and makes anew when the source has changed: a run has grown, for example.

The record of a result, a JSON file, says under ``made`` which command made it with which options, of which source in which
state, and the SHA-256 of each file beside it.  So a result is replaced by the command that made it only, and never where a file
has been changed since or is of somebody else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpc_holstein.errors import DataError
from hpc_holstein.files import exists_already, require_writable
from hpc_holstein.output.provenance import write_json


@dataclass(frozen=True)
class ResultOrigin:
    """The making of a result: ``command``, ``options``, the identity of its source (``of``) and the ``state`` of that."""

    command: str
    of: str
    options: dict[str, Any]
    state: dict[str, Any]


class Derived:
    """The result in ``record`` and the ``figures`` that may lie beside it."""

    def __init__(self, record: Path, figures: Sequence[Path], made: ResultOrigin) -> None:
        self._record, self._figures = record, list(figures)
        self._made: dict[str, Any] = json.loads(json.dumps(asdict(made), sort_keys=True))
        self._old: list[Path] = []

    def is_up_to_date(self) -> bool:
        """True if the result is there, of the source as it is.  DataError where it cannot be made: another one is there."""
        before = self._before()
        if before is None:
            require_writable(self._record, *self._figures)
            return False
        files: Mapping[str, str] = before["files"]
        for path in self._figures:
            if path.exists() and files.get(path.name) != digest(path):
                raise DataError(exists_already(path))
        if any(before[name] != self._made[name] for name in ("command", "of", "options")):
            raise DataError(exists_already(self._record))
        self._old = [path for path in (*self._figures, self._record) if path.exists()]
        return bool(before["state"] == self._made["state"]) and all((self._record.parent / name).exists() for name in files)

    def write(self, content: Mapping[str, Any], draw: Callable[[], Sequence[Path]]) -> list[Path]:
        """Remove the result of before, draw the figures, and write the record last; returns what was written."""
        for path in self._old:
            path.unlink(missing_ok=True)
        drawn = list(draw())
        write_json(self._record, {**content, "made": {**self._made, "files": {path.name: digest(path) for path in drawn}}})
        return [self._record, *drawn]

    def _before(self) -> dict[str, Any] | None:
        """The making that a record states; None without a record, or if it says nothing."""
        try:
            made = json.loads(self._record.read_text(encoding="utf-8"))["made"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        known = isinstance(made, dict) and {"command", "of", "options", "state", "files"} <= made.keys()
        return made if known and isinstance(made["files"], dict) else None


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
