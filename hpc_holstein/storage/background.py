"""Work that another thread of this process does in order, while this one computes; and how often data go to the disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

_SHARE = 100.0  # of the time between two commits, in units of what one takes


class Background:
    """One thread that does jobs one after the other; it starts with the first one.

    An exception of a job is raised by every later :meth:`wait`; the jobs after it are left out.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._last: Future[None] | None = None

    def submit(self, job: Callable[[], object]) -> None:
        """Do ``job`` when those before it are done."""
        self._last = self._pool.submit(_after, self._last, job)

    def wait(self) -> None:
        """Return when all is done."""
        if self._last is not None:
            self._last.result()

    def end(self) -> None:
        """Do what is left, and end the thread."""
        self._pool.shutdown(wait=True)


def _after(before: Future[None] | None, job: Callable[[], object]) -> None:
    if before is not None:
        before.result()
    job()


class Budget:
    """Time that several ``users`` may take together; ``free``: when the hundredth of the time that they have taken is over."""

    def __init__(self) -> None:
        self.free, self.users = -math.inf, 0


class Pace:
    """When to bring data onto the disk again: every ``seconds``, or less often, so that it takes a hundredth of the time.

    ``budget``: of all that share it.
    """

    def __init__(self, seconds: float, budget: Budget | None = None) -> None:
        self._seconds, self._last, self._budget = seconds, -math.inf, budget or Budget()

    def due(self) -> bool:
        """True if it is time."""
        now = time.monotonic()
        return now - self._last > self._seconds and now > self._budget.free

    def timed(self, job: Callable[[], object]) -> None:
        """Do it."""
        start = time.monotonic()
        job()
        self.taken(start)

    def taken(self, start: float) -> None:
        """It was done just now, and began at ``start`` of the monotonic clock."""
        self._last = time.monotonic()
        self._budget.free = max(self._budget.free, start) + _SHARE * (self._last - start)
