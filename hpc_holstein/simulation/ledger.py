"""Shares of the time of a run, over all sessions of it, and in each row of observables since the row before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

from torch import Tensor

from hpc_holstein.domain.transport import Channel, Message, Transport


@dataclass(frozen=True)
class Totals:
    """Time and work of a run, up to its last checkpoint in sessions that were killed; seconds are those of rank 0.

    Forces and output (observables, trajectory, checkpoints) without the communication in them, communication (halo exchanges
    and sums, waiting included) and the rest add up to ``wall_seconds``; checkpoints are a part of the output, halos of the
    communication.  ``halo_bytes`` were sent for forces; ``hidden_seconds`` halos were under way while the rank computed.
    Of a run that advances in lock step with others, all are its share: those of the runs add up to what the process spent.
    """

    wall_seconds: float = 0.0
    force_seconds: float = 0.0
    communication_seconds: float = 0.0
    output_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    halo_seconds: float = 0.0
    hidden_seconds: float = 0.0
    halo_bytes: float = 0.0
    force_calls: int = 0
    sessions: int = 0


@dataclass
class _Spent:
    """Work of a transport so far: seconds in exchanges, in sums, and between the parts of an exchange; bytes sent."""

    exchanges: float = 0.0
    sums: float = 0.0
    hidden: float = 0.0
    sent: float = 0.0

    def plus(self, other: _Spent, times: float = 1.0) -> _Spent:
        return _Spent(*(a + times * b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def blocked(self) -> float:
        return self.exchanges + self.sums


class MeteredTransport:
    """A transport that adds up the seconds it spends in exchanges and sums, waiting for other ranks included."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.rank, self.size = inner.rank, inner.size
        self._spent = _Spent()

    def spent(self) -> _Spent:
        """Everything up to now."""
        return replace(self._spent)

    def charge(self, spent: _Spent, times: float = 1.0) -> None:
        """Add a part of what was done for this run elsewhere, or take away (-1) what was done here for others."""
        for name, value in asdict(self._spent.plus(spent, times)).items():  # in place: channels add to the same account
            setattr(self._spent, name, value)

    def exchange(self, messages: Sequence[Message]) -> None:
        """See :class:`Transport`."""
        start = time.perf_counter()
        self._spent.sent += self._sent_by(messages)
        self._inner.exchange(messages)
        self._spent.exchanges += time.perf_counter() - start

    def exchange_start(self, messages: Sequence[Message]) -> Callable[[], None]:
        """See :class:`Transport`; what is hidden behind other work counts apart."""
        start = time.perf_counter()
        self._spent.sent += self._sent_by(messages)
        wait = self._inner.exchange_start(messages)
        left = time.perf_counter()
        self._spent.exchanges += left - start

        def finish() -> None:
            back = time.perf_counter()
            wait()
            self._spent.exchanges += time.perf_counter() - back
            self._spent.hidden += back - left

        return finish

    def channel(self, messages: Sequence[Message]) -> Channel:
        """See :class:`Transport`."""
        return _MeteredChannel(self._inner.channel(messages), self._spent, self._sent_by(messages))

    def allsum(self, value: Tensor) -> Tensor:
        """See :class:`Transport`."""
        start = time.perf_counter()
        total = self._inner.allsum(value)
        self._spent.sums += time.perf_counter() - start
        return total

    def _sent_by(self, messages: Sequence[Message]) -> int:
        """Bytes that leave the rank."""
        return sum(m.send.nbytes for m in messages if m.dest is not None and m.dest != self.rank)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _MeteredChannel:
    """A channel whose seconds and bytes are added to ``spent``."""

    def __init__(self, inner: Channel, spent: _Spent, sent: int) -> None:
        self._inner, self._spent, self._sent = inner, spent, sent
        self._left = 0.0

    def start(self) -> None:
        """See :class:`Channel`."""
        start = time.perf_counter()
        self._inner.start()
        self._left = time.perf_counter()
        self._spent.exchanges += self._left - start
        self._spent.sent += self._sent

    def wait(self) -> None:
        """See :class:`Channel`."""
        back = time.perf_counter()
        self._inner.wait()
        self._spent.exchanges += time.perf_counter() - back
        self._spent.hidden += back - self._left


class Ledger:
    """Adds this session to the ``carried`` totals of those before it; ``clock`` [s] stands still while others work."""

    def __init__(
        self,
        transport: MeteredTransport,
        carried: Totals | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._transport, self._carried = transport, carried or Totals()
        self._clock = clock or time.perf_counter
        self._start = self._now = self._clock()
        self._own = dict.fromkeys(("force", "output"), 0.0)  # seconds without communication
        self._start_spent = self._now_spent = transport.spent()
        self._for_output = _Spent()
        self._row = self._seconds()
        self.checkpoint_seconds, self.force_calls = 0.0, 0

    @contextmanager
    def spend(self, on: str) -> Iterator[None]:
        """Count the block as ``force`` or ``output``."""
        self._now, self._now_spent = self._clock(), self._transport.spent()
        try:
            yield
        finally:
            spent = self._transport.spent().plus(self._now_spent, -1)
            self._own[on] += self._clock() - self._now - spent.blocked
            if on == "output":
                self._for_output = self._for_output.plus(spent)

    def row(self) -> dict[str, float]:
        """Seconds since the last row, until the output began that this one is a part of."""
        before, self._row = self._row, self._seconds()
        return {name: seconds - before[name] for name, seconds in self._row.items()}

    def _seconds(self) -> dict[str, float]:
        communication = self._now_spent.plus(self._start_spent, -1).blocked
        seconds = {**self._own, "communication": communication}
        return {**seconds, "other": self._now - self._start - sum(seconds.values())}

    def totals(self) -> Totals:
        """Everything up to now."""
        spent = self._transport.spent().plus(self._start_spent, -1)
        halos = spent.plus(self._for_output, -1)
        here = Totals(
            wall_seconds=self._clock() - self._start,
            force_seconds=self._own["force"],
            communication_seconds=spent.blocked,
            output_seconds=self._own["output"],
            checkpoint_seconds=self.checkpoint_seconds,
            halo_seconds=halos.exchanges,
            hidden_seconds=halos.hidden,
            halo_bytes=halos.sent,
            force_calls=self.force_calls,
            sessions=1,
        )
        return Totals(*(before + now for before, now in zip(astuple(self._carried), astuple(here), strict=True)))
