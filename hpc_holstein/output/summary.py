"""``summary.json`` of a run: what it says, and whether the run is finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpc_holstein import inputs
from hpc_holstein.errors import DataError
from hpc_holstein.output.checkpoint import path_of
from hpc_holstein.storage.trajectory import opened
from hpc_holstein.storage.whole_files import IDENTITY


def finished(folder: Path, steps: int, seed: int) -> bool:
    """True if the run of ``seed`` in ``folder`` was done to its end, ``steps``, as its summary, checkpoint and trajectory say.

    A summary alone may be damaged, or have come from elsewhere; what is not finished goes on from its last checkpoint.
    """
    content = read_summary(folder / "summary.json") or {}
    if (content.get("steps"), content.get("seed"), content.get("stopped")) != (steps, seed, None):
        return False
    try:
        with opened(folder / "trajectory.h5") as file:
            told, last = file.attributes().get(IDENTITY), file.numbers("step", written=False)[...][-1:].tolist()
        with inputs.opened(path_of(folder / "checkpoints", steps)) as file:
            return last == [steps] and content.get(IDENTITY) == told == file.attributes().get(IDENTITY)
    except DataError:
        return False


def read_summary(path: Path) -> dict[str, Any] | None:
    """The content of a ``summary.json``; None if it is missing, damaged, or not that of a run."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kinds: dict[str, Any] = {"steps": int, "stopped": str | None, "observables": dict, "trust": dict}
    whole = isinstance(content, dict) and all(isinstance(content.get(name, kinds), kind) for name, kind in kinds.items())
    return content if whole else None
