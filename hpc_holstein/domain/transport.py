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
from typing import Any, NoReturn, TypeVar

from torch import Tensor

from hpc_holstein.domain._in_process import ThreadTransport, run_in_process
from hpc_holstein.domain._messages import Channel, Message, PersistentChannel, Transport, post, sum_in_rank_order
from hpc_holstein.errors import HolsteinError

__all__ = ["Channel", "MPITransport", "Message", "SerialTransport", "ThreadTransport", "Transport"]
__all__ += ["abort_all_on_error", "agree", "agreed", "run_in_process", "sum_in_rank_order"]

T = TypeVar("T")

_USER_ERROR = 2  # exit code
_ARRIVAL_SECONDS = 5.0  # how long a rank with a user error waits for the others to have one too


class SerialTransport(Transport):
    """One rank alone."""

    rank = 0
    size = 1

    def exchange_start(self, messages: Sequence[Message]) -> Callable[[], None]:
        """A copy of what the rank sends to itself; nothing is left to wait for."""
        for message in messages:
            if message.source is not None:
                message.recv.copy_(message.send)
        return lambda: None

    def allsum(self, value: Tensor) -> Tensor:
        """A copy of ``value``."""
        return value.detach().clone()

    def allgather(self, value: T) -> list[T]:
        """``[value]``."""
        return [value]

    def all_arrive(self, seconds: float) -> bool:
        """True: the only rank is here."""
        return True


class MPITransport(Transport):
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

    def abort(self, message: str, code: int = 1) -> NoReturn:
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
