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

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from hpc_holstein.interfaces import Lattice
from hpc_holstein.keys import key
from hpc_holstein.network.models._level_options import LevelOptions

if TYPE_CHECKING:
    from hpc_holstein.network.models._enn_energy import EnnEnergy


@dataclass(frozen=True)
class Options(LevelOptions):
    """Shape of the network."""

    radii: Annotated[
        tuple[int, ...],
        key("stencil radius of each layer [a], the first one lifts; a force sees twice their sum", "radius", "kernel_size"),
    ] = (1, 1, 0)


def build(options: Options, lattice: Lattice) -> EnnEnergy:
    """The energy-conserving network for ``lattice``."""
    from hpc_holstein.network.models._enn_energy import EnnEnergy

    return EnnEnergy(options, lattice)
