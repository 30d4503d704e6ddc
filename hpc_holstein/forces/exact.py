"""Exact forces: density matrix from dense diagonalization in float64.

    H(q) = V diag(e) V^T,   rho = V diag(f) V^T,   F = -dV_cl/dq - Tr[rho dH/dq]

One diagonalization of all ``N`` sites costs ``O(N^3)`` time and ``O(N^2)`` memory on one rank: 1,600 sites take about a
second on one core.  On a decomposed domain the root gathers ``q``, solves, and scatters ``rho``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from hpc_holstein.interfaces import Domain, Ensemble, Hamiltonian
from hpc_holstein.keys import key

if TYPE_CHECKING:
    from hpc_holstein.forces._exact import ExactForces


@dataclass(frozen=True)
class Options:
    """Options of the computation."""

    deterministic: Annotated[
        bool,
        key(
            "diagonalize on one thread, so that the bits do not depend on the number of threads; a run sets it by "
            "parallel.deterministic"
        ),
    ] = False


def build(options: Options, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> ExactForces:
    """Exact diagonalization of ``hamiltonian`` on the lattice of ``domain``; collective.

    Raises SpectrumError for a filling outside (0, 1) or a negative temperature, ConfigError where the matrix does not
    fit the memory of the root.
    """
    from hpc_holstein.forces._exact import ExactForces

    return ExactForces(hamiltonian, domain, ensemble, options.deterministic)
