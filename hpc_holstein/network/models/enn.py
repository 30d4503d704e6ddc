"""The default network: group convolutions over (point group) x (particle-hole), read out as a local spectrum.

The density of site ``i`` is written as what it is in any finite cluster, a sum over levels,

    n_i = sum_j a_ij f(e_ij),   f(e) = 1 / (1 + exp(e / kT)),   a_ij > 0,  sum_j a_ij = 1,

with ``levels`` effective energies ``e_ij`` (relative to mu) and weights ``a_ij`` that the network predicts from the
shifted field ``Q + mu/g`` around the site.  Under particle-hole ``e -> -e`` and ``a -> a``, so ``n -> 1 - n`` exactly.
With ``e = -g Q'`` for all levels it is the atomic limit, where training starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_holstein.interfaces import Lattice
from hpc_holstein.network.models._levels import LevelNetwork, LevelOptions


@dataclass(frozen=True)
class Options(LevelOptions):
    """Shape of the network.

    copies    copies of the 2|G|-dimensional regular representation in each hidden layer
    radii     stencil radius of each layer, the first one lifts; the reach is their sum
    levels    effective levels of the read-out
    scales    the field enters as ``tanh(g Q' / s)`` for these energies ``s``, in units of the hopping
    g, kT     coupling and electron temperature that the weights belong to
    kT_range  lowest and highest ``kT`` of a network that takes ``kT`` as an input; empty: ``kT`` is fixed.  A training with
              data at several ``kT`` sets it
    """


class Enn(LevelNetwork):
    """Density from the shifted field; see the module docstring.

    ``forward``: ghosted shifted field ``[batch, *(cells + 2 reach)]`` -> density ``[batch, *cells]``; ``response`` also gives
    ``dn/dmu`` at fixed level energies and weights, ``sum_j a_ij f(e_ij) (1 - f(e_ij)) / kT``, within about a quarter of the
    whole derivative.  Use ``enn_energy`` instead where the energy must be conserved.
    """

    predicts = "density"

    def __init__(self, options: Options, lattice: Lattice) -> None:
        super().__init__(options, lattice)
        self.reach = self.local_reach

    def forward(self, ghosted_field: Tensor, kT: float | None = None) -> Tensor:
        """Density of the interior sites, at ``kT`` or at that of :meth:`at`; the halo of ``reach`` cells is consumed."""
        weight, occupation = self._levels(ghosted_field, kT or self.kT)
        return (weight * occupation).sum(dim=-1) / weight.sum(dim=-1)

    def response(self, ghosted_field: Tensor) -> tuple[Tensor, Tensor]:
        """Density and its response to ``mu``."""
        weight, occupation = self._levels(ghosted_field, self.kT)
        filled = weight * occupation
        total = weight.sum(dim=-1)
        return filled.sum(dim=-1) / total, (filled * (1 - occupation)).sum(dim=-1) / (self.kT * total)

    def _levels(self, ghosted_field: Tensor, kT: float) -> tuple[Tensor, Tensor]:
        """Weights from the even scalars, up to their sum, and ``f(e)`` from the odd ones, ``[batch, *cells, levels]``.

        The softmax and the Fermi function are written out, and sums go over the last axis: PyTorch computes its own sigmoid and
        softmax by other instructions at the end of an array, so that the bits at a site would depend on where it lies.
        """
        logit, level, _ = self._scalars(self.g * ghosted_field, self._kernels(kT), kT)
        weight = torch.exp(logit - logit.detach().amax(dim=-1, keepdim=True))
        return weight, 0.5 + 0.5 * torch.tanh(level * (0.5 / kT))


def build(options: Options, lattice: Lattice) -> Enn:
    """The default network for ``lattice``."""
    return Enn(options, lattice)
