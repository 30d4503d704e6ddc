"""Messages between ranks as tensors, once or in channels that are used again and again, and how MPI carries them.

Tensors on a GPU are staged in pinned host memory on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol
from weakref import finalize

import torch
from torch import Tensor

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


def post(comm: Any, messages: Sequence[Message]) -> Callable[[], None]:
    """Non-blocking receives first, then the sends, over an MPI communicator; the result waits for all of them."""
    staged = _Staged(messages)
    staged.fill()
    requests = [comm.Irecv(_words(host), source, _TAG) for source, host in staged.receives]
    requests += [comm.Isend(_words(host), dest, _TAG) for dest, host in staged.sends]

    def finish() -> None:
        if requests:
            type(requests[0]).Waitall(requests)
        staged.empty()

    return finish


class PersistentChannel:
    """Persistent requests of an MPI communicator, which are set up once; freed with the channel, or before MPI ends."""

    def __init__(self, comm: Any, messages: Sequence[Message]) -> None:
        self._staged = _Staged(messages)
        self._requests = [comm.Recv_init(_words(host), source, _CHANNEL_TAG) for source, host in self._staged.receives]
        self._requests += [comm.Send_init(_words(host), dest, _CHANNEL_TAG) for dest, host in self._staged.sends]
        self._start_all, self._wait_all = type(self._requests[0]).Startall, type(self._requests[0]).Waitall
        finalize(self, _free, self._requests)

    def start(self) -> None:
        """See :class:`Channel`."""
        if self._staged.somewhere:
            self._staged.fill()
        self._start_all(self._requests)

    def wait(self) -> None:
        """See :class:`Channel`."""
        self._wait_all(self._requests)
        if self._staged.somewhere:
            self._staged.empty()


class _Staged:
    """The host memory of messages: their own, or pinned twins of what lies on a GPU."""

    def __init__(self, messages: Sequence[Message]) -> None:
        out = [(m.dest, m.send, _on_host(m.send)) for m in messages if m.dest is not None]
        into = [(m.source, m.recv, _on_host(m.recv)) for m in messages if m.source is not None]
        self.sends, self.receives = [(rank, host) for rank, _, host in out], [(rank, host) for rank, _, host in into]
        self._out, self._into = ([pair[1:] for pair in pairs if pair[1] is not pair[2]] for pairs in (out, into))
        self.somewhere = bool(self._out or self._into)

    def fill(self) -> None:
        """Copy what is sent, and wait until it is there."""
        for tensor, host in self._out:
            host.copy_(tensor, non_blocking=True)
        for device in {tensor.device for tensor, _ in self._out}:
            torch.cuda.current_stream(device).synchronize()

    def empty(self) -> None:
        """Copy what has come; work that is queued on the GPU later sees it."""
        for tensor, host in self._into:
            tensor.copy_(host, non_blocking=True)


def _on_host(tensor: Tensor) -> Tensor:
    """``tensor`` itself in host memory, else pinned host memory of its size."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) if tensor.is_cuda else tensor


def _words(host: Tensor) -> Any:
    """As MPI takes it."""
    return host.detach().numpy()


def _free(requests: Iterable[Any]) -> None:
    for request in requests:
        request.Free()
