"""Signals that ask a command to stop, noted from its first line to the end of its process.

Work that can be stopped looks at what has arrived (:class:`simulation.StopSignals`); what arrives while libraries are loaded,
or when the work is done, must neither be lost nor turn the end of the work into a failure.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

_AGAIN_SECONDS = 1.0  # a second interrupt after this ends at once; a terminal and a launcher may both send the first one


class SignalRecord:
    """Signals that have arrived since :meth:`note` is their handler; a second SIGINT, a second later, interrupts."""

    def __init__(self) -> None:
        self.arrived = dict.fromkeys(SIGNALS, 0)
        self.first_interrupt = 0.0

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler of :data:`SIGNALS`."""
        now = time.monotonic()
        if number == signal.SIGINT and self.arrived[signal.SIGINT] and now - self.first_interrupt > _AGAIN_SECONDS:
            raise KeyboardInterrupt
        if number == signal.SIGINT and not self.arrived[signal.SIGINT]:
            self.first_interrupt = now
        self.arrived[signal.Signals(number)] = 1


def note_all() -> None:
    """Note the signals from here on."""
    noted = SignalRecord()
    for number in SIGNALS:
        signal.signal(number, noted.note)


def noted_before() -> SignalRecord | None:
    """Object that notes the signals now."""
    noted = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return noted if isinstance(noted, SignalRecord) else None


class EndedError(BaseException):
    """A signal that ends a command which keeps nothing of its work, wherever that is; nobody takes it for an error."""


@contextmanager
def ending_at_once() -> Iterator[None]:
    """For a command that keeps nothing half-way: SIGTERM and SIGUSR1 raise :class:`EndedError`, also those that were noted."""
    noted = noted_before()
    if noted is None:
        yield
        return
    try:
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else _end)
        for number, count in noted.arrived.items():
            if count:
                signal.raise_signal(number)
        yield
    finally:
        note_all()


def _end(number: int, frame: FrameType | None) -> None:
    note_all()  # another one does not disturb what is tidied up
    raise EndedError(f"{signal.Signals(number).name} arrived")


def end_no_more() -> None:
    """The results are there and only have to be written: from here on such a command is done, whatever arrives."""
    if signal.getsignal(signal.SIGTERM) is _end:
        note_all()


def ignore_all() -> None:
    """The work is over, and so is all that a signal could ask for; the interpreter takes some time to end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
