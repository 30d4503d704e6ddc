"""Base of the networks of levels: from the shifted field to the weights and energies of effective levels on each site.

The input is ``g Q'`` in units of the hopping: the electrons know ``Q``, ``mu`` and ``g`` through ``g Q' = g Q + mu`` alone, so
a network is exact in ``g`` by construction, and what else it must know is ``kT``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Lattice
from hpc_holstein.network.layers import GroupConv, LiftingConv, Modulation, ScalarHead, activated
from hpc_holstein.network.models._level_options import LevelOptions
from hpc_holstein.symmetry.internal import ParticleHoleGroup


class LevelNetwork(nn.Module):
    """Group convolutions that end in even scalars (weights of levels) and odd ones (their energies).

    With ``kT_range``, ``tanh(g Q' / 2 kT)`` is one more input and each layer is modulated by ``kT``
    (:class:`~hpc_holstein.network.layers.Modulation`), which is part of its kernels and costs a run nothing.
    """

    field = "shifted"
    particle_hole = True  # built in, so hopping must join two sublattices alone
    sharpness = 100.0  # bound on |d2n/dmu2| over that of a Fermi function: levels may move with the field; 43 was measured
    _scales: Tensor

    def __init__(self, options: LevelOptions, lattice: Lattice, more_even: int = 0) -> None:
        """``more_even``: even scalars beside the weights of the levels."""
        super().__init__()
        _require_network(options)
        self.options = options
        self.g, self.kT = options.g, options.kT
        group = ParticleHoleGroup(lattice.point_group)
        self.local_reach = sum(options.radii)
        channels = len(options.scales) + bool(options.kT_range)
        layers: list[LiftingConv | GroupConv] = [LiftingConv(group, channels, options.copies, options.radii[0])]
        layers += [GroupConv(group, options.copies, options.copies, radius) for radius in options.radii[1:]]
        self.layers = nn.ModuleList(layers)
        self.head = ScalarHead(group, options.copies, even=options.levels + more_even, odd=options.levels)
        if options.kT_range:
            hidden = [Modulation(options.copies, options.copies) for _ in layers]
            self.modulations = nn.ModuleList([*hidden, Modulation(options.levels + more_even, options.levels)])
        self.register_buffer("_scales", torch.tensor(options.scales), persistent=False)
        self._inference_kernels: list[_Layer] = []
        self._inference_key: tuple[object, ...] = ()

    @property
    def takes_kT(self) -> bool:
        """True if ``kT`` is an input."""
        return bool(self.options.kT_range)

    def at(self, g: float, kT: float) -> None:
        """Take fields of coupling ``g`` from now on, and be at ``kT`` where that is an input; both in units of the hopping."""
        self.g = g
        if self.takes_kT:
            self.kT = kT

    def train(self, mode: bool = True) -> LevelNetwork:
        """Switch between training and evaluation; forgets the kernels, since fused optimisers change weights unseen."""
        self._inference_key = ()
        return super().train(mode)

    def _scalars(self, energy: Tensor, kernels: list[_Layer], kT: float) -> tuple[Tensor, Tensor, Tensor]:
        """Even scalars ``[batch, *cells, even]``, energies of the levels ``[batch, *cells, levels]`` and ``g Q'`` of the cells.

        ``energy``: ``g Q'`` with a halo of ``local_reach``, which is consumed.
        """
        field = energy.unsqueeze(1)
        x = torch.tanh(field / self._input_scales(kT, energy).view(-1, *(1,) * (energy.ndim - 1)))
        lifting, *convolutions, head = kernels
        even, odd = activated(_as_channels(lifting.bias, x), _conv(x, lifting.odd))
        for layer in convolutions:
            even, odd = activated(_conv(even, layer.even, layer.bias), _conv(odd, layer.odd))
        centre = interior(energy, self.local_reach)
        scalars, level = _conv(even, head.even, head.bias).movedim(1, -1), _conv(odd, head.odd).movedim(1, -1)
        return scalars, centre.unsqueeze(-1) + level, centre

    def _input_scales(self, kT: float, like: Tensor) -> Tensor:
        scales = self._scales.to(like)
        return torch.cat([scales, scales.new_tensor([2 * kT])]) if self.takes_kT else scales

    def _kernels(self, kT: float) -> list[_Layer]:
        """Dense kernels and biases of all layers: anew in each training step, once for as long as weights and ``kT`` stay."""
        if torch.is_grad_enabled():
            return self._spread_kernels(kT)
        key = (kT, *((p.data_ptr(), p._version) for p in self.parameters()))
        if key != self._inference_key:
            with torch.inference_mode(False), torch.no_grad():  # so that gradients by the field can be taken through them
                self._inference_key, self._inference_kernels = key, self._spread_kernels(kT)
        return self._inference_kernels

    def _spread_kernels(self, kT: float) -> list[_Layer]:
        lifting = cast(LiftingConv, self.layers[0])
        kernel = lifting.kernel()
        spread = [_Layer(kernel, kernel, lifting.channel_bias())]
        spread += [_Layer(*layer.kernels(), layer.channel_bias()) for layer in cast(Sequence[GroupConv], self.layers[1:])]
        single = (1,) * (kernel.ndim - 2)
        even, odd = (part.reshape(*part.shape, *single) for part in self.head.kernels())
        spread.append(_Layer(even, odd, self.head.bias))
        if self.takes_kT:
            modulations = cast(Sequence[Modulation], self.modulations)
            spread = [layer.modulated(by, self._position(kT)) for layer, by in zip(spread, modulations, strict=True)]
        return [_Layer(_channels_last(even), _channels_last(odd), bias) for even, odd, bias in spread]

    def _position(self, kT: float) -> float:
        """Position of ``kT`` in its range on a logarithmic scale, from -1 to 1."""
        low, high = map(math.log, self.options.kT_range)
        return (2 * math.log(kT) - low - high) / (high - low)


class _Layer(NamedTuple):
    """Kernels of the even and the odd part of a feature, and the bias of the even one."""

    even: Tensor
    odd: Tensor
    bias: Tensor

    def modulated(self, modulation: Modulation, position: float) -> _Layer:
        """The layer followed by the scales and the shift of ``modulation``."""
        even, odd, shift = modulation(position)
        even, odd = _as_rows(even, self.even), _as_rows(odd, self.odd)
        shift = shift.repeat_interleave(len(self.bias) // len(shift))
        return _Layer(self.even * even, self.odd * odd, self.bias * even.flatten() + shift)


def interior(field: Tensor, width: int) -> Tensor:
    """The cells of ``[batch, *cells]`` further than ``width`` from every edge."""
    for dim in range(1, field.ndim):
        field = field.narrow(dim, width, field.shape[dim] - 2 * width)
    return field


def _require_network(options: LevelOptions) -> None:
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
    if options.kT_range and not (len(options.kT_range) == 2 and 0 < options.kT_range[0] < options.kT_range[1] < math.inf):
        raise ConfigError(f"kT_range = {list(options.kT_range)} is not a range: give [low, high] with 0 < low < high, or []")
    if options.kT_range and not options.kT_range[0] <= options.kT <= options.kT_range[1]:
        raise ConfigError(
            f"kT = {options.kT} is outside of kT_range = {list(options.kT_range)}: widen the range or give a kT inside"
        )


def _as_rows(scale: Tensor, kernel: Tensor) -> Tensor:
    """One factor a copy, spread over its channels, ``[out, 1, ...]`` beside a kernel."""
    return scale.repeat_interleave(len(kernel) // len(scale)).view(-1, *(1,) * (kernel.ndim - 1))


def _channels_last(weight: Tensor) -> Tensor:
    """The layout in which the convolution libraries are fastest; the weights alone decide it for the activations too."""
    return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight


def _as_channels(bias: Tensor, like: Tensor) -> Tensor:
    return bias.view(-1, *(1,) * (like.ndim - 2))


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if max(weight.shape[2:]) == 1:  # a matrix product over the channels, which are last in memory: faster than a convolution
        return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)
    return (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3](x, weight, bias)
