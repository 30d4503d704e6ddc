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
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Lattice
from hpc_holstein.network.layers import GroupConv, LiftingConv, ScalarHead
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

    ``forward``: ghosted shifted field ``[batch, *(cells + 2 reach)]`` -> density ``[batch, *cells]``.
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
        self._inference_kernels: list[tuple[Tensor, Tensor]] = []
        self._inference_weights: tuple[tuple[int, int], ...] = ()

    def forward(self, ghosted_field: Tensor) -> Tensor:
        """Density of the interior sites; the halo of ``reach`` cells is consumed."""
        energy = self.options.g * ghosted_field
        x = torch.tanh(energy.unsqueeze(1) / self._scales.to(energy).view(-1, *(1,) * (energy.ndim - 1)))
        kernels = self._kernels()
        for weight, bias in kernels[:-1]:
            x = F.silu(_conv(x, weight, bias))
        return self._levels(_conv(x, *kernels[-1]), energy)

    def train(self, mode: bool = True) -> Enn:
        """Switch between training and evaluation; forgets the kernels, since fused optimisers change weights unseen."""
        self._inference_weights = ()
        return super().train(mode)

    def _levels(self, scalars: Tensor, ghosted_energy: Tensor) -> Tensor:
        """Sum over levels: ``scalars [batch, 2 levels, *cells]``, even ones first."""
        own = ghosted_energy
        for dim in range(1, own.ndim):
            own = own.narrow(dim, self.reach, own.shape[dim] - 2 * self.reach)
        even, odd = scalars.split(self.options.levels, dim=1)
        occupation = torch.sigmoid((own.unsqueeze(1) + odd) / self.options.kT)
        return (torch.softmax(even, dim=1) * occupation).sum(dim=1)

    def _kernels(self) -> list[tuple[Tensor, Tensor]]:
        """Dense kernels and biases of all layers: anew in each training step, once for as long as the weights stay."""
        if torch.is_grad_enabled():
            return self._spread_kernels()
        weights = tuple((p.data_ptr(), p._version) for p in self.parameters())
        if weights != self._inference_weights:
            self._inference_weights = weights
            self._inference_kernels = self._spread_kernels()
        return self._inference_kernels

    def _spread_kernels(self) -> list[tuple[Tensor, Tensor]]:
        layers = cast(Sequence[LiftingConv | GroupConv], self.layers)
        kernels = [(layer.kernel(), layer.channel_bias()) for layer in layers]
        head = self.head.kernel()
        kernels.append((head.reshape(*head.shape, *(1,) * (kernels[0][0].ndim - 2)), self.head.channel_bias()))
        return [(_channels_last(weight), bias) for weight, bias in kernels]


def _channels_last(weight: Tensor) -> Tensor:
    """The layout in which the convolution libraries are fastest; the weights alone decide it for the activations too."""
    return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight


def _conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3](x, weight, bias)


def build(options: Options, lattice: Lattice) -> Enn:
    """The default network for ``lattice``."""
    return Enn(options, lattice)
