"""The default network: group convolutions over (point group) x (particle-hole), read out as a local spectrum.

The density of site ``i`` is written as what it is in any finite cluster, a sum over levels,

    n_i = sum_j a_ij f(e_ij),   f(e) = 1 / (1 + exp(e / kT)),   a_ij > 0,  sum_j a_ij = 1,

with ``levels`` effective energies ``e_ij`` (relative to mu) and weights ``a_ij`` that the network predicts from the
shifted field ``Q + mu/g`` around the site.  Under particle-hole ``e -> -e`` and ``a -> a``, so ``n -> 1 - n`` exactly.
With ``e = -g Q'`` for all levels it is the atomic limit, where training starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_holstein.interfaces import Lattice
from hpc_holstein.network.models._level_options import LevelOptions

if TYPE_CHECKING:
    from hpc_holstein.network.models._enn import Enn


@dataclass(frozen=True)
class Options(LevelOptions):
    """Shape of the network."""


def build(options: Options, lattice: Lattice) -> Enn:
    """The default network for ``lattice``."""
    from hpc_holstein.network.models._enn import Enn

    return Enn(options, lattice)
