"""How far a run is that another process writes: read from its trajectory as it grows, and whether it still goes on."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_holstein import inputs
from hpc_holstein.errors import DataError
from hpc_holstein.output.checkpoint import IDENTITY, path_of
from hpc_holstein.output.hdf5 import open_trajectory, opened

_ROWS = 20  # that a rate is taken over
_SILENCE = 60.0  # seconds without news after which a run of which nothing else is known has ended


@dataclass(frozen=True)
class Status:
    """The last row of observables; NaN where something is not known.

    step, sites      so far; of the lattice
    rate             steps/s, over the last rows
    temperature      kinetic [t_nn]
    order, length    CDW order parameter, and domain length by the first moment of S(q) [a]
    drift            of the electron number since the start of the file [electrons/site]
    """

    step: int
    sites: int
    rate: float
    temperature: float
    order: float
    length: float
    drift: float


def status(path: Path, dt: float) -> Status | None:
    """That of a trajectory with time step ``dt``; None before its first row.  DataError where it is damaged."""
    with open_trajectory(path) as trajectory:
        series, seconds = trajectory.series(), trajectory.seconds()
        sites = math.prod(trajectory.extent)
    if len(series["time"]) == 0:
        return None
    steps = np.rint(series["time"] / dt)
    spent = float(np.nansum(seconds[1:][-_ROWS:]))
    done = float(steps[-1] - steps[-min(_ROWS + 1, len(steps))])
    return Status(
        step=int(steps[-1]),
        sites=sites,
        rate=done / spent if spent > 0 else math.nan,
        temperature=float(series["kinetic_temperature"][-1]),
        order=float(series["order_parameter"][-1]),
        length=float(series["domain_length_inverse_moment"][-1]),
        drift=float(series["electron_number"][-1] - series["electron_number"][0]),
    )


class Pulse:
    """Whether the run in ``folder`` goes on: it holds its lock, it writes, or it has said how it ended."""

    def __init__(self, folder: Path, trajectory: Path) -> None:
        self._folder, self._trajectory, self._summary = folder, trajectory, folder / "summary.json"
        self._locked = False

    def end(self) -> str | None:
        """How it ended; None while it goes on."""
        if _is_locked(self._folder):
            self._locked = True
            return None
        changed, said = _changed(self._trajectory), _changed(self._summary)
        if said and said >= changed:
            return _told(self._summary)
        if self._locked or time.time() - max(changed, _changed(self._folder)) > _SILENCE:
            return "ended without a word, or was killed: the same command continues it"
        return None


def _is_locked(folder: Path) -> bool:
    """Whether a process of this host has the lock of :class:`output.folder_lock.FolderLock`; looking must not take it."""
    try:
        found = folder.stat()
        device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        return any(f" {device} " in line and "FLOCK" in line for line in Path("/proc/locks").read_text().splitlines())
    except OSError:
        return False


def _changed(path: Path) -> float:
    """When it changed last [s since the epoch], 0 where it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _told(summary: Path) -> str:
    content = read_summary(summary)
    if content is None:
        raise DataError(f"{summary} is not the summary of a run: move it away")
    return f"stopped because {content['stopped']}" if content["stopped"] else f"finished, {content['steps']} steps"


def finished(folder: Path, steps: int, seed: int) -> bool:
    """Whether the run of ``seed`` in ``folder`` was done to its end, ``steps``, as its summary, checkpoint and trajectory say.

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
