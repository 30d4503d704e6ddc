"""Group convolutions: linear maps between regular representations of (point group) x (particle-hole Z2).

A feature is a set of *copies* of the regular representation: channel ``(copy, s, g)`` with ``g`` an element of the point
group ``G`` and ``s = 0, 1`` the particle-hole partner.  An element acts on a feature by moving sites and permuting
channels, so every pointwise function is equivariant, and a linear map is equivariant exactly when

    W[(o, s, g), (i, s', g'), d] = w[o, i, s + s' mod 2, g^-1 g', g^-1 d]

for the stencil offsets ``d``.  Source: Cohen and Welling, arXiv 1602.07576; the internal Z2 is treated as one more
factor of the group.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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
    """From scalar fields that are odd under particle-hole to ``copies`` of the regular representation.

    ``W[(o, s, g), c, d] = (-1)^s w[o, c, g^-1 d]``; kernel ``[2 |G| copies, channels, *stencil]``.
    """

    def __init__(self, group: PointGroup, channels: int, copies: int, radius: int) -> None:
        offsets = box_offsets(radius, group)
        super().__init__(radius, offsets.shape[1], (copies, channels, len(offsets)), channels * len(offsets))
        moved = group.site_permutations(offsets)[group.inverse]  # [g, d] -> index of g^-1 d
        self._register(moved, offsets)
        self.bias = nn.Parameter(torch.zeros(copies))
        self.regular = 2 * group.order

    def kernel(self) -> Tensor:
        """Dense kernel."""
        spread = self.weight[:, :, self._index].transpose(1, 2)  # [o, g, c, d]
        both = torch.stack([spread, -spread], dim=1)  # s = 0, 1
        return self._dense(both.flatten(0, 2))

    def channel_bias(self) -> Tensor:
        """One bias a copy, spread over its channels."""
        return self.bias.repeat_interleave(self.regular)


class GroupConv(_GroupKernel):
    """Between regular representations; kernel ``[2 |G| out, 2 |G| in, *stencil]``."""

    def __init__(self, group: PointGroup, copies_in: int, copies_out: int, radius: int) -> None:
        offsets = box_offsets(radius, group)
        order, n = group.order, len(offsets)
        super().__init__(radius, offsets.shape[1], (copies_out, copies_in, 2 * order * n), copies_in * 2 * order * n)
        relative = group.product_table[group.inverse]  # [g, g'] -> g^-1 g'
        moved = group.site_permutations(offsets)[group.inverse]  # [g, d] -> g^-1 d
        s = np.arange(2)
        parity = (s[:, None] + s[None, :]) % 2
        index = (
            parity[:, None, :, None, None] * (order * n) + relative[None, :, None, :, None] * n + moved[None, :, None, None, :]
        )  # [s, g, s', g', d]
        self._register(index, offsets)
        self.bias = nn.Parameter(torch.zeros(copies_out))
        self.regular = 2 * order

    def kernel(self) -> Tensor:
        """Dense kernel."""
        spread = self.weight[:, :, self._index]  # [o, i, s, g, s', g', d]
        spread = spread.permute(0, 2, 3, 1, 4, 5, 6)
        return self._dense(spread.flatten(3, 5).flatten(0, 2))

    def channel_bias(self) -> Tensor:
        """One bias a copy, spread over its channels."""
        return self.bias.repeat_interleave(self.regular)


class ScalarHead(nn.Module):
    """From the regular representation to scalars of the point group, some even and some odd under particle-hole.

    ``even = sum_{s,g} w f[s, g]``, ``odd = sum_{s,g} (-1)^s w f[s, g]``; returns a 1x1 kernel ``[even + odd, channels]``.
    """

    _sign: Tensor

    def __init__(self, group: PointGroup, copies: int, even: int, odd: int) -> None:
        super().__init__()
        order = group.order
        self.weight = nn.Parameter(torch.randn(even + odd, copies) / math.sqrt(copies * 2 * order))
        self.bias = nn.Parameter(torch.zeros(even))  # an odd scalar has no bias
        sign = torch.ones(even + odd, 2 * order)
        sign[even:, order:] = -1.0
        self.register_buffer("_sign", sign, persistent=False)

    def kernel(self) -> Tensor:
        """``[even + odd, 2 |G| copies]``."""
        return (self.weight[:, :, None] * self._sign[:, None, :]).flatten(1)

    def channel_bias(self) -> Tensor:
        """Bias of the even scalars, zero for the odd ones."""
        return torch.cat([self.bias, self.bias.new_zeros(len(self.weight) - len(self.bias))])
