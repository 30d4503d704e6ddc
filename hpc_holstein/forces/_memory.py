"""What memory a force provider may plan with."""

from __future__ import annotations

import os

import torch


def usable_bytes(device: torch.device) -> float:
    """Bytes that a rank can use: physical memory of the host (its caches can be freed), or what is free on the GPU."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
