"""Group convolutions: linear maps between regular representations of the symmetry of a lattice model.

A feature is, on each site, a set of *copies* of the regular representation of a group ``G``: the point group of the lattice
about an origin, which permutes the sites of a cell, and where hopping joins two sublattices alone also the exchange of
particles and holes, a factor ``Z2``.  An element acts on a feature by moving sites and permuting channels, so every pointwise
function is equivariant, and a linear map is equivariant exactly when

    W[(o, x), (i, y), p] = w[o, i, x^-1 y, x^-1 p]

for the pairs ``p`` of a site and one that it sees, on which particle-hole exchange acts as the identity.  Source: Cohen and
Welling, arXiv 1602.07576; the internal Z2 is one more factor of the group.

Linear maps are block-diagonal in the parity under that exchange ``s``, which halves their cost.  So a feature travels as

    even = f[g] + f[g s],    odd = f[g] - f[g s],    each ``[batch, sites of a cell x copies x |G|, *cells]``,

and only pointwise functions go back to ``f`` (:func:`activated`).  Without the exchange a feature is its even part.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hpc_holstein.symmetry.pairs import Pairs
from hpc_holstein.symmetry.point_group import PointGroup


class _GroupKernel(nn.Module):
    """Shared part: free weights, and the index that spreads them over a dense convolution kernel.

    ``pairs``: a site and those that it sees; ``sources``: inputs of a cell, whose number in it each of ``places`` names.
    """

    _index: Tensor
    _places: Tensor
    bias: Tensor

    def __init__(self, pairs: Pairs, free: tuple[int, ...], inputs: float) -> None:
        super().__init__()
        self._sites = int(pairs.here.max()) + 1
        self._elements = pairs.group.point_group.order
        self.radius = pairs.radius
        self._window = (2 * self.radius + 1,) * pairs.offsets.shape[1]
        self.weight = nn.Parameter(torch.randn(free) * math.sqrt(2.0 / inputs))

    def _register(self, index: NDArray[np.int64], pairs: NDArray[np.int64], sources: int) -> None:
        """``index [..., n]``: free weight of each of ``n`` entries; ``pairs [n, 2 + dimension]``: site, source, offset."""
        self._sources = sources
        inside = pairs + np.array([0, 0, *[self.radius] * len(self._window)])
        places = np.ravel_multi_index(tuple(inside.T), (self._sites, sources, *self._window))
        self.register_buffer("_index", torch.from_numpy(np.ascontiguousarray(index)), persistent=False)
        self.register_buffer("_places", torch.from_numpy(places.astype(np.int64)), persistent=False)

    def _dense(self, spread: Tensor, outputs: int) -> Tensor:
        """``[out, in, n]`` -> kernel ``[site, out, source, in, *window]`` with the first two and the next two axes as one.

        ``spread``: axes of the outputs of a site, ``outputs`` of them, then of the inputs of a source, then entries; what no
        entry stands for is 0.
        """
        rows, columns = math.prod(spread.shape[:outputs]), math.prod(spread.shape[outputs:-1])
        kernel = spread.new_zeros(rows, columns, self._sites * self._sources * math.prod(self._window))
        kernel = kernel.index_copy(2, self._places, spread.reshape(rows, columns, -1))
        kernel = kernel.reshape(rows, columns, self._sites, self._sources, *self._window)
        return kernel.movedim((2, 3), (0, 2)).reshape(self._sites * rows, self._sources * columns, *self._window)

    def channel_bias(self) -> Tensor:
        """One bias a copy, spread over its channels."""
        return self.bias.repeat_interleave(self._elements).repeat(self._sites)


def _signs(signs: NDArray[np.int64]) -> Tensor | None:
    """Signs as a tensor; None if all are 1."""
    return None if (signs == 1).all() else torch.from_numpy(np.ascontiguousarray(signs))


class LiftingConv(_GroupKernel):
    """From matrix elements to ``copies`` of the regular representation on each site.

    ``W[(o, g), (c, e), p] = s w[o, c, g^-1 (p, e)]`` for a site, one that it sees (``pairs``) and one of the ``elements`` that
    start from that, with the sign ``s`` that ``g^-1`` gives the element.  Kernel ``[sites x |G| copies, elements x channels,
    *window]``.
    """

    _signs: Tensor | None

    def __init__(self, pairs: Pairs, elements: Pairs, channels: int, copies: int, biased: bool = True) -> None:
        """``biased``: with a bias a copy; one of several lifting convolutions whose results are added up has it."""
        joint = np.argwhere(pairs.there[:, None] == elements.site)  # of a pair and an element
        sites = int(pairs.here.max()) + 1
        super().__init__(pairs, (copies, channels, len(joint)), channels * len(joint) / sites)
        number = np.zeros((len(pairs), len(elements)), dtype=np.int64)
        number[tuple(joint.T)] = np.arange(len(joint))
        index = number[pairs.moved_back[:, joint[:, 0]], elements.moved_back[:, joint[:, 1]]]
        seen = pairs.array[joint[:, 0]].copy()
        seen[:, 1] = joint[:, 1]
        self._register(index, seen, len(elements))
        self.register_buffer("_signs", _signs(elements.signs_back[:, joint[:, 1]]), persistent=False)
        if biased:
            self.bias = nn.Parameter(torch.zeros(copies))

    def kernel(self) -> Tensor:
        """Dense kernel."""
        spread = self.weight[:, :, self._index]  # [o, c, g, n]
        return self._dense((spread if self._signs is None else self._signs.to(spread) * spread).transpose(1, 2), 2)


class GroupConv(_GroupKernel):
    """Between regular representations on the sites; one kernel ``[sites x |G| out, sites x |G| in, *window]`` for each part.

    With particle-hole exchange ``s`` these are ``W[g, h] +- W[g, h s]`` for the even and the odd part, halved so that
    ``even +- odd`` of the result is the feature itself; without it ``W[g, h]`` alone.
    """

    def __init__(self, pairs: Pairs, copies_in: int, copies_out: int, particle_hole: bool) -> None:
        group, n = pairs.group.point_group, len(pairs)
        sites = int(pairs.here.max()) + 1
        self._parts = 1 + particle_hole
        free = self._parts * group.order * n
        super().__init__(pairs, (copies_out, copies_in, free), copies_in * free / sites)
        relative = group.product_table[group.inverse]  # [g, h] -> g^-1 h
        self._register(relative[:, :, None] * n + pairs.moved_back[:, None, :], pairs.array, sites)  # [g, h, p]
        self.bias = nn.Parameter(torch.zeros(copies_out))

    def kernels(self) -> tuple[Tensor, ...]:
        """Dense kernels of the even and, with particle-hole exchange, of the odd part."""
        if self._parts == 1:
            return (self._spread(self.weight),)
        same, exchanged = self.weight.chunk(2, dim=2)
        return self._spread(0.5 * (same + exchanged)), self._spread(0.5 * (same - exchanged))

    def _spread(self, weight: Tensor) -> Tensor:
        return self._dense(weight[:, :, self._index].transpose(1, 2), 2)  # [o, g, i, h, p]


class ScalarHead(nn.Module):
    """From the regular representation to scalars of the point group, some even and some odd under particle-hole exchange.

    ``even = sum_g w even[g]``, ``odd = sum_g w odd[g]`` of the two parts of a feature; ``order``: of the group, with the
    exchange if there is one.
    """

    def __init__(self, group: PointGroup, order: int, copies: int, even: int, odd: int) -> None:
        super().__init__()
        self._elements = group.order
        self.weight = nn.Parameter(torch.randn(even + odd, copies) / math.sqrt(copies * order))
        self.bias = nn.Parameter(torch.zeros(even))  # an odd scalar has no bias

    def kernels(self) -> tuple[Tensor, Tensor]:
        """``[even, |G| copies]`` for the even part and ``[odd, |G| copies]`` for the odd one."""
        spread = self.weight.repeat_interleave(self._elements, dim=1)
        return spread[: len(self.bias)], spread[len(self.bias) :]


class ElementHead(nn.Module):
    """From the regular representation on each site to the ``elements`` that start there, which the group permutes.

    ``out[e] = sum_oh s w[o, h^-1 e] f[o, h]`` over the copies ``o`` and the elements ``h`` of the group, at the site of ``e``,
    with the sign ``s`` that ``h^-1`` gives ``e``; of the even part of a feature, which may have a bias where there are no
    signs, or of the ``odd`` one, for matrix elements of that parity.
    """

    _index: Tensor
    _columns: Tensor
    _signs: Tensor | None

    def __init__(self, elements: Pairs, copies: int, odd: bool) -> None:
        super().__init__()
        order, self._sites, self.odd = elements.group.point_group.order, int(elements.site.max()) + 1, odd
        self.weight = nn.Parameter(torch.randn(copies, len(elements)) / math.sqrt(copies * order))
        self.bias = None if odd or elements.orbitals > 1 else nn.Parameter(torch.zeros(1))
        self.register_buffer("_signs", _signs(elements.signs_back.T), persistent=False)
        columns = elements.site[:, None] * copies * order + np.arange(copies * order)
        self.register_buffer("_index", torch.from_numpy(np.ascontiguousarray(elements.moved_back.T)), persistent=False)
        self.register_buffer("_columns", torch.from_numpy(columns), persistent=False)

    def kernel(self) -> Tensor:
        """``[elements, sites x copies x |G|]``."""
        spread = self.weight[:, self._index]  # [o, e, h]
        spread = (spread if self._signs is None else self._signs.to(spread) * spread).transpose(0, 1).flatten(1)  # [e, o, h]
        return spread.new_zeros(len(spread), self._sites * spread.shape[1]).scatter(1, self._columns, spread)


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


def activated(even: Tensor, odd: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The two parts of ``silu(f)`` from ``f[g] = even + odd``, ``f[g s] = even - odd``; ``odd`` is None without exchange ``s``.

    In place where no gradients are recorded: fresh memory costs as much as the arithmetic.
    """
    inference = not torch.is_grad_enabled()
    if odd is None:
        return F.silu(even, inplace=inference), None
    plain, exchanged = F.silu(even + odd, inplace=inference), F.silu(even - odd, inplace=inference)
    return plain + exchanged, plain.sub_(exchanged) if inference else plain - exchanged
