"""Whether MPI takes memory of a GPU as it is: tried out, since a library that says so may still read it with the CPU.

There are two trials, each with a short and a long message whose bytes are compared.  First, a process of its own on each host
sends to itself: where the library does not know GPUs, that process dies and not the run.  Then every rank sends to the next.
Where a trial fails, messages go through pinned host memory.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from hpc_holstein.domain.transport import Message, MPITransport, Transport
from hpc_holstein.errors import ConfigError

Asked = Literal["auto", "direct", "staged"]

_SIZES = (1000, 3_000_000)  # bytes: MPI libraries send short and long messages in different ways
_PATIENCE = 90.0  # seconds; on a cold file system the imports of a new process take most of a minute
_OTHER_BYTES = 3  # exit code
_OF_A_LAUNCHER = ("PMI", "SLURM", "OMPI_COMM", "OMPI_UNIVERSE", "PRTE", "HYD", "MPI_LOCAL", "MV2_COMM", "ALPS", "PALS")
_PROGRAM = f"""
import sys
import torch
if sys.argv[1] != "cpu":
    torch.cuda.set_device(sys.argv[1])
from mpi4py import MPI
for size in map(int, sys.argv[2:]):
    sent = torch.arange(size, device=sys.argv[1]).to(torch.uint8)
    got = torch.zeros_like(sent)
    if sent.is_cuda:
        torch.cuda.synchronize()
    MPI.COMM_SELF.Sendrecv(sent, 0, 0, got, 0, 0)
    if not torch.equal(sent, got):
        sys.exit({_OTHER_BYTES})
"""


@dataclass(frozen=True)
class Route:
    """How messages of GPU memory travel: ``direct``, or through pinned host memory, and ``why`` that."""

    direct: bool
    why: str = ""

    def __str__(self) -> str:
        return "halos from GPU to GPU by MPI" if self.direct else f"halos through pinned host memory: {self.why}"


def route_of(transport: Transport, device: torch.device | str, asked: Asked = "auto") -> Route | None:
    """The one that ``asked`` leads to; None where no GPU memory travels by MPI.  Collective.

    ``direct`` leaves out the first trial, for machines on which a single process cannot start MPI; raises ConfigError, on all
    ranks, where the second one fails.
    """
    if not isinstance(transport, MPITransport) or transport.size == 1 or not any(transport.allgather(_on_gpu(device))):
        return None
    if asked == "staged":
        return Route(False, "parallel.gpu_buffers = 'staged'")
    why = "" if asked == "direct" else _alone_on_each_host(transport, device)
    why = why or _between_ranks(transport, device)
    if why and asked == "direct":
        raise ConfigError(f"parallel.gpu_buffers = 'direct' cannot be used, {why}: use 'auto' or 'staged'")
    return Route(not why, why)


def told(kind: str, transport: Transport, device: torch.device | str, asked: Asked) -> str:
    """How the halos of ``parallel.transport = kind`` travel, in words; empty where no GPU memory does.  Collective."""
    if kind == "nccl":
        return "halos from GPU to GPU by NCCL" if transport.size > 1 and _on_gpu(device) else ""
    route = route_of(transport, device, asked)
    return "" if route is None else str(route)


@cache
def trial(device: str) -> str:
    """Why MPI cannot be given memory of ``device``, by a process of its own; empty where it can.  Done once a process."""
    command = [sys.executable, "-c", _PROGRAM, device, *map(str, _SIZES)]
    try:
        done = subprocess.run(
            command, env=_without_launcher(os.environ), capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return f"a trial with GPU buffers did not end within {_PATIENCE:g} s"
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"MPI with GPU buffers ends with {signal.Signals(-done.returncode).name}"
    if done.returncode == _OTHER_BYTES:
        return "MPI brings other bytes than are in GPU buffers"
    said = done.stderr.strip().splitlines()
    return f"a trial with GPU buffers failed ({said[-1] if said else f'exit code {done.returncode}'})"


def hints(environment: Mapping[str, str] = os.environ) -> str:
    """What the environment says of GPU buffers, which decides nothing here."""
    return ", ".join(f"{name} = {environment[name]}" for name in _VARIABLES if name in environment)


_VARIABLES = (
    "MPICH_GPU_SUPPORT_ENABLED",
    "MPIR_CVAR_ENABLE_GPU",
    "OMPI_MCA_opal_cuda_support",
    "MV2_USE_CUDA",
    "I_MPI_OFFLOAD",
    "UCX_TLS",
)


def _on_gpu(device: torch.device | str) -> bool:
    return torch.device(device).type == "cuda"


def _without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """For a process that is to start MPI alone, not to join the ranks of this job."""
    return {name: value for name, value in environment.items() if not name.startswith(_OF_A_LAUNCHER)}


def _alone_on_each_host(transport: Transport, device: torch.device | str) -> str:
    """The first complaint of :func:`trial` on the first rank with a GPU of each host."""
    hosts = transport.allgather(platform.node() if _on_gpu(device) else "")
    first = _on_gpu(device) and hosts.index(platform.node()) == transport.rank
    return _first(transport.allgather(trial(str(device)) if first else ""))


def _between_ranks(transport: Transport, device: torch.device | str) -> str:
    """The first complaint of a rank that sends to the next one and hears from the one before."""
    after, before = (transport.rank + 1) % transport.size, (transport.rank - 1) % transport.size
    direct, why = transport.direct(), ""  # type: ignore[attr-defined]
    sentence = "MPI does not return from sending GPU buffers: give --set parallel.gpu_buffers=staged"
    watch = threading.Timer(_PATIENCE, transport.abort, (sentence,))
    watch.daemon = True
    watch.start()
    try:
        for size in _SIZES:
            got = torch.zeros(size, dtype=torch.uint8, device=device)
            direct.exchange([Message(after, _bytes_of(transport.rank, size, device), before, got)])
            if not torch.equal(got, _bytes_of(before, size, device)):
                why = "MPI brings other bytes than are in GPU buffers of another rank"
    except Exception as error:  # of MPI or of CUDA: the buffers are not taken
        why = f"MPI refuses GPU buffers ({' '.join(str(error).split())})"
    watch.cancel()
    return _first(transport.allgather(why))


def _bytes_of(rank: int, size: int, device: torch.device | str) -> Tensor:
    """Of which those of no two ranks in a row are the same."""
    return (torch.arange(size, device=device) + 7 * rank + 1).to(torch.uint8)


def _first(complaints: Sequence[str]) -> str:
    return next(filter(None, complaints), "")
