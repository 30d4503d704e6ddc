"""Divide and conquer: the density at a site from the exact diagonalization of its neighbourhood, at the global ``mu``.

    H_c = H on the (2R+1) x (2R+1) cells around site c, bonds that leave them cut,    H_c psi_k = e_k psi_k
    rho_ij(mu) = sum_k psi_k(i) psi_k(j) f(e_k - mu),        F = -Tr[rho dH/dq] - dV/dq

The cost is linear in the sites.  ``e_k`` and ``|psi_k(c)|^2`` do not depend on ``mu``, so every cluster is diagonalized once
and the ``mu`` of a canonical ensemble follows to round-off from sums; in a gap it is where electrons balance holes.  It is the
best that a force field that sees ``R`` cells of the shifted field can do, up to what it could guess about the rest: the floor
that networks are compared with.
Mean square force error at the preset, hot: 9e-5 at R = 2, 4e-7 at R = 3, and far less in the ordered state.

``core`` = b > 1 diagonalizes one cluster for a block of b x b cells with ``R`` more cells around it: several times cheaper and
no less accurate, since every site has at least its own neighbourhood; but the blocks are a choice of origin, and lattice
symmetries then hold up to the truncation error only.  Use it to label, and ``core = 1`` for the floor and for dynamics.

``embedding`` = E puts the window of a cluster into E more cells of the undistorted lattice (``q = 0``) on each side, so that
its edges are farther away: the mean square error of the Peierls model is several times smaller at the same ``reach``.

``sites`` = N diagonalizes for a sample of N sites only, at a chemical potential that it is given.

Bond orders ``rho_ij``, for Hamiltonians whose bonds move with the coordinates, are the mean of those of the clusters of both
ends.  Use ``exact`` if no truncation is wanted.  Source: W. Yang, Phys. Rev. Lett. 66, 1438 (1991).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from hpc_holstein.interfaces import Domain, Ensemble, Hamiltonian
from hpc_holstein.keys import key

if TYPE_CHECKING:
    from hpc_holstein.forces._local import LocalForces


@dataclass(frozen=True)
class Options:
    """Size of the clusters, and which sites."""

    reach: Annotated[
        int, key("R, cells around a site that are diagonalized with it at least", "radius", "cutoff", "range", "cluster_radius")
    ] = 3
    core: Annotated[
        int,
        key("cells along each axis of the block that shares a cluster; about 4 is cheapest, 1 keeps the symmetries exact"),
    ] = 1
    embedding: Annotated[
        int,
        key(
            "cells of undistorted lattice (all coordinates zero) around the window of a cluster, where edges would reflect; "
            "0: open edges",
            "embed",
            "buffer",
        ),
    ] = 0
    sites: Annotated[int, key("number of sampled sites at which the force is computed, NaN at the others; 0: all")] = 0
    seed: Annotated[int, key("of the choice of these sites", "random_seed", "rng_seed")] = 0


def build(options: Options, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> LocalForces:
    """Divide and conquer for ``hamiltonian``; collective.

    Raises ConfigError for clusters without sites or whose levels do not fit the memory, SpectrumError for a filling
    outside (0, 1) or a negative temperature, DomainError for tiles thinner than ``reach + core - 1``.
    """
    from hpc_holstein.forces._local import LocalForces

    return LocalForces(options, hamiltonian, domain, ensemble)
