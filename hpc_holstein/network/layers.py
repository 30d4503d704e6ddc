"""Group convolutions: linear maps between regular representations of (point group) x (particle-hole Z2).

A feature is a set of *copies* of the regular representation: channel ``(copy, x)`` with ``x`` an element of the group
``G x Z2`` of :class:`ParticleHoleGroup`.  An element acts on a feature by moving sites and permuting channels, so every
pointwise function is equivariant, and a linear map is equivariant exactly when

    W[(o, x), (i, y), d] = w[o, i, x^-1 y, x^-1 d]

for the stencil offsets ``d``, on which particle-hole exchange acts as the identity.  Source: Cohen and Welling,
arXiv 1602.07576; the internal Z2 is one more factor of the group.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hpc_holstein.symmetry.internal import ParticleHoleGroup
from hpc_holstein.symmetry.point_group import PointGroup


def box_offsets(radius: int, group: PointGroup) -> NDArray[np.int64]:
    """Offsets of the box ``|d| <= radius`` whose whole orbit under the group stays in the box, ``[n, dimension]``."""
    dimension = group.array.shape[1]
    box = np.array(list(product(range(-radius, radius + 1), repeat=dimension)), dtype=np.int64)
    images = np.einsum("gij,nj->gni", group.array, box)
    return box[(np.abs(images) <= radius).all(axis=(0, 2))]


class _GroupKernel(nn.Module):
    """Shared part: free weights, and the index that spreads them over a dense convolution kernel."""

    _index: Tensor
    _taps: Tensor

    def __init__(self, radius: int, dimension: int, free: tuple[int, ...], fan_in: int) -> None:
        super().__init__()
        self.radius = radius
        self._kernel_extent = (2 * radius + 1,) * dimension
        self.weight = nn.Parameter(torch.randn(free) * math.sqrt(2.0 / fan_in))

    def _register(self, index: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
        taps = np.ravel_multi_index(tuple((offsets + self.radius).T), self._kernel_extent)
        self.register_buffer("_index", torch.from_numpy(np.ascontiguousarray(index)), persistent=False)
        self.register_buffer("_taps", torch.from_numpy(taps.astype(np.int64)), persistent=False)

    def _dense(self, spread: Tensor) -> Tensor:
        """``[out, in, n_offsets]`` -> convolution kernel ``[out, in, *kernel_extent]``; taps outside the orbit set are 0."""
        kernel = spread.new_zeros(*spread.shape[:2], math.prod(self._kernel_extent))
        kernel = kernel.index_copy(2, self._taps, spread)
        return kernel.reshape(*spread.shape[:2], *self._kernel_extent)


class LiftingConv(_GroupKernel):
    """From scalar fields that are odd under particle-hole exchange to ``copies`` of the regular representation.

    ``W[(o, x), c, d] = parity(x) w[o, c, x^-1 d]``; kernel ``[2 |G| copies, channels, *stencil]``.
    """

    _parity: Tensor

    def __init__(self, group: ParticleHoleGroup, channels: int, copies: int, radius: int) -> None:
        offsets = box_offsets(radius, group.spatial)
        super().__init__(radius, offsets.shape[1], (copies, channels, len(offsets)), channels * len(offsets))
        self._register(_moved_back(group, offsets), offsets)
        self.register_buffer("_parity", torch.from_numpy(group.parity), persistent=False)
        self.bias = nn.Parameter(torch.zeros(copies))

    def kernel(self) -> Tensor:
        """Dense kernel."""
        spread = self.weight[:, :, self._index].transpose(1, 2)  # [o, x, c, d]
        return self._dense((spread * self._parity[:, None, None]).flatten(0, 1))

    def channel_bias(self) -> Tensor:
        """One bias a copy, spread over its channels."""
        return self.bias.repeat_interleave(len(self._parity))


class GroupConv(_GroupKernel):
    """Between regular representations; kernel ``[2 |G| out, 2 |G| in, *stencil]``."""

    def __init__(self, group: ParticleHoleGroup, copies_in: int, copies_out: int, radius: int) -> None:
        offsets = box_offsets(radius, group.spatial)
        n = len(offsets)
        super().__init__(radius, offsets.shape[1], (copies_out, copies_in, group.order * n), copies_in * group.order * n)
        relative = group.product_table[group.inverse]  # [x, y] -> x^-1 y
        self._register(relative[:, :, None] * n + _moved_back(group, offsets)[:, None, :], offsets)  # [x, y, d]
        self.bias = nn.Parameter(torch.zeros(copies_out))

    def kernel(self) -> Tensor:
        """Dense kernel."""
        spread = self.weight[:, :, self._index].transpose(1, 2)  # [o, x, i, y, d]
        return self._dense(spread.flatten(2, 3).flatten(0, 1))

    def channel_bias(self) -> Tensor:
        """One bias a copy, spread over its channels."""
        return self.bias.repeat_interleave(len(self._index))


class ScalarHead(nn.Module):
    """From the regular representation to scalars of the point group, some even and some odd under particle-hole exchange.

    ``even = sum_x w f[x]``, ``odd = sum_x parity(x) w f[x]``.
    """

    _sign: Tensor

    def __init__(self, group: ParticleHoleGroup, copies: int, even: int, odd: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(even + odd, copies) / math.sqrt(copies * group.order))
        self.bias = nn.Parameter(torch.zeros(even))  # an odd scalar has no bias
        sign = np.concatenate([np.ones((even, group.order)), np.tile(group.parity, (odd, 1))])
        self.register_buffer("_sign", torch.from_numpy(sign).float(), persistent=False)

    def kernel(self) -> Tensor:
        """``[even + odd, 2 |G| copies]``, even scalars first."""
        return (self.weight[:, :, None] * self._sign[:, None, :]).flatten(1)

    def channel_bias(self) -> Tensor:
        """Bias of the even scalars, zero for the odd ones."""
        return torch.cat([self.bias, self.bias.new_zeros(len(self.weight) - len(self.bias))])


def _moved_back(group: ParticleHoleGroup, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[x, d]`` -> index of ``x^-1 d``."""
    return np.tile(group.spatial.site_permutations(offsets)[group.spatial.inverse], (2, 1))
