"""The default network: group convolutions over (point group) x (particle-hole), read out as a local spectrum.

The density of site ``i`` is written as what it is in any finite cluster, a sum over levels,

    n_i = sum_j a_ij f(e_ij),   f(e) = 1 / (1 + exp(e / kT)),   a_ij > 0,  sum_j a_ij = 1,

with ``levels`` effective energies ``e_ij`` (relative to mu) and weights ``a_ij`` that the network predicts from the
shifted field ``Q + mu/g`` around the site.  Under particle-hole ``e -> -e`` and ``a -> a``, so ``n -> 1 - n`` exactly.
With ``e = -g Q'`` for all levels it is the atomic limit, where training starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Lattice
from hpc_holstein.network.layers import GroupConv, LiftingConv, ScalarHead, pointwise
from hpc_holstein.symmetry.internal import ParticleHoleGroup


@dataclass(frozen=True)
class Options:
    """Shape of the network.

    copies   copies of the 2|G|-dimensional regular representation in each hidden layer
    radii    stencil radius of each layer, the first one lifts; the reach is their sum
    levels   effective levels of the read-out
    scales   the field enters as ``tanh(g Q' / s)`` for these energies ``s``, in units of the hopping
    g, kT    coupling and electron temperature that the weights belong to
    """

    copies: int = 4
    radii: tuple[int, ...] = (2, 1, 1, 0)
    levels: int = 8
    scales: tuple[float, ...] = (16.0, 6.4, 2.5, 1.0, 0.4, 0.2)
    g: float = 3.5
    kT: float = 0.1


class Enn(nn.Module):
    """Density from the shifted field; see the module docstring.

    ``forward``: ghosted shifted field ``[batch, *(cells + 2 reach)]`` -> density ``[batch, *cells]``; ``response`` also gives
    ``dn/dmu`` at fixed level energies and weights, ``sum_j a_ij f(e_ij) (1 - f(e_ij)) / kT``, within about a quarter of the
    whole derivative.
    """

    field = "shifted"
    predicts = "density"
    sharpness = 100.0  # bound on |d2n/dmu2| over that of a Fermi function: levels may move with the field; 43 was measured
    _scales: Tensor

    def __init__(self, options: Options, lattice: Lattice) -> None:
        super().__init__()
        shape = {"copies": options.copies, "levels": options.levels, "number of radii": len(options.radii)}
        if min(shape.values()) < 1:
            told = ", ".join(f"{name} = {value}" for name, value in shape.items())
            raise ConfigError(f"{told} makes no network: give at least 1 of each")
        if min(options.radii) < 0 or not options.scales or min(options.scales) <= 0:
            raise ConfigError(
                f"radii = {list(options.radii)}, scales = {list(options.scales)} makes no network: "
                "give radii of 0 or more and at least one positive scale"
            )
        if options.kT <= 0:
            raise ConfigError(f"kT = {options.kT} has no smooth density: give the network a temperature kT > 0")
        self.options = options
        group = ParticleHoleGroup(lattice.point_group)
        self.reach = sum(options.radii)
        layers: list[LiftingConv | GroupConv] = [LiftingConv(group, len(options.scales), options.copies, options.radii[0])]
        layers += [GroupConv(group, options.copies, options.copies, radius) for radius in options.radii[1:]]
        self.layers = nn.ModuleList(layers)
        self.head = ScalarHead(group, options.copies, even=options.levels, odd=options.levels)
        self.register_buffer("_scales", torch.tensor(options.scales), persistent=False)
        self._inference_kernels: list[_Layer] = []
        self._inference_weights: tuple[tuple[int, int], ...] = ()

    def forward(self, ghosted_field: Tensor) -> Tensor:
        """Density of the interior sites; the halo of ``reach`` cells is consumed."""
        weight, occupation = self._levels(ghosted_field)
        return (weight * occupation).sum(dim=-1) / weight.sum(dim=-1)

    def response(self, ghosted_field: Tensor) -> tuple[Tensor, Tensor]:
        """Density and its response to ``mu``."""
        weight, occupation = self._levels(ghosted_field)
        filled = weight * occupation
        total = weight.sum(dim=-1)
        return filled.sum(dim=-1) / total, (filled * (1 - occupation)).sum(dim=-1) / (self.options.kT * total)

    def train(self, mode: bool = True) -> Enn:
        """Switch between training and evaluation; forgets the kernels, since fused optimisers change weights unseen."""
        self._inference_weights = ()
        return super().train(mode)

    def _levels(self, ghosted_field: Tensor) -> tuple[Tensor, Tensor]:
        """Weights from the even scalars, up to their sum, and ``f(e)`` from the odd ones, ``[batch, *cells, levels]``.

        The softmax and the Fermi function are written out, and sums go over the last axis: PyTorch computes its own sigmoid and
        softmax by other instructions at the end of an array, so that the bits at a site would depend on where it lies.
        """
        energy = self.options.g * ghosted_field
        x = torch.tanh(energy.unsqueeze(1) / self._scales.to(energy).view(-1, *(1,) * (energy.ndim - 1)))
        lifting, *convolutions, head = self._kernels()
        even, odd = pointwise(F.silu, _as_channels(lifting.bias, x), _conv(x, lifting.odd))
        for layer in convolutions:
            even, odd = pointwise(F.silu, _conv(even, layer.even, layer.bias), _conv(odd, layer.odd))
        for dim in range(1, energy.ndim):
            energy = energy.narrow(dim, self.reach, energy.shape[dim] - 2 * self.reach)
        logit, level = _conv(even, head.even, head.bias).movedim(1, -1), _conv(odd, head.odd).movedim(1, -1)
        weight = torch.exp(logit - logit.detach().amax(dim=-1, keepdim=True))
        return weight, 0.5 + 0.5 * torch.tanh((energy.unsqueeze(-1) + level) * (0.5 / self.options.kT))

    def _kernels(self) -> list[_Layer]:
        """Dense kernels and biases of all layers: anew in each training step, once for as long as the weights stay."""
        if torch.is_grad_enabled():
            return self._spread_kernels()
        weights = tuple((p.data_ptr(), p._version) for p in self.parameters())
        if weights != self._inference_weights:
            self._inference_weights = weights
            self._inference_kernels = self._spread_kernels()
        return self._inference_kernels

    def _spread_kernels(self) -> list[_Layer]:
        lifting = cast(LiftingConv, self.layers[0])
        kernel = lifting.kernel()
        spread = [_Layer(kernel, kernel, lifting.channel_bias())]
        spread += [_Layer(*layer.kernels(), layer.channel_bias()) for layer in cast(Sequence[GroupConv], self.layers[1:])]
        single = (1,) * (kernel.ndim - 2)
        even, odd = (part.reshape(*part.shape, *single) for part in self.head.kernels())
        spread.append(_Layer(even, odd, self.head.bias))
        return [_Layer(_channels_last(even), _channels_last(odd), bias) for even, odd, bias in spread]


class _Layer(NamedTuple):
    """Kernels of the even and the odd part of a feature, and the bias of the even one."""

    even: Tensor
    odd: Tensor
    bias: Tensor


def _channels_last(weight: Tensor) -> Tensor:
    """The layout in which the convolution libraries are fastest; the weights alone decide it for the activations too."""
    return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight


def _as_channels(bias: Tensor, like: Tensor) -> Tensor:
    return bias.view(-1, *(1,) * (like.ndim - 2))


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if max(weight.shape[2:]) == 1:  # a matrix product over the channels, which are last in memory: faster than a convolution
        return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)
    return (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3](x, weight, bias)


def build(options: Options, lattice: Lattice) -> Enn:
    """The default network for ``lattice``."""
    return Enn(options, lattice)
