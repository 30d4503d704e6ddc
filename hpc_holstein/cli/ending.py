"""Ends of commands that label or train before they are done: as those of a run, by signals and by the clock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpc_holstein.cli.session import Session
from hpc_holstein.simulation import Deadline, StopSignals
from hpc_holstein.simulation.stopping import Apart


@contextmanager
def stoppable(session: Session, walltime: float | None, output: Path) -> Iterator[Apart]:
    """Reasons for the work in the block to end: SIGINT, SIGTERM and SIGUSR1 on any rank, ``walltime`` [s], the Slurm job.

    Ranks tell each other by a file beside ``output``.  Collective.
    """
    marker = output.parent / f".{output.name}.stop"
    if marker.parent.is_dir():  # else there is nothing of a command that was killed
        session.on_root(lambda: marker.unlink(missing_ok=True))
    with StopSignals() as signals:
        try:
            yield Apart(signals, deadline(walltime), marker)
        finally:
            if session.is_root and marker.parent.is_dir():
                marker.unlink(missing_ok=True)


def deadline(walltime: float | None) -> Deadline | None:
    """The earlier one of ``walltime`` seconds after the start of this process and the end of the Slurm job."""
    return Deadline.earliest(walltime, _process_start(), os.environ)


def _process_start() -> float:
    """When this process started [s since the epoch]: imports may take longer than a minute on a busy file system."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
