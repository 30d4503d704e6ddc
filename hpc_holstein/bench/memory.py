"""What a measurement added to the memory of its ranks."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from hpc_holstein.domain.transport import Transport


class Memory:
    """Bytes beyond those at the start, at most: on the GPU, or resident in the process."""

    def __init__(self, device: str) -> None:
        self._device = device if device.startswith("cuda") else None
        if self._device:
            torch.cuda.reset_peak_memory_stats(self._device)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is there
        self._before = _status("VmRSS")

    def of_ranks(self, transport: Transport) -> float:
        """The most of all ranks but the first one, which gathers the lattice for output, where there is another."""
        peak = torch.cuda.max_memory_allocated(self._device) if self._device else _status("VmHWM") - self._before
        everyone = transport.allgather(float(peak))
        return max(everyone[1:] or everyone)


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024.0 * int(line.split()[1])
    return 0.0
