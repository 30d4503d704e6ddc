"""Network of any Hamiltonian: it reads the entries of ``H`` on sites and directed pairs and writes those of ``rho``.

In units of the hopping, with ``h_ij = H_ij/t``, ``mu`` taken from the sites,

    n_i    = sum_l a_il f(e_il / w_il),  e_il = h_ii - mu/t + de_il,    a_il > 0,  sum_l a_il = 1,    w_l = kT/t + |b_l|,
    rho_ij = (c_ij + c_ji) / 2   for the pairs of the nearest ``outputs`` shells and the orbitals of a site,

where weights ``a``, shifts ``de`` and coefficients ``c`` come from group convolutions over the symmetry of the lattice and, if
bonds of nearest neighbours join two sublattices, the exchange of particles and holes.  On entries of ``H`` within a sublattice
that acts with a sign (:mod:`hpc_holstein.network.elements`), so that it is exact for the map from ``H`` to ``rho`` even if the
Hamiltonian itself breaks it.

Of several ``orbitals`` on a site, ``i`` and ``j`` are states, and the point group gives matrix elements signs.  What makes a
model, its coordinates, springs and couplings, stays in its ``matrix(q)``: the force is the vector-Jacobian product
``-dV/dq - Tr[rho dH/dq]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from hpc_holstein.interfaces import Lattice
from hpc_holstein.keys import key
from hpc_holstein.network.models._level_options import NetworkOptions

if TYPE_CHECKING:
    from hpc_holstein.network.models._enn_matrix import EnnMatrix


@dataclass(frozen=True)
class Options(NetworkOptions):
    """Shape of the network; energies, ``kT`` among them, are in units of the hopping."""

    in_hopping: ClassVar[bool] = True

    radii: Annotated[
        tuple[int, ...],
        key("stencil radius of each layer [a], the first one lifts; what a site sees is their sum", "radius", "kernel_size"),
    ] = (2, 1, 1, 1)
    orbitals: Annotated[
        str,
        key("states of a site: s for one, e_g for two; default: those of the Hamiltonian", "orbital_kind", "orbital_symmetry"),
    ] = "s"
    shells: Annotated[int, key("shells of neighbours whose matrix elements are read", "n_shells", "neighbour_shells")] = 2
    outputs: Annotated[int, key("shells of neighbours whose matrix elements of rho are written", "output_shells")] = 1
    pair_scales: Annotated[
        tuple[float, ...],
        key(
            "H_ij/t, of nearest neighbours plus 1, of pairs enters as tanh(x / s) for these s", "bond_scales", "scales_of_pairs"
        ),
    ] = (0.3, 1.0)
    largest_width: Annotated[
        float, key("largest width b_l of the levels that a training starts from, the others evenly below", "width_of_levels")
    ] = 0.4


def build(options: Options, lattice: Lattice) -> EnnMatrix:
    """The network for ``lattice``."""
    from hpc_holstein.network.models._enn_matrix import EnnMatrix

    return EnnMatrix(options, lattice)
