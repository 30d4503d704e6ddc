"""Memory that a force provider may plan with."""

from __future__ import annotations

import socket
import zlib

import torch

from hpc_holstein.interfaces import Domain
from hpc_holstein.memory import physical_bytes

_HOSTS = 1 << 12  # places in the table in which the ranks of a host count each other


def usable_bytes(device: torch.device) -> float:
    """Bytes that a rank can use: physical memory of the host (its caches can be freed), or what is free on the GPU."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return physical_bytes()


def fair_bytes(domain: Domain) -> float:
    """The same shared among the ranks of a host, the least of all ranks, so that all decide alike.  Collective."""
    place = zlib.crc32(socket.gethostname().encode()) % _HOSTS
    table = torch.zeros(_HOSTS, dtype=torch.float64)
    table[place] = 1
    together = float(domain.allsum(table)[place]) if domain.device.type == "cpu" else 1.0
    shares = torch.zeros(domain.size, dtype=torch.float64)
    shares[domain.rank] = usable_bytes(domain.device) / together
    return float(domain.allsum(shares).min())
