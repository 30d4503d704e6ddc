"""Ranks that are threads of one process, to try out what crosses ranks without MPI."""

from __future__ import annotations

import pickle
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hpc_holstein.domain._messages import Message, Transport

T = TypeVar("T")


class _Board:
    """State that the threads of :func:`run_in_process` share: mail between ranks, and the first failure."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.changed = threading.Condition()
        self.mail: dict[tuple[int, int, object], deque[Any]] = defaultdict(deque)
        self.finished: set[int] = set()
        self.arrived: set[int] = set()
        self.failure: BaseException | None = None

    def put(self, source: int, dest: int, tag: object, value: Any) -> None:
        with self.changed:
            self.mail[source, dest, tag].append(value)
            self.changed.notify_all()

    def take(self, source: int, dest: int, tag: object) -> Any:
        """Wait for mail; raises when a rank has failed, or ended without sending it."""
        key = source, dest, tag
        with self.changed:
            self.changed.wait_for(lambda: key in self.mail or self.failure is not None or source in self.finished)
            if key not in self.mail:
                raise RuntimeError(f"rank {dest} waits for rank {source}, which has failed or ended")
            value = self.mail[key].popleft()
            if not self.mail[key]:
                del self.mail[key]
            return value

    def end(self, rank: int, failure: BaseException | None) -> None:
        with self.changed:
            self.finished.add(rank)
            self.failure = self.failure or failure
            self.changed.notify_all()

    def arrive(self, rank: int, seconds: float) -> bool:
        with self.changed:
            self.arrived.add(rank)
            self.changed.notify_all()
            return self.changed.wait_for(lambda: len(self.arrived) == self.size, timeout=seconds)


class ThreadTransport(Transport):
    """One of several ranks that are threads of this process; made by :func:`run_in_process`.  Values are copied.

    On CUDA the backward pass of all ranks shares one thread of autograd, which cannot wait for itself: use the CPU, or MPI.
    """

    def __init__(self, rank: int, board: _Board) -> None:
        self.rank = rank
        self.size = board.size
        self._board = board
        self._sent, self._asked_for = Counter[int](), Counter[int]()  # messages to and from each rank

    def exchange_start(self, messages: Sequence[Message]) -> Callable[[], None]:
        """The receives are taken when the result is called."""
        numbers = []
        for message in messages:
            if message.dest is not None:
                self._board.put(self.rank, message.dest, self._sent[message.dest], message.send.clone())
                self._sent[message.dest] += 1
            if message.source is not None:
                numbers.append((message, message.source, self._asked_for[message.source]))
                self._asked_for[message.source] += 1

        def finish() -> None:
            for message, source, number in numbers:
                message.recv.copy_(self._board.take(source, self.rank, number))

        return finish

    def allgather(self, value: T) -> list[T]:
        """Every rank sends to every rank."""
        for dest in range(self.size):
            self._board.put(self.rank, dest, "object", pickle.dumps(value))
        return [pickle.loads(self._board.take(source, self.rank, "object")) for source in range(self.size)]

    def all_arrive(self, seconds: float) -> bool:
        """True if all threads get here in time."""
        return self._board.arrive(self.rank, seconds)


def run_in_process(size: int, body: Callable[[Transport], T]) -> list[T]:
    """Run ``body(transport)`` on ``size`` ranks that are threads of this process; their results in rank order.

    When a rank raises, the others stop at their next exchange and the first exception is raised here.
    """
    board = _Board(size)
    results: dict[int, T] = {}

    def work(rank: int) -> None:
        failure: BaseException | None = None
        try:
            results[rank] = body(ThreadTransport(rank, board))
        except BaseException as error:  # handed to the caller below
            failure = error
        board.end(rank, failure)

    threads = [threading.Thread(target=work, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if board.failure is not None:
        raise board.failure
    return [results[rank] for rank in range(size)]
