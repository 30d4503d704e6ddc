"""Best rates of this machine, measured with all ranks at work at once: memory, matrices, messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from timing import Action, in_turn  # beside this file

from hpc_holstein.domain.transport import Transport

COPY_NUMBERS = 1 << 24
MATRIX = 2048
CHANNELS, IMAGE, KERNEL = 64, 256, 3
ON_GPU = 4  # times as many numbers in a copy, as long edges of matrix and image: what fills one
SMALL, LARGE = 8, 1 << 22  # bytes of a message

UNITS = {
    "copy_bytes_per_s": ("memory copy, read and written, a rank", "GB/s", 1e-9),
    "gemm_flops": ("matrix product, float32, a rank", "GFlop/s", 1e-9),
    "convolution_flops": ("large convolution, float32, a rank", "GFlop/s", 1e-9),
    "latency_s": ("ping-pong of the first and the last rank, one way: latency", "us", 1e6),
    "bandwidth": ("... bandwidth", "GB/s", 1e-9),
    "neighbour_latency_s": ("Sendrecv with both neighbours: latency", "us", 1e6),
    "neighbour_bandwidth": ("... bandwidth, sent by a rank", "GB/s", 1e-9),
    "sum_s": ("sum of 8 numbers over all ranks", "us", 1e6),
}
"""Name of a ceiling -> what it is, unit, and what SI is multiplied by."""


def measure_ceilings(transport: Transport, device: str, rounds: int) -> dict[str, float]:
    """Keys of :data:`UNITS`; those of messages where MPI joins several ranks.  Collective."""
    larger = ON_GPU if device.startswith("cuda") else 1
    numbers, matrix, image = larger * COPY_NUMBERS, larger * MATRIX, larger * IMAGE
    actions: dict[str, Action] = {
        "copy": _copy(numbers, device),
        "gemm": _gemm(matrix, device),
        "convolution": _convolution(image, device),
    }
    best = {name: found["min"] for name, found in in_turn(actions, transport, rounds).items()}
    inner = (image - KERNEL + 1) ** 2
    found = {
        "copy_bytes_per_s": 16 * numbers / best["copy"],
        "gemm_flops": 2.0 * matrix**3 / best["gemm"],
        "convolution_flops": 2.0 * inner * CHANNELS**2 * KERNEL**2 / best["convolution"],
    }
    return found | _messages(transport, rounds)


def _messages(transport: Transport, rounds: int) -> dict[str, float]:
    communicator = getattr(transport, "communicator", None)
    if communicator is None or transport.size == 1:
        return {}
    small, large = (np.zeros(size, np.uint8) for size in (SMALL, LARGE))
    actions: dict[str, Action] = {
        "small": _ping_pong(communicator, small),
        "large": _ping_pong(communicator, large),
        "small neighbour": _neighbours(communicator, small),
        "large neighbour": _neighbours(communicator, large),
        "sum": lambda: transport.allsum(torch.zeros(8, dtype=torch.float64)),
    }
    best = {name: found["min"] for name, found in in_turn(actions, transport, rounds).items()}
    return {
        "latency_s": best["small"] / 2,
        "bandwidth": 2 * LARGE / best["large"],
        "neighbour_latency_s": best["small neighbour"] / 2,
        "neighbour_bandwidth": 2 * LARGE / best["large neighbour"],
        "sum_s": best["sum"],
    }


def _copy(numbers: int, device: str) -> Action:
    source = torch.ones(numbers, dtype=torch.float64, device=device)
    dest = torch.zeros_like(source)
    return lambda: dest.copy_(source)


def _gemm(edge: int, device: str) -> Action:
    matrix = torch.ones(edge, edge, device=device)
    out = torch.empty_like(matrix)
    return lambda: torch.mm(matrix, matrix, out=out)


def _convolution(edge: int, device: str) -> Action:
    """Channels last, which is the faster layout on every CPU and GPU that was tried."""
    image = torch.ones(1, CHANNELS, edge, edge, device=device).contiguous(memory_format=torch.channels_last)
    kernel = torch.ones(CHANNELS, CHANNELS, KERNEL, KERNEL, device=device).contiguous(memory_format=torch.channels_last)

    def work() -> torch.Tensor:
        with torch.inference_mode():
            return torch.nn.functional.conv2d(image, kernel)

    return work


def _ping_pong(communicator: Any, data: np.ndarray) -> Callable[[], None]:
    """There and back between the first and the last rank, which are on different hosts where there are several."""
    rank, last = communicator.Get_rank(), communicator.Get_size() - 1

    def there_and_back() -> None:
        if rank == 0:
            communicator.Send(data, last)
            communicator.Recv(data, last)
        elif rank == last:
            communicator.Recv(data, 0)
            communicator.Send(data, 0)

    return there_and_back


def _neighbours(communicator: Any, data: np.ndarray) -> Callable[[], None]:
    """To the next rank of a ring and from the one before, and the other way round."""
    rank, size = communicator.Get_rank(), communicator.Get_size()
    above, below, received = (rank + 1) % size, (rank - 1) % size, np.empty_like(data)

    def move() -> None:
        communicator.Sendrecv(data, above, 0, received, below, 0)
        communicator.Sendrecv(data, below, 1, received, above, 1)

    return move
