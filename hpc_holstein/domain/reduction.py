"""Sums over all sites whose bits depend on the values alone: not on the ranks, the rank grid, or the order of addition.

Each value is split into two integers, ``x = (high + low 2^-32) 2^-16 + r`` with ``|r| <= 2^-49``, and integers add up exactly
in any order.  Source: the idea of reproducible summation, Demmel and Nguyen, doi:10.1109/ARITH.2013.9.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpc_holstein.interfaces import Domain

_HIGH, _LOW = 2.0**16, 2.0**32
_LARGEST = 2.0**16  # of a value: 2^31 of them stay below 2^63


def global_sum(values: Tensor, domain: Domain) -> Tensor:
    """Sum of ``values [m, *owned]`` over the sites of the whole lattice, float64 ``[m]`` on the CPU; collective.

    Each value counts to 2^-49; where one is larger than 2^16 or not finite, the sum is that of float64, in rank order.
    """
    flat = values.detach().reshape(len(values), -1).double()
    high = (flat * _HIGH).round()
    low = ((flat - high / _HIGH) * (_HIGH * _LOW)).round()
    outside = (~(flat.abs() < _LARGEST)).sum(dim=1)
    parts = torch.stack([high.long().sum(dim=1), low.long().sum(dim=1), outside])
    high_sum, low_sum, refused = domain.allsum(parts.cpu())
    total = high_sum.double() / _HIGH + low_sum.double() / (_HIGH * _LOW)
    if bool(refused.any()):
        total = torch.where(refused > 0, domain.allsum(flat.sum(dim=1).cpu()), total)
    return total
