"""The layers of the network of any Hamiltonian; :mod:`hpc_holstein.network.models.enn_matrix` says what it computes."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from hpc_holstein.errors import ConfigError
from hpc_holstein.fields import displaced
from hpc_holstein.interfaces import Lattice
from hpc_holstein.network._fused_levels import Dense, FusedLevels, Input, Written
from hpc_holstein.network.elements import Elements
from hpc_holstein.network.layers import ElementHead, LiftingConv
from hpc_holstein.network.models._levels import LevelNetwork, _conv, _Layer, _saturated, interior
from hpc_holstein.network.models.enn_matrix import Options
from hpc_holstein.symmetry.pairs import Pairs


class EnnMatrix(LevelNetwork):
    """``rho`` from ``(H - mu)/t``; see :mod:`hpc_holstein.network.models.enn_matrix`.

    ``forward``: elements of ``H`` with a halo, ``[batch, *(cells + 2 reach), elements]`` in the order of
    :class:`~hpc_holstein.network.elements.Elements`, -> ``rho`` ``[batch, *cells, written]``: of the elements :attr:`written`,
    the diagonal, then both directions of each pair of orbitals of a site and of the ``outputs`` shells.  ``response`` also
    gives ``dn/dmu`` times the hopping at fixed shifts and weights, zero for pairs: that of a pair is below the geometric mean
    of those of its two sites.
    """

    _pair_scales: Tensor

    field = "matrix"
    predicts = "density_matrix"

    def __init__(self, options: Options, lattice: Lattice) -> None:
        _require_shells(options)
        elements = Elements.of(lattice, options.shells, options.orbitals)
        super().__init__(options, lattice, diagonal=elements.parts[0])
        self.elements = elements
        pairs, odd = self.elements.parts[1:], self.elements.odd[1:]
        seen = Pairs.within(lattice, options.radii[0])
        within = self._within = elements.first_shell - 1  # parts between orbitals of a site, which read as its energies do
        channels = [len(options.scales)] * within + [len(options.pair_scales)] * options.shells
        self.lift_pairs = nn.ModuleList(
            LiftingConv(seen, part, number, options.copies, biased=False) for part, number in zip(pairs, channels, strict=True)
        )
        written = list(zip(pairs, odd, strict=True))[: within + options.outputs]
        self.pair_heads = nn.ModuleList(ElementHead(part, options.copies, is_odd) for part, is_odd in written)
        self.width = nn.Parameter(torch.linspace(0.0, options.largest_width, options.levels))
        self.written = np.arange(self.elements.slices[within + options.outputs].stop)
        self._pair_reach = max((part.radius for part, _ in written), default=0)
        self.reach = self.local_reach + self._pair_reach
        self.register_buffer("_pair_scales", torch.tensor(options.pair_scales), persistent=False)

    def forward(self, elements: Tensor, kT: float | None = None) -> Tensor:
        """``rho`` of the interior cells, at ``kT`` in units of the hopping or at that of :meth:`at`."""
        return self._rho(elements, kT or self.kT)[0]

    def response(self, elements: Tensor, kT: float | None = None) -> tuple[Tensor, Tensor]:
        """``rho`` and the response of its diagonal to ``mu``, at ``kT`` as :meth:`forward`."""
        rho, slope = self._rho(elements, kT or self.kT)
        return rho, torch.cat([slope, torch.zeros_like(rho[..., self.elements.states :])], dim=-1)

    def _rho(self, elements: Tensor, kT: float) -> tuple[Tensor, Tensor]:
        """``[batch, *cells, written]``, and ``dn/dmu [batch, *cells, states]``."""
        fused = self._fused_levels(elements, kT)
        if fused is not None:
            return fused(elements)
        lifting, *convolutions, head, pair_head = self._kernels(kT)
        energy = -elements[..., : self.elements.states]  # as g Q' of the Holstein model
        energy = energy[..., 0] if self.elements.states == 1 else energy
        even, odd = self._hidden(*self._lift(elements, energy, lifting, kT), convolutions)
        out = self._pair_elements(even, odd, pair_head)
        scalars = self._read_levels(self._inner(even), None if odd is None else self._inner(odd), head)
        logit, level = (self._of_states(part) for part in scalars)
        level = level + interior(energy, self.reach, self._dimension).unsqueeze(-1)
        weight = torch.exp(logit - logit.detach().amax(dim=-1, keepdim=True))
        weight = weight / weight.sum(dim=-1, keepdim=True)
        width = kT + self.width.abs()
        occupation = 0.5 + 0.5 * torch.tanh(0.5 * level / width)
        density = (weight * occupation).sum(dim=-1)
        slope = (weight * occupation * (1 - occupation) / width).sum(dim=-1)
        if self.elements.states == 1:
            density, slope = density.unsqueeze(-1), slope.unsqueeze(-1)
        return torch.cat([density, *out], dim=-1), slope

    def _of_states(self, scalars: Tensor) -> Tensor:
        """Those of each site, ``[*field, orbitals x levels]``, as ``[*cells, states, levels]``; no axis of one state."""
        if self.elements.orbitals == 1:
            return scalars
        of_orbitals = scalars.unflatten(-1, (self.elements.orbitals, -1))
        return of_orbitals if self._basis == 1 else of_orbitals.flatten(-3, -2)

    def is_fused(self, device: torch.device) -> bool:
        """As of every network of levels, but that signs of orbitals are left to PyTorch."""
        return self.elements.orbitals == 1 and super().is_fused(device)

    def _compiled(self, layers: list[Dense], on_site: Input, kT: float) -> FusedLevels:
        inputs = [on_site._replace(gain=-1.0)]  # as g Q' of the Holstein model
        for shell, (pairs, odd) in enumerate(zip(self.elements.parts[1:], self.elements.odd[1:], strict=True)):
            inputs.append(Input(pairs, self._pair_scales, odd, shift=1.0 if shell == 0 else 0.0))
        *layers, pair_head = layers
        written = self.elements.slices[1 : 1 + len(self.pair_heads)]
        bonds = [bond for part in written for bond in self.elements.bonds[part]]
        is_odd = [odd for part, odd in zip(written, self.elements.odd[1:], strict=False) for _ in self.elements.bonds[part]]
        widths = kT + self.width.detach().double().abs()
        pairs_read = Written(bonds, is_odd, pair_head, self._pair_reach)
        return FusedLevels(layers, self._lattice, self.options.radii, inputs, widths, pairs_read)

    def _inner(self, feature: Tensor) -> Tensor:
        """``[batch, channels, *cells]`` without the cells that only pairs see."""
        return interior(feature.movedim(1, -1), self._pair_reach, self._dimension).movedim(-1, 1)

    def _lift(self, elements: Tensor, energy: Tensor, lifting: _Layer, kT: float) -> tuple[Tensor, Tensor | None]:
        """Both parts of the first feature, before its activation."""
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        found[self.particle_hole].append(self._saturated(energy, kT))
        for number, (part, odd) in enumerate(zip(self.elements.slices[1:], self.elements.odd[1:], strict=True)):
            values = elements[..., part].movedim(-1, 1)
            scales = self._scales if number < self._within else self._pair_scales
            free = number == 0 and self.elements.orbitals == 1  # H/t + 1 between nearest neighbours
            found[odd].append(_saturated(values + 1 if free else values, scales.to(values)))
        even = _conv(torch.cat(found[False], dim=1), lifting.even, lifting.bias)
        return even, None if lifting.odd is None else _conv(torch.cat(found[True], dim=1), lifting.odd)

    def _pair_elements(self, even: Tensor, odd: Tensor | None, kernels: _Layer) -> list[Tensor]:
        """``(c_ij + c_ji) / 2`` of both directions of each pair, ``[batch, *cells, elements]``."""
        if not len(self.pair_heads):
            return []
        found = {False: _conv(even, kernels.even, kernels.bias)} if len(kernels.even) else {}
        if kernels.odd is not None and odd is not None and len(kernels.odd):
            found[True] = _conv(odd, kernels.odd)
        place = {False: 0, True: 0}
        means: list[Tensor] = []
        for part, is_odd in zip(self.elements.slices[1 : 1 + len(self.pair_heads)], self.elements.odd[1:], strict=False):
            values = found[is_odd]
            for index in range(part.start, part.stop, 2):
                both = values[:, place[is_odd]], values[:, place[is_odd] + 1]
                place[is_odd] += 2
                for (one, other), bond in zip((both, both[::-1]), self.elements.bonds[index : index + 2], strict=True):
                    here = interior(one, self._pair_reach, self._dimension)
                    there = displaced(other[..., None, None], self._pair_reach, bond.offset)[..., 0, 0]
                    means.append(0.5 * (here + there))
        return [torch.stack(means, dim=-1)]

    def _lifting_kernels(self) -> _Layer:
        """Kernels of the on-site elements and of those of each shell, side by side, of each parity."""
        on_site = cast(LiftingConv, self.layers[0])
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        found[self.particle_hole].append(on_site.kernel())
        for lift, odd in zip(self.lift_pairs, self.elements.odd[1:], strict=True):
            found[odd].append(cast(LiftingConv, lift).kernel())
        even, odd_part = (torch.cat(part, dim=1) if part else None for part in found)
        return _Layer(cast(Tensor, even), odd_part, on_site.channel_bias())

    def _spread_kernels(self, kT: float) -> list[_Layer]:
        """Kernels and biases of all networks of levels, and last those of the pairs."""
        heads = [cast(ElementHead, head) for head in self.pair_heads]
        kernels: tuple[list[Tensor], list[Tensor]] = ([], [])
        biases: list[Tensor] = []
        for head in heads:
            kernel = head.kernel()
            kernels[head.odd].append(kernel.reshape(*kernel.shape, *(1,) * self._dimension))
            if not head.odd:
                biases.append(kernel.new_zeros(len(kernel)) if head.bias is None else head.bias.expand(len(kernel)))
        nothing = self.width.new_empty((0, 1, *(1,) * self._dimension))
        even, odd = (torch.cat(part) if part else nothing for part in kernels)
        last = _Layer(even, odd, torch.cat(biases) if biases else self.width.new_empty(0)).channels_last()
        return [*super()._spread_kernels(kT), last]


def _require_shells(options: Options) -> None:
    if (
        options.shells < 1
        or not 0 <= options.outputs <= options.shells
        or not options.pair_scales
        or min(options.pair_scales) <= 0
    ):
        raise ConfigError(
            f"shells = {options.shells}, outputs = {options.outputs}, pair_scales = {list(options.pair_scales)} makes no "
            "network: give at least 1 shell, of these 0 or more as outputs, and at least one positive scale"
        )
