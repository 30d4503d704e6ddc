"""An energy-conserving network: the grand potential of each site, whose gradient is the density.

    Omega = sum_i (omega_i - g Q'_i / 2),    n_i = -(1/g) dOmega/dQ'_i = 1/2 - sum_k d(omega_k)/d(g Q'_i),
    omega_i = -kT sum_j a_ij ln(2 cosh(e_ij / 2 kT)) + c_i,    a_ij > 0,  sum_j a_ij = 1,

with energies ``e_ij``, weights ``a_ij`` and a scalar ``c_i`` that the network predicts from the shifted field
``Q' = Q + mu/g`` around the site.  Under particle-hole ``e -> -e``, ``a -> a``, ``c -> c``: ``omega`` is even, so
``n -> 1 - n`` exactly.  With ``e = -g Q'`` and ``c = 0`` it is the atomic limit, where training starts.

The force is a gradient, so its curl vanishes and NVE dynamics conserves an energy; it reaches twice as far as ``omega``.
Forces tell ``Omega`` up to a constant a site, which ``train`` takes from exact diagonalization.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from hpc_holstein.interfaces import Lattice
from hpc_holstein.network.layers import Modulation
from hpc_holstein.network.models._levels import LevelNetwork, LevelOptions, interior


@dataclass(frozen=True)
class Options(LevelOptions):
    """Shape of the network.

    copies    copies of the 2|G|-dimensional regular representation in each hidden layer
    radii     stencil radius of each layer, the first one lifts; the reach of the force is twice their sum
    levels    effective levels of the read-out
    scales    the field enters as ``tanh(g Q' / s)`` for these energies ``s``, in units of the hopping
    g, kT     coupling and electron temperature that the weights belong to
    kT_range  lowest and highest ``kT`` of a network that takes ``kT`` as an input; empty: ``kT`` is fixed.  A training with
              data at several ``kT`` sets it
    """

    radii: tuple[int, ...] = (1, 1, 0)


class EnnEnergy(LevelNetwork):
    """Density as the gradient of a grand potential; see the module docstring.

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
        density, full = 0.5 - interior(slope, self.reach), interior(full, self.local_reach)
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
        weight[0, -1] += 0.5 * (above - below)
        weight[1, -1] += 0.5 * (above + below)

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


def build(options: Options, lattice: Lattice) -> EnnEnergy:
    """The energy-conserving network for ``lattice``."""
    return EnnEnergy(options, lattice)
