"""Messages between ranks as tensors, once or in channels that are used again and again, and how MPI carries them.

Tensors on a GPU are staged in pinned host memory on both sides, or handed to MPI as they are (*direct*).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar
from weakref import finalize

import torch
from torch import Tensor

T = TypeVar("T")

_TAG, _CHANNEL_TAG = 1, 2


class Message(NamedTuple):
    """One entry of a neighbour exchange, contiguous tensors; ``dest`` or ``source`` None: nothing goes or comes.

    What a rank sends to another first, that one receives from it first; so two ranks may be neighbours on both sides.
    """

    dest: int | None
    send: Tensor
    source: int | None
    recv: Tensor


class Channel(Protocol):
    """The same messages again and again, in memory that stays: what :meth:`Transport.channel` makes."""

    def start(self) -> None:
        """Send what the tensors hold now."""

    def wait(self) -> None:
        """Return when all has arrived; the tensors are free again."""


class Repeated:
    """A channel that starts an exchange each time."""

    def __init__(self, exchange_start: Callable[[Sequence[Message]], Callable[[], None]], messages: Sequence[Message]) -> None:
        self._exchange_start, self._messages = exchange_start, messages
        self._finish: Callable[[], None] | None = None

    def start(self) -> None:
        """See :class:`Channel`."""
        self._finish = self._exchange_start(self._messages)

    def wait(self) -> None:
        """See :class:`Channel`."""
        if self._finish is not None:
            self._finish()


class Transport(Protocol):
    """Communication between ranks.  All methods but the exchanges and ``abort`` are collective; the root is rank 0.

    A kind of ranks inherits from it, and says at least how messages are sent and what all ranks get together.
    """

    rank: int
    size: int

    def exchange_start(self, messages: Sequence[Message]) -> Callable[[], None]:
        """Post all sends and receives together; calling the result waits.  All ranks start several in the same order."""

    def allgather(self, value: T) -> list[T]:
        """The value of every rank, in rank order, on every rank."""

    def all_arrive(self, seconds: float) -> bool:
        """True if every rank calls this within ``seconds``."""

    def exchange(self, messages: Sequence[Message]) -> None:
        """:meth:`exchange_start`, and its end."""
        self.exchange_start(messages)()

    def channel(self, messages: Sequence[Message]) -> Channel:
        """For messages that are sent often; channels are started in the same order on all ranks, apart from exchanges."""
        return Repeated(self.exchange_start, messages)

    def allsum(self, value: Tensor) -> Tensor:
        """Sum over ranks, added in rank order: the same bits on all ranks and in every run.  Carries no gradient."""
        return sum_in_rank_order(torch.stack(self.allgather(value.detach().cpu()))).to(value.device)

    def gather(self, value: T) -> list[T] | None:
        """The value of every rank, in rank order, on the root; None elsewhere.  NumPy arrays travel as raw buffers."""
        values = self.allgather(value)
        return values if self.rank == 0 else None

    def scatter(self, values: Sequence[T] | None) -> T:
        """Entry ``rank`` of the sequence that the root gives."""
        of_root = self.allgather(values)[0]
        assert of_root is not None
        return of_root[self.rank]

    def bcast(self, value: T) -> T:
        """The value of the root, on every rank."""
        return self.allgather(value)[0]

    def barrier(self) -> None:
        """Return when every rank has called it."""
        self.allgather(None)

    def abort(self, message: str, code: int = 1) -> NoReturn:
        """Print ``message`` and end every rank with exit code ``code``."""
        sys.stdout.flush()
        print(message if self.size == 1 else f"rank {self.rank} of {self.size}: {message}", file=sys.stderr, flush=True)
        raise SystemExit(code)


def post(comm: Any, messages: Sequence[Message], direct: bool = False) -> Callable[[], None]:
    """Non-blocking receives first, then the sends, over an MPI communicator; the result waits for all of them."""
    staged = _Staged(messages, direct)
    staged.fill()
    requests = [comm.Irecv(staged.words(memory), source, _TAG) for source, memory in staged.receives]
    requests += [comm.Isend(staged.words(memory), dest, _TAG) for dest, memory in staged.sends]

    def finish() -> None:
        if requests:
            type(requests[0]).Waitall(requests)
        staged.empty()

    return finish


class PersistentChannel:
    """Persistent requests of an MPI communicator, which are set up once; freed with the channel, or before MPI ends."""

    def __init__(self, comm: Any, messages: Sequence[Message], direct: bool = False) -> None:
        staged = self._staged = _Staged(messages, direct)
        self._requests = [comm.Recv_init(staged.words(memory), source, _CHANNEL_TAG) for source, memory in staged.receives]
        self._requests += [comm.Send_init(staged.words(memory), dest, _CHANNEL_TAG) for dest, memory in staged.sends]
        self._start_all, self._wait_all = type(self._requests[0]).Startall, type(self._requests[0]).Waitall
        finalize(self, _free, self._requests)

    def start(self) -> None:
        """See :class:`Channel`."""
        if self._staged.devices:
            self._staged.fill()
        self._start_all(self._requests)

    def wait(self) -> None:
        """See :class:`Channel`."""
        self._wait_all(self._requests)
        if self._staged.devices:
            self._staged.empty()


class _Staged:
    """The memory of messages that MPI is given: their own, or pinned twins on the host of what lies on a GPU.

    ``devices``: the GPUs that messages lie on.
    """

    def __init__(self, messages: Sequence[Message], direct: bool) -> None:
        self._direct = direct
        out = [(m.dest, m.send, self._given(m.send)) for m in messages if m.dest is not None]
        into = [(m.source, m.recv, self._given(m.recv)) for m in messages if m.source is not None]
        self.sends, self.receives = [(rank, memory) for rank, _, memory in out], [(rank, memory) for rank, _, memory in into]
        self._out, self._into = ([pair[1:] for pair in pairs if pair[1] is not pair[2]] for pairs in (out, into))
        self.devices = {tensor.device for _, tensor, _ in (*out, *into) if tensor.is_cuda}

    def fill(self) -> None:
        """Copy what is staged, and wait until all that MPI is to send is there, and what it is to write on is read."""
        for tensor, host in self._out:
            host.copy_(tensor, non_blocking=True)
        for device in self.devices:
            torch.cuda.current_stream(device).synchronize()

    def empty(self) -> None:
        """Copy what has come; work that is queued on the GPU later sees it."""
        for tensor, host in self._into:
            tensor.copy_(host, non_blocking=True)

    def words(self, memory: Tensor) -> Any:
        """A buffer for mpi4py: an array of NumPy, or the tensor, which tells where it lies through DLPack."""
        return memory.detach() if self._direct else memory.detach().numpy()

    def _given(self, tensor: Tensor) -> Tensor:
        if self._direct or not tensor.is_cuda:
            return tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)


def sum_in_rank_order(parts: Tensor) -> Tensor:
    """``parts[0] + parts[1] + ...`` one after the other, ``[size, ...] -> [...]``."""
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


def _free(requests: Iterable[Any]) -> None:
    for request in requests:
        request.Free()
