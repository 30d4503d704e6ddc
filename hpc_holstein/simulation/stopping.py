"""End of a run before its last step: signals, a wall-clock budget, the end of the Slurm job, a file named STOP.

Any rank may be told; all ranks agree at a step that every one of them knows beforehand, by one small sum twice a second or so.
Of several runs in one process a file STOP in the folder of one ends that one; everything else ends them all.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple

import torch

from hpc_holstein.interfaces import Domain
from hpc_holstein.stop_signals import SIGNALS, SignalRecord, noted_before

_LOOK_SECONDS = 0.5
_CLOSING_SHARE, _CLOSING_SECONDS = 0.1, 60.0  # of the time there is, kept for the end: a tenth, and never more than a minute
_CHECKPOINTS = 3.0  # times that the last checkpoint took, kept for the last one


class StopSignals(SignalRecord):
    """Notes SIGINT (once), SIGTERM and SIGUSR1 in a ``with`` block instead of ending there; a second SIGINT interrupts.

    What was noted before the block, while the libraries were loaded or in a block around it, has arrived in it, and the other
    way round, so that a command that calls others loses no signal between them.
    ``stopped``: one of several runs has found that all of them are to stop.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stopped = False
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python hands signals to no other
            before = noted_before()
            if before is not None:
                self.arrived, self.first_interrupt = before.arrived, before.first_interrupt
            self._before = {number: signal.signal(number, self.note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def reason(self) -> str | None:
        """Signals that have arrived, in words."""
        return next((f"{number.name} arrived" for number, count in self.arrived.items() if count), None)


@dataclass(frozen=True)
class Deadline:
    """A time of the clock [s since the epoch] at which the process must have ended, why, and what is kept for the end [s]."""

    at: float
    reason: str
    margin: float

    @classmethod
    def earliest(cls, budget: float | None, started: float, environment: Mapping[str, str]) -> Deadline | None:
        """Deadline of a budget of seconds since ``started``, or of the Slurm job in ``environment``; None without either."""
        ends = [] if budget is None else [(started + budget, "the wall-clock budget is used up")]
        with suppress(KeyError, ValueError):
            ends.append((float(environment["SLURM_JOB_END_TIME"]), "the Slurm job is about to end"))
        if not ends:
            return None
        at, reason = min(ends)
        return cls(at, reason, min(_CLOSING_SECONDS, _CLOSING_SHARE * max(at - started, 0.0)))


class SeparateStop:
    """Says why work that each rank does by itself is to end now, None while it goes on: a signal on any rank, or the time.

    ``marker``: a file by which a rank tells the others, which are asked for nothing else before the end of their shares.
    """

    def __init__(self, signals: StopSignals, deadline: Deadline | None, marker: Path | None = None) -> None:
        self._signals, self._deadline, self._marker = signals, deadline, marker
        self._looked = -math.inf
        self._reason: str | None = None

    def __call__(self) -> str | None:
        """The reason; cheap enough for every step."""
        if self._reason is None:
            self._reason = self._signals.reason or self._looked_up()
            if self._reason is not None and self._marker is not None:
                with suppress(OSError):
                    self._marker.touch()
        return self._reason

    def _looked_up(self) -> str | None:
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return None
        self._looked = now
        if self._deadline is not None and time.time() + self._deadline.margin > self._deadline.at:
            return self._deadline.reason
        return "another rank was told to" if self._marker is not None and self._marker.exists() else None


class Verdict(NamedTuple):
    """Decision of all ranks: end the run for a reason, or write a checkpoint because it is time."""

    stop: str | None
    checkpoint: bool


class Watch:
    """Finds out together with all ranks whether to stop, and whether the wall clock asks for a checkpoint.

    ``deadline``, the files and the clock are those of rank 0; signals count on any rank.  ``stop_file`` is the one of this run;
    ``common_file`` is there for several runs, of which ``together`` write their last checkpoints one after another.
    """

    def __init__(
        self,
        domain: Domain,
        signals: StopSignals | None = None,
        deadline: Deadline | None = None,
        stop_file: Path | None = None,
        checkpoint_seconds: float = 0.0,
        common_file: Path | None = None,
        together: int = 1,
    ) -> None:
        self._domain, self._signals, self._deadline = domain, signals or StopSignals(), deadline
        self._stop_file, self._checkpoint_seconds = stop_file, checkpoint_seconds
        self._common_file, self._together = common_file, together
        self._next, self._stride, self._looked = 0, 0, time.monotonic()
        self._saved, self._saving = time.monotonic(), 0.0
        self._reasons = [
            *(f"{number.name} arrived" for number in SIGNALS),
            "" if deadline is None else deadline.reason,
            f"there is a file {common_file}",
            f"there is a file {stop_file}",
        ]

    def due(self, step: int) -> bool:
        """True if the ranks look at this step; at once where another run of theirs has found that all are to stop."""
        return step >= self._next or self._signals.stopped

    def saved(self, seconds: float) -> None:
        """A checkpoint was written, in so many seconds."""
        self._saved, self._saving = time.monotonic(), seconds

    def look(self, step: int) -> Verdict:
        """Ask all ranks; collective.  The next look is after some half second, at the pace since the last one."""
        now = time.monotonic()
        elapsed = now - self._looked if self._stride else 0.0
        told = [float(count) for count in self._signals.arrived.values()]
        files = [float(file is not None and file.exists()) for file in (self._common_file, self._stop_file)]
        root = [float(self._late(elapsed)), *files, float(self._old(now)), elapsed]
        votes = torch.tensor(told + (root if self._domain.rank == 0 else [0.0] * len(root)), dtype=torch.float64)
        *reasons, checkpoint, agreed_elapsed = self._domain.allsum(votes).tolist()
        pace = agreed_elapsed / self._stride if self._stride else _LOOK_SECONDS
        self._stride = max(1, min(2 * self._stride, int(_LOOK_SECONDS / max(pace, 1e-9))))
        self._next, self._looked = step + self._stride, now
        stop = next((text for text, count in zip(self._reasons, reasons, strict=True) if count), None)
        self._signals.stopped |= stop not in (None, self._reasons[-1])
        return Verdict(stop, bool(checkpoint))

    def honoured(self) -> None:
        """The run has stopped: on the root, remove its STOP file, so that the run can go on later."""
        if self._domain.rank == 0 and self._stop_file is not None:
            self._stop_file.unlink(missing_ok=True)

    def _late(self, elapsed: float) -> bool:
        if self._deadline is None:
            return False
        needed = self._deadline.margin + _CHECKPOINTS * self._together * self._saving + 2 * elapsed
        return time.time() + needed > self._deadline.at

    def _old(self, now: float) -> bool:
        return self._checkpoint_seconds > 0 and now - self._saved > self._checkpoint_seconds
