"""Base of the networks of levels: from the shifted field to the weights and energies of effective levels on each site.

Fields are ``[batch, *cells]`` on a lattice of one site a cell and ``[batch, *cells, basis]`` on others, as they are stored.

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
from hpc_holstein.network._fused_levels import Dense, FusedLevels, Input, supported
from hpc_holstein.network._fused_square import FusedSquare
from hpc_holstein.network.layers import GroupConv, LiftingConv, Modulation, ScalarHead, activated
from hpc_holstein.network.models._level_options import NetworkOptions
from hpc_holstein.symmetry.internal import is_bipartite
from hpc_holstein.symmetry.pairs import Pairs


class LevelNetwork(nn.Module):
    """Group convolutions that end in even scalars (weights of levels) and odd ones (their energies).

    With ``kT_range``, ``tanh(g Q' / 2 kT)`` is one more input and each layer is modulated by ``kT``
    (:class:`~hpc_holstein.network.layers.Modulation`), which is part of its kernels and costs a run nothing.
    """

    field = "shifted"
    predicts: str
    reach: int
    sharpness = 100.0  # bound on |d2n/dmu2| over that of a Fermi function: levels may move with the field; 43 was measured
    _scales: Tensor

    def __init__(self, options: NetworkOptions, lattice: Lattice, more_even: int = 0, diagonal: Pairs | None = None) -> None:
        """``more_even``: even scalars beside the weights of the levels; ``diagonal``: states that have levels, if not sites."""
        super().__init__()
        _require_network(options)
        self.options = options
        self.g, self.kT = getattr(options, "g", 1.0), options.kT
        self.lattice_name, self._lattice = lattice.name, lattice
        self.particle_hole = is_bipartite(lattice.bonds(1))  # built in, if hopping to nearest neighbours has it
        self._dimension, self._basis = len(lattice.extent), len(lattice.basis)
        group, copies, exchanged = lattice.point_group, options.copies, self.particle_hole
        self._elements, self.local_reach = group.order, sum(options.radii)
        channels = len(options.scales) + bool(options.kT_range)
        seen = [Pairs.within(lattice, radius) for radius in options.radii]
        diagonal = Pairs.on_site(lattice) if diagonal is None else diagonal
        layers: list[LiftingConv | GroupConv] = [LiftingConv(seen[0], diagonal, channels, copies)]
        layers += [GroupConv(pairs, copies, copies, exchanged) for pairs in seen[1:]]
        self.layers = nn.ModuleList(layers)
        even, odd = diagonal.orbitals * options.levels + more_even, diagonal.orbitals * options.levels
        self._odd_scalars = odd
        if not exchanged:
            even, odd = even + odd, 0
        self.head = ScalarHead(group, (1 + exchanged) * group.order, copies, even, odd)
        if options.kT_range:
            hidden = [Modulation(copies, copies * exchanged) for _ in layers]
            self.modulations = nn.ModuleList([*hidden, Modulation(even, odd)])
        self.register_buffer("_scales", torch.tensor(options.scales), persistent=False)
        self._inference_kernels: list[_Layer] = []
        self._inference_key: tuple[object, ...] = ()
        self._fused: tuple[object, FusedLevels | FusedSquare | None] = (None, None)  # the kernels that it was made of, and it

    @property
    def takes_kT(self) -> bool:
        """True if ``kT`` is an input."""
        return bool(self.options.kT_range)

    def at(self, g: float, kT: float) -> None:
        """Take fields of coupling ``g`` from now on, and be at ``kT`` where that is an input; both in units of the hopping."""
        self.g = g
        if self.takes_kT:
            self.kT = kT

    def is_fused(self, device: torch.device) -> bool:
        """True if fields are evaluated by compiled code when no gradients are recorded.

        Any shape of window is as fast then, and the bits at a cell do not depend on its place in it.
        """
        compiled = self.predicts != "grand_potential" and supported(self._lattice, self.reach)
        return compiled and device.type == "cpu" and not torch.is_autocast_enabled("cpu")

    def train(self, mode: bool = True) -> LevelNetwork:
        """Switch between training and evaluation; forgets the kernels, since fused optimisers change weights unseen."""
        self._inference_key = ()
        return super().train(mode)

    def _scalars(self, energy: Tensor, kernels: list[_Layer], kT: float) -> tuple[Tensor, Tensor, Tensor]:
        """Even scalars ``[*field, even]``, energies of the levels ``[*field, levels]`` and ``g Q'`` of the cells.

        ``energy``: ``g Q'`` with a halo of ``local_reach``, which is consumed.
        """
        lifting, *convolutions, head = kernels
        x = self._saturated(energy, kT)
        if lifting.odd is None:
            even, odd = self._hidden(_conv(x, lifting.even, lifting.bias), None, convolutions)
        else:  # the field is odd under the exchange of particles and holes
            even, odd = self._hidden(_as_channels(lifting.bias, x), _conv(x, lifting.odd), convolutions)
        scalars, level = self._read_levels(even, odd, head)
        centre = interior(energy, self.local_reach, self._dimension)
        return scalars, centre.unsqueeze(-1) + level, centre

    def _saturated(self, energy: Tensor, kT: float) -> Tensor:
        """Channels of an energy on each site, ``[batch, sites of a cell x scales, *cells]``."""
        sites = energy.unsqueeze(1) if energy.ndim == 1 + self._dimension else energy.movedim(-1, 1)
        return _saturated(sites, self._input_scales(kT, energy))

    def _hidden(self, even: Tensor, odd: Tensor | None, convolutions: Sequence[_Layer]) -> tuple[Tensor, Tensor | None]:
        """Both parts of the last feature from those of the first one, before its activation."""
        even, odd = activated(even, odd)
        for layer in convolutions:
            even, odd = activated(
                _conv(even, layer.even, layer.bias), None if odd is None or layer.odd is None else _conv(odd, layer.odd)
            )
        return even, odd

    def _read_levels(self, even: Tensor, odd: Tensor | None, head: _Layer) -> tuple[Tensor, Tensor]:
        """Even scalars of each site and what its levels lie above the field, ``[*field, scalars]`` and ``[*field, levels]``."""
        scalars = self._read(even, head.even, head.bias)
        if odd is None or head.odd is None:
            scalars, level = scalars.split((scalars.shape[-1] - self._odd_scalars, self._odd_scalars), dim=-1)
        else:
            level = self._read(odd, head.odd)
        return scalars, level

    def _read(self, feature: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        """Scalars of each site, ``[*field, scalars]``."""
        of_sites = feature.reshape(len(feature) * self._basis, -1, *feature.shape[2:])
        scalars = _conv(of_sites, kernel, bias).movedim(1, -1)
        return scalars if self._basis == 1 else scalars.unflatten(0, (-1, self._basis)).movedim(1, -2)

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
        spread = [self._lifting_kernels()]
        for layer in cast(Sequence[GroupConv], self.layers[1:]):
            even, *odd = layer.kernels()
            spread.append(_Layer(even, odd[0] if odd else None, layer.channel_bias()))
        single = (1,) * self._dimension
        even, last = (part.reshape(*part.shape, *single) for part in self.head.kernels())
        spread.append(_Layer(even, last if self.particle_hole else None, self.head.bias))
        if self.takes_kT:
            modulations = cast(Sequence[Modulation], self.modulations)
            elements = [self._elements] * len(self.layers) + [1]
            spread = [
                layer.modulated(by, self._position(kT), of_copy)
                for layer, by, of_copy in zip(spread, modulations, elements, strict=True)
            ]
        return [layer.channels_last() for layer in spread]

    def _lifting_kernels(self) -> _Layer:
        lifting = cast(LiftingConv, self.layers[0])
        kernel = lifting.kernel()
        return _Layer(kernel, kernel if self.particle_hole else None, lifting.channel_bias())

    def _fused_levels(self, numbers: Tensor, kT: float) -> FusedLevels | FusedSquare | None:
        """Compiled evaluation of fields ``[batch, *cells, numbers]``, where they are evaluated by it."""
        kept = numbers.dtype in (torch.float32, torch.float64)
        if torch.is_grad_enabled() or not kept or not self.is_fused(numbers.device):
            return None
        kernels = self._kernels(kT)
        made_of, fused = self._fused
        if fused is None or made_of is not kernels:
            scales, elements = self._input_scales(kT, numbers), Pairs.on_site(self._lattice)
            fused = self._compiled([_dense(layer) for layer in kernels], Input(elements, scales, self.particle_hole), kT)
            self._fused = kernels, fused
        return fused

    def _compiled(self, layers: list[Dense], on_site: Input, kT: float) -> FusedLevels | FusedSquare:
        """Compiled evaluation with these layers at ``kT``."""
        widths = torch.full((self.options.levels,), kT, dtype=torch.float64)
        return FusedLevels(layers, self._lattice, self.options.radii, [on_site], widths)

    def _position(self, kT: float) -> float:
        """Position of ``kT`` in its range on a logarithmic scale, from -1 to 1."""
        low, high = map(math.log, self.options.kT_range)
        return (2 * math.log(kT) - low - high) / (high - low)


class _Layer(NamedTuple):
    """Kernels of the even and, with particle-hole exchange, the odd part of a feature, and the bias of the even one."""

    even: Tensor
    odd: Tensor | None
    bias: Tensor

    def modulated(self, modulation: Modulation, position: float, elements: int) -> _Layer:
        """The layer followed by the scales and the shift of ``modulation``, each for so many ``elements`` of a copy."""
        scale, odd_scale, shift = modulation(position)

        def spread(factor: Tensor, rows: int) -> Tensor:
            return factor.repeat_interleave(elements).repeat(rows // (elements * len(factor)))

        def scaled(kernel: Tensor, factor: Tensor) -> Tensor:
            return kernel * spread(factor, len(kernel)).view(-1, *(1,) * (kernel.ndim - 1))

        odd = None if self.odd is None else scaled(self.odd, odd_scale)
        bias = self.bias * spread(scale, len(self.bias)) + spread(shift, len(self.bias))
        return _Layer(scaled(self.even, scale), odd, bias)

    def channels_last(self) -> _Layer:
        """The same in the layout of :func:`_channels_last`."""
        return _Layer(_channels_last(self.even), None if self.odd is None else _channels_last(self.odd), self.bias)


def _dense(layer: _Layer) -> Dense:
    return Dense(layer.even.detach(), None if layer.odd is None else layer.odd.detach(), layer.bias.detach())


def interior(field: Tensor, width: int, dimension: int) -> Tensor:
    """The cells of ``[batch, *cells, ...]`` further than ``width`` from every edge."""
    for dim in range(1, 1 + dimension):
        field = field.narrow(dim, width, field.shape[dim] - 2 * width)
    return field


def _require_network(options: NetworkOptions) -> None:
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


def _saturated(values: Tensor, scales: Tensor) -> Tensor:
    """``tanh(v / s)`` of values ``[batch, numbers, *cells]`` for each of the scales, ``[batch, numbers x scales, *cells]``."""
    return torch.tanh(values.unsqueeze(2) / scales.view(-1, *(1,) * (values.ndim - 2))).flatten(1, 2)


def _channels_last(weight: Tensor) -> Tensor:
    """The layout in which the convolution libraries are fastest; the weights alone decide it for the activations too."""
    return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight


def _as_channels(bias: Tensor, like: Tensor) -> Tensor:
    return bias.view(-1, *(1,) * (like.ndim - 2))


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if max(weight.shape[2:]) == 1:  # a matrix product over the channels, which are last in memory: faster than a convolution
        return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)
    return (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3](x, weight, bias)
