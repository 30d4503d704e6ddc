"""The layers of the default network; :mod:`hpc_holstein.network.models.enn` says what it computes."""

from __future__ import annotations

import torch
from torch import Tensor

from hpc_holstein.interfaces import Lattice
from hpc_holstein.network._fused_levels import Dense, FusedLevels, supported
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
        self._point_group = lattice.point_group.array
        plain = self.particle_hole and len(lattice.basis) == 1
        self._can_fuse = plain and supported(self._point_group, options.copies, options.radii, options.levels)
        self._fused_levels: tuple[object, FusedLevels | None] = (None, None)  # the kernels that it was made of, and it

    def forward(self, ghosted_field: Tensor, kT: float | None = None) -> Tensor:
        """Density of the interior sites, at ``kT`` or at that of :meth:`at`; the halo of ``reach`` cells is consumed."""
        fused = self._fused(ghosted_field, kT or self.kT)
        if fused is not None:
            return fused[0]
        weight, occupation = self._levels(ghosted_field, kT or self.kT)
        return (weight * occupation).sum(dim=-1) / weight.sum(dim=-1)

    def response(self, ghosted_field: Tensor, kT: float | None = None) -> tuple[Tensor, Tensor]:
        """Density and its response to ``mu``, at ``kT`` as :meth:`forward`."""
        kT = kT or self.kT
        fused = self._fused(ghosted_field, kT)
        if fused is not None:
            return fused
        weight, occupation = self._levels(ghosted_field, kT)
        filled = weight * occupation
        total = weight.sum(dim=-1)
        return filled.sum(dim=-1) / total, (filled * (1 - occupation)).sum(dim=-1) / (kT * total)

    def is_fused(self, device: torch.device) -> bool:
        """True if fields are evaluated by compiled code when no gradients are recorded.

        Any shape of window is as fast then, and the bits at a site do not depend on its place in it.
        """
        return self._can_fuse and device.type == "cpu" and not torch.is_autocast_enabled("cpu")

    def _fused(self, field: Tensor, kT: float) -> tuple[Tensor, Tensor] | None:
        """Density and ``dn/dmu`` by compiled code."""
        kept = field.dtype in (torch.float32, torch.float64)
        if torch.is_grad_enabled() or not kept or not self.is_fused(field.device):
            return None
        kernels = self._kernels(kT)
        made_of, fused = self._fused_levels
        if fused is None or made_of is not kernels:
            dense = [Dense(*(part.detach() for part in layer if part is not None)) for layer in kernels]
            scales = self._input_scales(kT, field).detach()
            fused = FusedLevels(dense, self._point_group, self.options.radii, scales, kT)
            self._fused_levels = kernels, fused
        return fused(field, self.g)

    def _levels(self, ghosted_field: Tensor, kT: float) -> tuple[Tensor, Tensor]:
        """Weights from the even scalars, up to their sum, and ``f(e)`` from the odd ones, ``[batch, *cells, levels]``.

        The softmax and the Fermi function are written out, and sums go over the last axis: PyTorch computes its own sigmoid and
        softmax by other instructions at the end of an array, so that the bits at a site would depend on where it lies.
        """
        logit, level, _ = self._scalars(self.g * ghosted_field, self._kernels(kT), kT)
        weight = torch.exp(logit - logit.detach().amax(dim=-1, keepdim=True))
        return weight, 0.5 + 0.5 * torch.tanh(level * (0.5 / kT))
