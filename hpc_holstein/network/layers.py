"""Group convolutions: linear maps between regular representations of (point group) x (particle-hole Z2).

A feature is a set of *copies* of the regular representation: channel ``(copy, x)`` with ``x`` an element of the group
``G x Z2`` of :class:`ParticleHoleGroup`.  An element acts on a feature by moving sites and permuting channels, so every
pointwise function is equivariant, and a linear map is equivariant exactly when

    W[(o, x), (i, y), d] = w[o, i, x^-1 y, x^-1 d]

for the stencil offsets ``d``, on which particle-hole exchange acts as the identity.  Source: Cohen and Welling,
arXiv 1602.07576; the internal Z2 is one more factor of the group.

Linear maps are block-diagonal in the parity under that exchange ``s``, which halves their cost.  So a feature travels as

    even = f[g] + f[g s],    odd = f[g] - f[g s],    each ``[batch, |G| copies, *cells]``,

and only pointwise functions go back to ``f`` (:func:`activated`).
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

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

    ``W[(o, g), c, d] = w[o, c, g^-1 d]`` on the elements ``g`` of the point group; with ``g s`` the sign is the opposite, so
    this is the odd part of the feature (halved), and the bias is the even part.  Kernel ``[|G| copies, channels, *stencil]``.
    """

    def __init__(self, group: ParticleHoleGroup, channels: int, copies: int, radius: int) -> None:
        offsets = box_offsets(radius, group.spatial)
        super().__init__(radius, offsets.shape[1], (copies, channels, len(offsets)), channels * len(offsets))
        self._register(_moved_back(group.spatial, offsets), offsets)
        self.bias = nn.Parameter(torch.zeros(copies))

    def kernel(self) -> Tensor:
        """Dense kernel."""
        return self._dense(self.weight[:, :, self._index].transpose(1, 2).flatten(0, 1))  # [o, g, c, d]

    def channel_bias(self) -> Tensor:
        """One bias a copy, spread over its channels."""
        return self.bias.repeat_interleave(len(self._index))


class GroupConv(_GroupKernel):
    """Between regular representations; one kernel ``[|G| out, |G| in, *stencil]`` for each parity, ``W[g, h] +- W[g, h s]``.

    They are halved, so that ``even +- odd`` of the result is the feature itself.
    """

    def __init__(self, group: ParticleHoleGroup, copies_in: int, copies_out: int, radius: int) -> None:
        offsets = box_offsets(radius, group.spatial)
        n = len(offsets)
        super().__init__(radius, offsets.shape[1], (copies_out, copies_in, group.order * n), copies_in * group.order * n)
        point_group = group.spatial
        relative = point_group.product_table[point_group.inverse]  # [g, h] -> g^-1 h
        self._register(relative[:, :, None] * n + _moved_back(group.spatial, offsets)[:, None, :], offsets)  # [g, h, d]
        self.bias = nn.Parameter(torch.zeros(copies_out))

    def kernels(self) -> tuple[Tensor, Tensor]:
        """Dense kernels of the even and of the odd part."""
        same, exchanged = self.weight.chunk(2, dim=2)
        return self._spread(0.5 * (same + exchanged)), self._spread(0.5 * (same - exchanged))

    def channel_bias(self) -> Tensor:
        """One bias a copy, spread over its channels; that of the even part."""
        return self.bias.repeat_interleave(len(self._index))

    def _spread(self, weight: Tensor) -> Tensor:
        spread = weight[:, :, self._index].transpose(1, 2)  # [o, g, i, h, d]
        return self._dense(spread.flatten(2, 3).flatten(0, 1))


class ScalarHead(nn.Module):
    """From the regular representation to scalars of the point group, some even and some odd under particle-hole exchange.

    ``even = sum_g w even[g]``, ``odd = sum_g w odd[g]`` of the two parts of a feature.
    """

    def __init__(self, group: ParticleHoleGroup, copies: int, even: int, odd: int) -> None:
        super().__init__()
        self._elements = group.spatial.order
        self.weight = nn.Parameter(torch.randn(even + odd, copies) / math.sqrt(copies * group.order))
        self.bias = nn.Parameter(torch.zeros(even))  # an odd scalar has no bias

    def kernels(self) -> tuple[Tensor, Tensor]:
        """``[even, |G| copies]`` for the even part and ``[odd, |G| copies]`` for the odd one."""
        spread = self.weight.repeat_interleave(self._elements, dim=1)
        return spread[: len(self.bias)], spread[len(self.bias) :]


class Modulation(nn.Module):
    """Modulation of a feature by an invariant number: scales of both its parts and a shift of the even one, a copy.

    ``scale = 1 + a u + b u^2``, ``shift = c u + d u^2`` for ``u`` in [-1, 1]; at ``u = 0``, and where training starts, nothing.
    The same on all elements of the group, so equivariance is kept; an odd part cannot be shifted.
    """

    def __init__(self, even: int, odd: int) -> None:
        super().__init__()
        self._parts = (even, odd, even)
        self.weight = nn.Parameter(torch.zeros(2, sum(self._parts)))

    def forward(self, u: float) -> tuple[Tensor, Tensor, Tensor]:
        """Scales ``[even]`` and ``[odd]``, shift ``[even]``."""
        even, odd, shift = (u * self.weight[0] + u * u * self.weight[1]).split(self._parts)
        return 1 + even, 1 + odd, shift


def activated(even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
    """The two parts of ``silu(f)`` from ``f[g] = even + odd``, ``f[g s] = even - odd``.

    In place where no gradients are recorded: fresh memory costs as much as the arithmetic.
    """
    inference = not torch.is_grad_enabled()
    plain, exchanged = F.silu(even + odd, inplace=inference), F.silu(even - odd, inplace=inference)
    return plain + exchanged, plain.sub_(exchanged) if inference else plain - exchanged


def _moved_back(group: PointGroup, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[g, d]`` -> index of ``g^-1 d``."""
    return group.site_permutations(offsets)[group.inverse]
