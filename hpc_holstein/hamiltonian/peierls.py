"""Peierls (Su-Schrieffer-Heeger) model: a displacement on each site changes the hopping along the bonds to its neighbours.

    H(u) = -sum_<ij> (t0 - alpha (u_j - u_i).e_ij) (c_i^+ c_j + h.c.) - t2 sum_<<ij>> (c_i^+ c_j + h.c.)
    V(u) = sum_i k0 |u_i|^2 / 2 + kappa sum_<ij> u_i.u_j

with ``e_ij`` the direction of the bond from i to j, so that on the square lattice ``F_x = -k0 u_x - kappa sum_nn u_x +
2 alpha (rho_{i,i+x} - rho_{i,i-x})``.  ``t2`` joins sites of one sublattice and breaks the particle-hole symmetry; a common
displacement of all sites changes no electron.  Source: arXiv 2510.20659.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hpc_holstein import fields
from hpc_holstein.errors import ConfigError
from hpc_holstein.hamiltonian._base import LatticeHamiltonian, ends, joined
from hpc_holstein.interfaces import Bond, Lattice
from hpc_holstein.keys import key

if TYPE_CHECKING:
    from torch import Tensor


_Parameter = Annotated[float, Field(ge=-1e6, le=1e6)]  # far beyond any material, and squares stay finite


@dataclass(frozen=True)
class Options:
    """Parameters; those of arXiv 2510.20659, whose unit of energy is free, and the lattice constant ``a``."""

    t0: Annotated[_Parameter, key("hopping between nearest neighbours", "hopping", "t_nn", "t", "t1")] = 2.5
    t2: Annotated[_Parameter, key("hopping between second neighbours", "t_nnn", "tnnn", "t_prime")] = 0.5
    alpha: Annotated[_Parameter, key("change of the hopping per length of a bond [1/a]", "g", "coupling", "ssh_coupling")] = 4.0
    k0: Annotated[_Parameter, key("stiffness of a site [1/a^2]", "k", "stiffness", "spring_constant", "force_constant")] = 30.0
    kappa: Annotated[_Parameter, key("elastic coupling of nearest neighbours [1/a^2]", "elastic_coupling")] = 4.0


class Peierls(LatticeHamiltonian):
    """The Peierls model on any lattice with nearest-neighbour bonds; coordinates are Cartesian, ``(x, y, z)``."""

    name = "peierls"
    coordinates = fields.Field("q", "a", "displacement", "vector")
    elastic, hops_by = ("k0", "kappa"), "t0"

    def __init__(self, lattice: Lattice, options: Options) -> None:
        if options.alpha == 0:
            raise ConfigError("alpha = 0 decouples electrons and lattice: give alpha != 0")
        self.options = options
        self._near = lattice.bonds(1)
        self._far = lattice.bonds(2) if options.t2 else ()
        super().__init__(lattice, len(lattice.vectors), self._near + self._far)
        self._directions = [bond_direction(lattice, bond) for bond in self._near]

    def matrix(self, ghosted_q: Tensor, halo: int) -> Tensor:
        """0 on site, ``-(t0 - alpha (u_j - u_i).e_ij)`` on the bonds of nearest and ``-t2`` on those of second neighbours."""
        on_site = 0 * self.owned(ghosted_q, halo)[..., 0]
        near = []
        for bond, direction in zip(self._near, self._directions, strict=True):
            here, there = ends(ghosted_q, halo, bond)
            stretch = ((there - here) * ghosted_q.new_tensor(direction)).sum(dim=-1, keepdim=True)
            near.append(self.options.alpha * stretch - self.options.t0)
        far = on_site.new_full((*on_site.shape[:-1], len(self._far)), -self.options.t2)
        return joined(on_site, *near, far)


def bond_direction(lattice: Lattice, bond: Bond) -> list[float]:
    """Unit vector along a bond, Cartesian."""
    axes = range(len(lattice.vectors))
    cell = [sum(step * vector[axis] for step, vector in zip(bond.offset, lattice.vectors, strict=True)) for axis in axes]
    along = [r + lattice.basis[bond.target][i] - lattice.basis[bond.source][i] for i, r in enumerate(cell)]
    return [component / hypot(*along) for component in along]


def build(options: Options, lattice: Lattice) -> Peierls:
    """The Peierls model with ``options`` on ``lattice``."""
    return Peierls(lattice, options)
