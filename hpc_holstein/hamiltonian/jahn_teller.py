"""Cooperative Jahn-Teller model: two e_g orbitals and two distortions of its surroundings on each site of a square lattice.

    H(Q) = -sum_<ij> sum_ab t^ab_ij (c_ia^+ c_jb + h.c.) - lam sum_i c_i^+ (Qx_i tau_x + Qz_i tau_z) c_i
    V(Q) = sum_i k |Q_i|^2 / 2 + kappa sum_<ij> Q_i.Q_j

with the orbitals ``(x^2 - y^2, 3z^2 - r^2)``, the Pauli matrices ``tau`` between them, and the overlaps of Slater and Koster
along the bonds,

    t_x = t/4 [[3, -sqrt 3], [-sqrt 3, 1]],    t_y = t/4 [[3, sqrt 3], [sqrt 3, 1]],

so that ``F_x = 2 lam rho_01 - k Qx - kappa sum_nn Qx`` and ``F_z = lam (rho_00 - rho_11) - k Qz - kappa sum_nn Qz``.  Under the
point group of the plane ``Qz`` stays and ``Qx`` turns as ``x^2 - y^2``, and the orbitals with them.  Electrons are spinless, as
those of a ferromagnetic manganite; filling 0.5 is one on each site.  Source: arXiv 2405.14776.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import sqrt
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hpc_holstein import fields
from hpc_holstein.errors import ConfigError
from hpc_holstein.hamiltonian._base import LatticeHamiltonian, joined
from hpc_holstein.interfaces import Bond, Lattice
from hpc_holstein.keys import key

if TYPE_CHECKING:
    from torch import Tensor

_Parameter = Annotated[float, Field(ge=-1e6, le=1e6)]  # far beyond any material, and squares stay finite
_OVERLAPS = (3 / 4, sqrt(3) / 4, 1 / 4)  # of x2-y2 with itself, of the two, of 3z2-r2 with itself; the second -+ along x and y


@dataclass(frozen=True)
class Options:
    """Parameters; ``t``, the overlap of two ``3z^2 - r^2`` orbitals along z, is the unit of energy."""

    t: Annotated[_Parameter, key("hopping [t_nn]", "hopping", "t_nn", "t0", "t1")] = 1.0
    lam: Annotated[_Parameter, key("coupling of orbitals and distortions [t_nn/a]", "g", "coupling", "lambda", "g_jt")] = 1.5
    k: Annotated[_Parameter, key("stiffness of a site [t_nn/a^2]", "stiffness", "spring_constant", "force_constant")] = 1.0
    kappa: Annotated[_Parameter, key("elastic coupling of nearest neighbours [t_nn/a^2]", "elastic_coupling")] = 0.1


class JahnTeller(LatticeHamiltonian):
    """The Jahn-Teller model on the square lattice; coordinates are ``(Qx, Qz)``."""

    name = "jahn_teller"
    coordinates = fields.Field("Q", "a", "distortions Qx and Qz", "e_g")
    elastic, hops_by = ("k", "kappa"), "t"

    def __init__(self, lattice: Lattice, options: Options) -> None:
        if options.lam == 0:
            raise ConfigError("lam = 0 decouples electrons and lattice: give lam != 0")
        if lattice.name != "square":
            raise ConfigError(
                f"lattice.kind = '{lattice.name}' has no overlaps of e_g orbitals here, which are those of the square lattice: "
                "set lattice.kind = 'square'"
            )
        self.options, here = options, (0,) * len(lattice.extent)
        self._hopping: list[float] = []
        bonds = [Bond(0, 1, here)]
        for bond, a, b in product(lattice.bonds(1), range(2), range(2)):
            sign = -1 if a != b and bond.offset[-1] else 1  # along x
            self._hopping.append(-options.t * sign * _OVERLAPS[a + b])
            bonds.append(Bond(a, b, bond.offset))
        super().__init__(lattice, 2, bonds, "e_g")

    def matrix(self, ghosted_q: Tensor, halo: int) -> Tensor:
        """``-+lam Qz`` of the two orbitals, ``-lam Qx`` between them, the overlaps on bonds, ``[*batch, *cells, 11]``."""
        q = self.owned(ghosted_q, halo)[..., 0, :]
        x, z = q[..., :1], q[..., 1:]
        hopping = q.new_tensor(self._hopping).expand(*q.shape[:-1], -1)
        return joined(-self.options.lam * z, self.options.lam * z, -self.options.lam * x, hopping)


def build(options: Options, lattice: Lattice) -> JahnTeller:
    """The Jahn-Teller model with ``options`` on ``lattice``."""
    return JahnTeller(lattice, options)
