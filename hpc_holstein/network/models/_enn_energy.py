"""The layers of the energy-conserving network; :mod:`hpc_holstein.network.models.enn_energy` says what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from hpc_holstein.interfaces import Lattice
from hpc_holstein.network.layers import Modulation
from hpc_holstein.network.models._levels import LevelNetwork, interior
from hpc_holstein.network.models.enn_energy import Options


class EnnEnergy(LevelNetwork):
    """Density as the gradient of a grand potential; see :mod:`hpc_holstein.network.models.enn_energy`.

    ``forward``: ghosted shifted field ``[batch, *(cells + 2 reach)]`` -> density ``[batch, *cells]``;
    ``with_grand_potential`` gives that of each cell too, in units of the hopping.  Each cell sees ``reach / 2`` cells around
    it.  Use ``enn`` instead where speed counts and the thermostat takes up what the forces do not conserve.
    """

    predicts = "grand_potential"

    def __init__(self, options: Options, lattice: Lattice) -> None:
        super().__init__(options, lattice, more_even=1)
        self.reach = 2 * self.local_reach

    def forward(self, ghosted_field: Tensor, kT: float | None = None) -> Tensor:
        """Density of the interior sites, at ``kT`` or at that of :meth:`at`; the halo of ``reach`` cells is consumed."""
        return self.with_grand_potential(ghosted_field, kT)[0]

    def with_grand_potential(self, ghosted_field: Tensor, kT: float | None = None) -> tuple[Tensor, Tensor]:
        """Density and grand potential of the interior cells, both ``[batch, *cells]``.

        The gradient is taken whatever the mode of the caller; it can be differentiated again where he records gradients.
        """
        kT = kT or self.kT
        kernels, again = self._kernels(kT), torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            energy = self.g * ghosted_field
            if not energy.requires_grad:
                energy.requires_grad_()
            omega, centre = self._site_potentials(energy, kernels, kT)
            (slope,) = torch.autograd.grad(omega.sum(), energy, create_graph=again)
        full = omega - 0.5 * centre
        density = 0.5 - interior(slope, self.reach, self._dimension)
        full = interior(full, self.local_reach, self._dimension)
        return density, full if again else full.detach()

    @torch.no_grad()
    def add_constant(self, constants: Sequence[float]) -> None:
        """Add one to the grand potential of each cell; with ``kT_range``, at the lowest, the middle and the highest ``kT``."""
        last = self.options.levels  # of the even scalars
        if not self.takes_kT:
            self.head.bias[last] += constants[0]
            return
        low, middle, high = constants
        weight = cast(Modulation, self.modulations[-1]).weight  # [u and u^2, even scales | odd scales | shifts]
        linear, square = weight[:, last].tolist()
        self.head.bias[last] += middle
        above, below = high - middle * (1 + linear + square), low - middle * (1 - linear + square)
        shift = last - len(self.head.bias)
        weight[0, shift] += 0.5 * (above - below)
        weight[1, shift] += 0.5 * (above + below)

    def _site_potentials(self, energy: Tensor, kernels: list[Any], kT: float) -> tuple[Tensor, Tensor]:
        """Even part ``omega`` and ``g Q'`` of all cells that are ``local_reach`` away from the edges."""
        scalars, level, centre = self._scalars(energy, kernels, kT)
        logit, extra = scalars[..., :-1], scalars[..., -1]
        weight = torch.exp(logit - logit.detach().amax(dim=-1, keepdim=True))
        spectrum = _LogCosh.apply(level * (0.5 / kT))
        return extra - kT * (weight * spectrum).sum(dim=-1) / weight.sum(dim=-1), centre


class _LogCosh(torch.autograd.Function):
    """``ln(2 cosh x)``, which neither overflows nor loses a derivative at 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.abs() + torch.log1p(torch.exp(-2 * x.abs()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * torch.tanh(x)
