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
    high, low = _split(flat)
    parts = torch.stack([high.sum(dim=1), low.sum(dim=1), _refused(flat).sum(dim=1)])
    high_sum, low_sum, refused = domain.allsum(parts.cpu())
    total = _joined(high_sum, low_sum)
    if bool(refused.any()):
        total = torch.where(refused > 0, domain.allsum(flat.sum(dim=1).cpu()), total)
    return total


def grouped_sum(values: Tensor, group: Tensor, groups: int, domain: Domain) -> Tensor:
    """Sums over all ranks of ``values [n]`` by their ``group [n]``, below ``groups``, as :func:`global_sum`: ``[groups]``."""
    flat = values.detach().double()
    parts = torch.zeros((3, groups), dtype=torch.int64, device=flat.device)
    for part, row in zip((*_split(flat), _refused(flat).long()), parts, strict=True):
        row.index_add_(0, group, part)
    high, low, refused = domain.allsum(parts.cpu())
    if not bool(refused.any()):
        return _joined(high, low)
    plain = torch.zeros(groups, dtype=torch.float64, device=flat.device).index_add_(0, group, flat)
    return torch.where(refused > 0, domain.allsum(plain.cpu()), _joined(high, low))


def _split(flat: Tensor) -> tuple[Tensor, Tensor]:
    """The two integers of each value, int64."""
    high = (flat * _HIGH).round()
    return high.long(), ((flat - high / _HIGH) * (_HIGH * _LOW)).round().long()


def _refused(flat: Tensor) -> Tensor:
    return ~(flat.abs() < _LARGEST)


def _joined(high: Tensor, low: Tensor) -> Tensor:
    return high.double() / _HIGH + low.double() / (_HIGH * _LOW)
