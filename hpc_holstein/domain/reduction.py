"""Sums over all sites whose bits depend on the values alone: not on the ranks, the rank grid, or the order of addition.

Each value is split into two integers, ``x = (high + low 2^-32) 2^-16 + r`` with ``|r| <= 2^-49``, and integers add up exactly
in any order.  Source: the idea of reproducible summation, Demmel and Nguyen, doi:10.1109/ARITH.2013.9.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpc_holstein.compiled import compiled
from hpc_holstein.interfaces import Domain

_HIGH, _LOW = 2.0**16, 2.0**32
_LARGEST = 2.0**16  # of a value: 2^31 of them stay below 2^63


def global_sum(values: Tensor, domain: Domain) -> Tensor:
    """Sum of ``values [m, *owned]`` over the sites of the whole lattice, float64 ``[m]`` on the CPU; collective.

    Each value counts to 2^-49; where one is larger than 2^16 or not finite, the sum is that of float64, in rank order.
    """
    flat = values.detach().reshape(len(values), -1).double()
    high_sum, low_sum, refused = domain.allsum(_parts(flat))
    total = _joined(high_sum, low_sum)
    if bool(refused.any()):
        total = torch.where(refused > 0, domain.allsum(flat.sum(dim=1).cpu()), total)
    return total


def grouped_sum(values: Tensor, group: Tensor, groups: int, domain: Domain) -> Tensor:
    """Sums over all ranks of ``values [n]`` by their ``group [n]``, below ``groups``, as :func:`global_sum`: ``[groups]``."""
    flat = values.detach().double()
    high, low, refused = domain.allsum(_parts_of_groups(flat, group, groups))
    if not bool(refused.any()):
        return _joined(high, low)
    plain = torch.zeros(groups, dtype=torch.float64, device=flat.device).index_add_(0, group, flat)
    return torch.where(refused > 0, domain.allsum(plain.cpu()), _joined(high, low))


def _parts(flat: Tensor) -> Tensor:
    """Both integers of ``flat [m, n]``, summed over ``n``, and how many have none: int64 ``[3, m]`` on the CPU."""
    if flat.is_cuda:
        return torch.stack([part.sum(dim=1) for part in _split(flat)]).cpu()
    parts = torch.zeros((3, len(flat)), dtype=torch.int64)
    for row, values in enumerate(flat):
        _add_up(values.contiguous().numpy(), parts[:, row].numpy())
    return parts


def _parts_of_groups(flat: Tensor, group: Tensor, groups: int) -> Tensor:
    """The same for each group, ``[3, groups]``."""
    parts = torch.zeros((3, groups), dtype=torch.int64, device=flat.device)
    if flat.is_cuda:
        for row, part in zip(parts, _split(flat), strict=True):
            row.index_add_(0, group, part)
    else:
        _add_to_groups(flat.contiguous().numpy(), group.contiguous().numpy(), parts.numpy())
    return parts.cpu()


def _split(flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two integers of each value, and 1 where there are none, int64."""
    high = (flat * _HIGH).round()
    refused = ~(flat.abs() < _LARGEST)
    return high.long(), ((flat - high / _HIGH) * (_HIGH * _LOW)).round().long(), refused.long()


@compiled
def _add_up(values: Any, parts: Any) -> None:
    """:func:`_split` of ``values [n]`` and its sums, in one go through memory, added to ``parts [3]``."""
    high, low, refused = np.int64(0), np.int64(0), 0
    for x in values:
        if abs(x) < _LARGEST:
            units = np.rint(x * _HIGH)
            high += np.int64(units)
            low += np.int64(np.rint((x - units / _HIGH) * (_HIGH * _LOW)))
        else:
            refused += 1
    parts[0] += high
    parts[1] += low
    parts[2] += refused


@compiled
def _add_to_groups(values: Any, group: Any, parts: Any) -> None:
    """:func:`_add_up`, each value to its group, ``parts [3, groups]``."""
    for index in range(len(values)):
        x, at = values[index], group[index]
        if abs(x) < _LARGEST:
            units = np.rint(x * _HIGH)
            parts[0, at] += np.int64(units)
            parts[1, at] += np.int64(np.rint((x - units / _HIGH) * (_HIGH * _LOW)))
        else:
            parts[2, at] += 1


def _joined(high: Tensor, low: Tensor) -> Tensor:
    return high.double() / _HIGH + low.double() / (_HIGH * _LOW)
