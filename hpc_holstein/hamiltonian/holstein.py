"""Spinless Holstein model: electrons on a lattice, one classical coordinate on each site.

    H(q) = -t sum_<ij> (c_i^+ c_j + h.c.) - g sum_i n_i Q_i
    V(q) = sum_i (g Q_i / 2 + k Q_i^2 / 2) + kappa sum_<ij> Q_i Q_j

so that ``F_i = g (n_i - 1/2) - k Q_i - kappa sum_{j in nn(i)} Q_j``.  Source: arXiv 2601.04104.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hpc_holstein import fields
from hpc_holstein.errors import ConfigError
from hpc_holstein.hamiltonian._base import LatticeHamiltonian, displaced, ends, joined
from hpc_holstein.interfaces import Domain, Lattice
from hpc_holstein.keys import key

if TYPE_CHECKING:
    from torch import Tensor

_Parameter = Annotated[float, Field(ge=-1e6, le=1e6)]  # far beyond any material, and squares stay finite


@dataclass(frozen=True)
class Options:
    """Parameters, in units of the nearest-neighbour hopping ``t_nn = 1`` and the lattice constant ``a``."""

    t: Annotated[_Parameter, key("hopping between nearest neighbours [t_nn]", "hopping", "t_nn", "tnn", "t1")] = 1.0
    g: Annotated[_Parameter, key("electron-lattice coupling [t_nn/a]", "coupling", "electron_phonon_coupling", "g_ep")] = 3.5
    k: Annotated[_Parameter, key("stiffness of a site [t_nn/a^2]", "stiffness", "spring_constant", "force_constant")] = 1.0
    kappa: Annotated[_Parameter, key("elastic coupling of nearest neighbours [t_nn/a^2]", "elastic_coupling")] = 0.18


class Holstein(LatticeHamiltonian):
    """The Holstein model on any lattice with nearest-neighbour bonds; its forces are written out."""

    name = "holstein"
    coordinates = fields.Field("q", "a", "lattice coordinate")
    elastic, hops_by = ("k", "kappa"), "t"
    tells_density = True

    def __init__(self, lattice: Lattice, options: Options) -> None:
        if options.g == 0:
            raise ConfigError(
                "g = 0 decouples electrons and lattice, so the shifted field Q + mu/g does not exist: give g != 0"
            )
        self.options = options
        self._bonds = lattice.bonds(1)
        super().__init__(lattice, 1, self._bonds)

    def matrix(self, ghosted_q: Tensor, halo: int) -> Tensor:
        """``-g Q`` on site, ``-t`` on bonds, ``[*batch, *cells, len(pattern)]``."""
        on_site = -self.options.g * self.owned(ghosted_q, halo)[..., 0]
        hopping = on_site.new_full((*on_site.shape[:-1], len(self._bonds)), -self.options.t)
        return joined(on_site, hopping)

    def electronic_force(self, ghosted_q: Tensor, halo: int, rho: Tensor, domain: Domain) -> Tensor:
        """``-Tr[rho dH/dq] = g n_i``."""
        return self.options.g * rho[..., : ghosted_q.shape[-2]].unsqueeze(-1)

    def density(self, electronic_force: Tensor) -> Tensor:
        """Density that belongs to an electronic force: the inverse of :meth:`electronic_force`."""
        return (electronic_force / self.options.g)[..., 0]

    def energy(self, ghosted_q: Tensor, halo: int) -> Tensor:
        """``g Q / 2 + k Q^2 / 2`` of the sites and ``kappa Q Q'`` of the bonds of each cell, ``[*batch, *cells]``."""
        return super().energy(ghosted_q, halo) + 0.5 * self.options.g * self.owned(ghosted_q, halo).sum(dim=(-2, -1))

    def classical_force(self, ghosted_q: Tensor, halo: int, domain: Domain) -> Tensor:
        """``-g/2 - k Q_i - kappa sum_{j in nn(i)} Q_j``."""
        force = -0.5 * self.options.g - self.options.k * self.owned(ghosted_q, halo)
        for bond in self._bonds:
            back = tuple(-step for step in bond.offset)
            force[..., bond.source, :] -= self.options.kappa * ends(ghosted_q, halo, bond)[1]
            force[..., bond.target, :] -= self.options.kappa * displaced(ghosted_q, halo, back)[..., bond.source, :]
        return force


def build(options: Options, lattice: Lattice) -> Holstein:
    """The Holstein model with ``options`` on ``lattice``."""
    return Holstein(lattice, options)
