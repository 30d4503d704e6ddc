"""Halos and sums through torch.distributed: NCCL between GPUs, one a rank, without the host in between.

Everything else (objects, agreement, abort) stays with the transport that the ranks have already, over which they also meet.
Use MPI instead where ranks share a GPU, which NCCL cannot.
"""

from __future__ import annotations

import datetime
import socket
from collections.abc import Callable, Sequence
from typing import Any
from weakref import finalize

import torch
import torch.distributed as dist
from torch import Tensor

from hpc_holstein.domain._messages import Repeated
from hpc_holstein.domain.transport import Channel, Message, Transport, sum_in_rank_order
from hpc_holstein.errors import ConfigError

_PATIENCE = datetime.timedelta(minutes=5)
_TRIED = 400_000  # numbers: MPI libraries send long messages in another way than short ones


def connected(kind: str, transport: Transport, device: torch.device | str, buffers: str = "staged") -> Transport:
    """Transport of the halos for ``parallel.transport = kind``: ``transport`` itself (``mpi``), or NCCL over it.  Collective.

    ``buffers``: ``direct`` hands memory of GPUs to MPI as it is, after a trial; else it goes through pinned host memory.
    """
    if kind == "mpi":
        direct = buffers == "direct" and _joins_gpus(transport, device)
        return _tried(transport.direct(), torch.device(device)) if direct else transport  # type: ignore[attr-defined]
    _require_gpus(transport, torch.device(device))
    return TorchTransport(transport, device) if transport.size > 1 else transport


def route_in_words(kind: str, transport: Transport, device: torch.device | str, buffers: str) -> str:
    """Path of the halos between GPUs, in words; empty if none do.  Collective."""
    if not _joins_gpus(transport, device):
        return ""
    if kind == "mpi" and buffers != "direct":
        return "halos through pinned host memory"
    return f"halos from GPU to GPU by {kind.upper()}"


def _joins_gpus(transport: Transport, device: torch.device | str) -> bool:
    return transport.size > 1 and any(transport.allgather(torch.device(device).type == "cuda"))


def _tried(transport: Transport, device: torch.device) -> Transport:
    """``transport``, if messages between its ranks bring the right bytes; ConfigError, on all of them, if not."""
    size, rank = transport.size, transport.rank
    after, before = (rank + 1) % size, (rank - 1) % size
    got = torch.zeros(_TRIED, dtype=torch.int64, device=device)
    sent, expected = (torch.arange(_TRIED, device=device) + number for number in (rank, before))
    transport.exchange([Message(after, sent, before, got)])
    if not all(transport.allgather(torch.equal(got, expected))):
        raise ConfigError(
            "parallel.gpu_buffers = 'direct' brings other bytes than are in the GPUs: switch on the GPU support of the MPI "
            "library, or use 'staged'"
        )
    return transport


class TorchTransport:
    """A rank whose tensors travel by a ``backend`` of torch.distributed (``nccl`` on GPUs, ``gloo`` on CPUs); collective.

    ``inner``: the transport for all else.  torch.distributed has one group a process: a later one replaces this one.
    """

    def __init__(self, inner: Transport, device: torch.device | str, backend: str = "nccl") -> None:
        self._inner, self._device = inner, torch.device(device)
        self.rank, self.size = inner.rank, inner.size
        host = socket.gethostname() if self.rank == 0 else ""
        store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False) if self.rank == 0 else None
        host, port = inner.bcast((host, store.port if store is not None else 0))
        if store is None:
            store = dist.TCPStore(host, port, is_master=False)
        self._store = store  # serves the others as long as it lives
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=_PATIENCE)
        inner.barrier()
        finalize(self, _leave, dist.group.WORLD)

    def exchange(self, messages: Sequence[Message]) -> None:
        """:meth:`exchange_start`, and its end."""
        self.exchange_start(messages)()

    def exchange_start(self, messages: Sequence[Message]) -> Callable[[], None]:
        """One batch of sends and receives; those to the rank itself are copies."""
        operations = []
        for message in messages:
            if message.dest not in (None, self.rank):
                operations.append(dist.P2POp(dist.isend, message.send, message.dest))
            if message.source not in (None, self.rank):
                operations.append(dist.P2POp(dist.irecv, message.recv, message.source))
        ours = [message.send.clone() for message in messages if message.dest == self.rank]
        works = dist.batch_isend_irecv(operations) if operations else []

        def finish() -> None:
            for work in works:
                work.wait()
            for message, sent in zip((m for m in messages if m.source == self.rank), ours, strict=True):
                message.recv.copy_(sent)

        return finish

    def channel(self, messages: Sequence[Message]) -> Channel:
        """Exchanges."""
        return Repeated(self.exchange_start, messages)

    def allsum(self, value: Tensor) -> Tensor:
        """Allgather of the parts, then the sum in rank order."""
        part = value.detach().to(self._device).contiguous()
        parts = part.new_empty((self.size, *part.shape))
        dist.all_gather(list(parts.unbind()), part)
        return sum_in_rank_order(parts).to(value.device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _leave(group: Any) -> None:
    """Unless another has taken its place; also before the process ends."""
    if dist.is_initialized() and dist.group.WORLD is group:
        dist.destroy_process_group()


def _require_gpus(transport: Transport, device: torch.device) -> None:
    """Raise ConfigError, on all ranks alike, where NCCL has not a GPU for each of them."""
    if device.type != "cuda" or not dist.is_nccl_available():
        why = f"device = '{device}'" if device.type != "cuda" else f"torch {torch.__version__} without NCCL"
        raise ConfigError(
            f"parallel.transport = 'nccl' cannot be used with {why}: give each rank a GPU of its own, or use "
            "parallel.transport = 'mpi'"
        )
    taken = transport.allgather((socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid)))
    if len(set(taken)) < len(taken):
        raise ConfigError(
            f"parallel.transport = 'nccl' cannot share a GPU, and {len(taken)} ranks have {len(set(taken))}: start one rank a "
            "GPU, or use parallel.transport = 'mpi'"
        )
