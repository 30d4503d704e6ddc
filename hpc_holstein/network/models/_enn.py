"""The layers of the default network; :mod:`hpc_holstein.network.models.enn` says what it computes."""

from __future__ import annotations

import torch
from torch import Tensor

from hpc_holstein.interfaces import Lattice
from hpc_holstein.network._fused_levels import Dense, FusedLevels, Input
from hpc_holstein.network._fused_square import FusedSquare, supported
from hpc_holstein.network.models._levels import LevelNetwork
from hpc_holstein.network.models.enn import Options


class Enn(LevelNetwork):
    """Density from the shifted field; see :mod:`hpc_holstein.network.models.enn`.

    ``forward``: ghosted shifted field ``[batch, *(cells + 2 reach)]``, with a site axis behind if a cell has several, ->
    density of the cells; ``response`` also gives ``dn/dmu`` at fixed level energies and weights, ``sum_j a_ij f(e_ij)
    (1 - f(e_ij)) / kT``, within about a quarter of the whole derivative.  Use ``enn_energy`` instead where the energy must be
    conserved.
    """

    predicts = "density"

    def __init__(self, options: Options, lattice: Lattice) -> None:
        super().__init__(options, lattice)
        self.reach = self.local_reach

    def forward(self, ghosted_field: Tensor, kT: float | None = None) -> Tensor:
        """Density of the interior sites, at ``kT`` or at that of :meth:`at`; the halo of ``reach`` cells is consumed."""
        fused = self._by_compiled_code(ghosted_field, kT or self.kT)
        if fused is not None:
            return fused[0]
        weight, occupation = self._levels(ghosted_field, kT or self.kT)
        return (weight * occupation).sum(dim=-1) / weight.sum(dim=-1)

    def response(self, ghosted_field: Tensor, kT: float | None = None) -> tuple[Tensor, Tensor]:
        """Density and its response to ``mu``, at ``kT`` as :meth:`forward`."""
        kT = kT or self.kT
        fused = self._by_compiled_code(ghosted_field, kT)
        if fused is not None:
            return fused
        weight, occupation = self._levels(ghosted_field, kT)
        filled = weight * occupation
        total = weight.sum(dim=-1)
        return filled.sum(dim=-1) / total, (filled * (1 - occupation)).sum(dim=-1) / (kT * total)

    def _by_compiled_code(self, field: Tensor, kT: float) -> tuple[Tensor, Tensor] | None:
        """Density and ``dn/dmu``, where that is there."""
        numbers = field if self._basis > 1 else field.unsqueeze(-1)
        fused = self._fused_levels(numbers, kT)
        if fused is None:
            return None
        density, slope = fused(numbers, self.g)
        return (density, slope) if self._basis > 1 else (density[..., 0], slope[..., 0])

    def _compiled(self, layers: list[Dense], on_site: Input, kT: float) -> FusedLevels | FusedSquare:
        options, group = self.options, self._lattice.point_group.array
        if self.particle_hole and self._basis == 1 and supported(group, options.copies, options.radii, options.levels):
            return FusedSquare(layers, group, options.radii, on_site.scales, kT)
        return super()._compiled(layers, on_site, kT)

    def _levels(self, ghosted_field: Tensor, kT: float) -> tuple[Tensor, Tensor]:
        """Weights from the even scalars, up to their sum, and ``f(e)`` from the odd ones, ``[batch, *cells, levels]``.

        The softmax and the Fermi function are written out, and sums go over the last axis: PyTorch computes its own sigmoid and
        softmax by other instructions at the end of an array, so that the bits at a site would depend on where it lies.
        """
        logit, level, _ = self._scalars(self.g * ghosted_field, self._kernels(kT), kT)
        weight = torch.exp(logit - logit.detach().amax(dim=-1, keepdim=True))
        return weight, 0.5 + 0.5 * torch.tanh(level * (0.5 / kT))
