"""The atomic limit: sites without hopping, the baseline with no parameters that every network has to beat.

    n_i = f(e_i - mu),    e_i = H_ii(q) = -g Q_i,    F = -Tr[n dH/dq] - dV/dq

Exact for ``t = 0``; at the preset its force has a mean square error of 2e-2 to 8e-2 in the hot start and 4e-4 in the
ordered state.  Canonical ensembles conserve the electron number to round-off; at ``kT = 0`` sites that are degenerate
at ``mu`` share what is left of the electrons, and ``mu`` is the middle of the gap.  Use ``exact`` for the
Hamiltonian with hopping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_holstein.interfaces import Domain, Ensemble, Hamiltonian

if TYPE_CHECKING:
    from hpc_holstein.forces._atomic import AtomicForces


@dataclass(frozen=True)
class Options:
    """The atomic limit has no options."""


def build(options: Options, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> AtomicForces:
    """The atomic limit of ``hamiltonian``."""
    from hpc_holstein.forces._atomic import AtomicForces

    return AtomicForces(hamiltonian, domain, ensemble)
