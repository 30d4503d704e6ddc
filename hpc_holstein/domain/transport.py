"""Communication of ranks: alone, as threads of one process for tests, or through MPI, behind one protocol.

The transport is an argument, never a global; MPI starts when an :class:`MPITransport` is made, not at import.
"""

from __future__ import annotations

import copy
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol, TypeVar

from torch import Tensor

from hpc_holstein.domain._in_process import ThreadTransport, run_in_process
from hpc_holstein.domain._messages import Channel, Message, PersistentChannel, Repeated, post, sum_in_rank_order
from hpc_holstein.errors import HolsteinError

__all__ = ["Channel", "MPITransport", "Message", "SerialTransport", "ThreadTransport", "Transport"]
__all__ += ["abort_all_on_error", "agree", "agreed", "run_in_process", "sum_in_rank_order"]

T = TypeVar("T")

_USER_ERROR, _UNEXPECTED = 2, 1  # exit codes
_ARRIVAL_SECONDS = 5.0  # how long a rank with a user error waits for the others to have one too


class Transport(Protocol):
    """Communication between ranks.  All methods but the exchanges and ``abort`` are collective; the root is rank 0."""

    rank: int
    size: int

    def exchange(self, messages: Sequence[Message]) -> None:
        """Post all sends and receives together and wait until all have ended."""

    def exchange_start(self, messages: Sequence[Message]) -> Callable[[], None]:
        """The same in two parts: calling the result waits.  All ranks start several in the same order."""

    def channel(self, messages: Sequence[Message]) -> Channel:
        """For messages that are sent often; channels are started in the same order on all ranks, apart from exchanges."""

    def allsum(self, value: Tensor) -> Tensor:
        """Sum over ranks, added in rank order: the same bits on all ranks and in every run.  Carries no gradient."""

    def allgather(self, value: T) -> list[T]:
        """The value of every rank, in rank order, on every rank."""

    def gather(self, value: T) -> list[T] | None:
        """The value of every rank, in rank order, on the root; None elsewhere.  NumPy arrays travel as raw buffers."""

    def scatter(self, values: Sequence[T] | None) -> T:
        """Entry ``rank`` of the sequence that the root gives."""

    def bcast(self, value: T) -> T:
        """The value of the root, on every rank."""

    def barrier(self) -> None:
        """Return when every rank has called it."""

    def all_arrive(self, seconds: float) -> bool:
        """True if every rank calls this within ``seconds``."""

    def abort(self, message: str, code: int = _UNEXPECTED) -> NoReturn:
        """Print ``message`` and end every rank with exit code ``code``."""


class SerialTransport:
    """One rank alone."""

    rank = 0
    size = 1

    def exchange(self, messages: Sequence[Message]) -> None:
        """A copy of what the rank sends to itself."""
        for message in messages:
            if message.source is not None:
                message.recv.copy_(message.send)

    def exchange_start(self, messages: Sequence[Message]) -> Callable[[], None]:
        """The same; nothing is left to wait for."""
        self.exchange(messages)
        return lambda: None

    def channel(self, messages: Sequence[Message]) -> Channel:
        """Exchanges."""
        return Repeated(self.exchange_start, messages)

    def allsum(self, value: Tensor) -> Tensor:
        """A copy of ``value``."""
        return value.detach().clone()

    def allgather(self, value: T) -> list[T]:
        """``[value]``."""
        return [value]

    def gather(self, value: T) -> list[T] | None:
        """``[value]``."""
        return [value]

    def scatter(self, values: Sequence[T] | None) -> T:
        """The only entry."""
        assert values is not None
        return values[0]

    def bcast(self, value: T) -> T:
        """``value``."""
        return value

    def barrier(self) -> None:
        """Nothing to wait for."""

    def all_arrive(self, seconds: float) -> bool:
        """True: the only rank is here."""
        return True

    def abort(self, message: str, code: int = _UNEXPECTED) -> NoReturn:
        """Print ``message`` and leave with ``code``."""
        print(message, file=sys.stderr, flush=True)
        raise SystemExit(code)


class MPITransport:
    """A rank of an MPI communicator (default: all ranks of the job); starts MPI.  Collective to make.

    GPU memory passes through pinned host memory, so that every MPI library will do, but from :meth:`direct`.
    """

    _direct = False

    def __init__(self, comm: Any = None) -> None:
        from mpi4py import MPI  # not at import of the package: that must start no MPI
        from mpi4py.util import pkl5

        parent = MPI.COMM_WORLD if comm is None else comm
        self._comm = self.communicator = pkl5.Intracomm(parent.Dup())  # own message space; arrays in objects travel as buffers
        self._arrivals = parent.Dup()  # free of whatever an unfinished collective left on the other
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()

    def split(self, group: int) -> MPITransport:
        """All ranks that give the same number, in their order.  Collective."""
        return MPITransport(self._comm.Split(group, self.rank))

    def direct(self) -> MPITransport:
        """The same ranks, with messages handed to MPI where they are, on a GPU or not."""
        other = copy.copy(self)
        other._direct = True
        return other

    def exchange(self, messages: Sequence[Message]) -> None:
        """:meth:`exchange_start`, and its end."""
        self.exchange_start(messages)()

    def exchange_start(self, messages: Sequence[Message]) -> Callable[[], None]:
        """Non-blocking receives first, then the sends."""
        return post(self._comm, messages, self._direct)

    def channel(self, messages: Sequence[Message]) -> Channel:
        """Persistent requests."""
        return PersistentChannel(self._comm, messages, self._direct)

    def allsum(self, value: Tensor) -> Tensor:
        """Allgather of the parts, then the sum in rank order: an Allreduce may add in another order on another machine."""
        part = value.detach().cpu().contiguous()
        parts = part.new_empty((self.size, *part.shape))
        self._comm.Allgather(part.numpy(), parts.numpy())
        return sum_in_rank_order(parts).to(value.device)

    def allgather(self, value: T) -> list[T]:
        """Objects of any kind."""
        return self._comm.allgather(value)

    def gather(self, value: T) -> list[T] | None:
        """Objects of any kind."""
        return self._comm.gather(value)

    def scatter(self, values: Sequence[T] | None) -> T:
        """Objects of any kind."""
        return self._comm.scatter(values)

    def bcast(self, value: T) -> T:
        """Objects of any kind."""
        return self._comm.bcast(value)

    def barrier(self) -> None:
        """MPI_Barrier."""
        self._comm.Barrier()

    def all_arrive(self, seconds: float) -> bool:
        """A non-blocking barrier, waited for in vain when another rank is stuck elsewhere."""
        request = self._arrivals.Ibarrier()
        deadline = time.monotonic() + seconds
        while not request.Test():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def abort(self, message: str, code: int = _UNEXPECTED) -> NoReturn:
        """MPI_Abort, after the message is out."""
        sys.stdout.flush()
        print(f"rank {self.rank} of {self.size}: {message}", file=sys.stderr, flush=True)
        self._comm.Abort(code)
        raise SystemExit(code)  # not reached: MPI_Abort ends the process


def agree(transport: Transport, error: HolsteinError | None) -> None:
    """Make all ranks raise the user error of the lowest rank that has one.  Collective."""
    first = next((found for found in transport.allgather(error) if found is not None), None)
    if first is not None:
        raise first


@contextmanager
def agreed(transport: Transport) -> Iterator[None]:
    """Run a block that may raise a user error on some ranks only (a file that one rank reads): then all raise it.

    Collective at the end of the block, so the block itself must not be.
    """
    error: HolsteinError | None = None
    try:
        yield
    except HolsteinError as caught:
        error = caught
    agree(transport, error)


@contextmanager
def abort_all_on_error(transport: Transport) -> Iterator[None]:
    """For the entry point: no rank ends alone while the others wait for it.

    An unexpected exception prints its traceback and ends all ranks with exit code 1.  A user error that all ranks have is
    raised, for the caller to print once and leave with code 2; one that only some have ends all with code 2.
    """
    try:
        yield
    except SystemExit:
        raise
    except HolsteinError as error:
        if not transport.all_arrive(_ARRIVAL_SECONDS):
            transport.abort(str(error), _USER_ERROR)
        raise
    except BaseException:
        transport.abort("ending all ranks\n" + traceback.format_exc())
