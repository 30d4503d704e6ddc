"""Forces by a Chebyshev expansion of the Fermi operator (KPM): cost linear in the number of sites, on any number of ranks.

    rho = f(H - mu) = sum_m c_m(mu) T_m((H - a) / b),    n_i = sum_k z_k[i] (rho z_k)[i],    F = -Tr[rho dH/dq] - dV/dq

At ``kT > 0`` the coefficients fall exponentially, so there is no damping kernel.  The probe vectors ``z_k`` are +-1 on the
sites of one colour; how many colours the ``tolerance`` asks for is read off the columns of ``rho`` at a few sites.  In the
canonical ensemble one sweep evaluates ``rho`` at several ``mu`` about the last one and records the trace of every ``T_m``,
from which ``mu`` follows.  ``auto`` knows below which size ``exact`` costs less.
Source: arXiv cond-mat/0504627, arXiv 1711.10570.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from hpc_holstein.interfaces import Domain, Ensemble, Hamiltonian
from hpc_holstein.keys import key

if TYPE_CHECKING:
    from hpc_holstein.forces._kpm import KPMForces


@dataclass(frozen=True)
class Options:
    """Accuracy, and probe vectors."""

    tolerance: Annotated[
        float,
        key(
            "largest error of the force against exact diagonalization [t_nn/a]; in float32 it is at least 1e-4",
            "tol",
            "accuracy",
            "error",
        ),
    ] = 1e-6
    probing: Annotated[
        Literal["colours", "random"],
        key("colours: deterministic, meets the tolerance; random: signs on all sites, with an error bar instead"),
    ] = "colours"
    vectors: Annotated[int, key("number of random vectors", "random_vectors", "n_vectors", "num_vectors")] = 64
    sites: Annotated[
        int, key("0: all; N: only N sites of the lattice, each from a vector of its own, at a known chemical potential")
    ] = 0
    seed: Annotated[int, key("of the signs, and of the sites that are chosen", "random_seed", "rng_seed")] = 0
    block: Annotated[
        int, key("vectors held at once, which bounds the memory; 0 chooses what is fast", "block_size", "batch")
    ] = 0


def build(options: Options, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> KPMForces:
    """KPM forces of ``hamiltonian`` on the lattice of ``domain``.

    Raises :class:`SpectrumError` for kT = 0 or a filling outside (0, 1), :class:`ConfigError` for options out of range.
    """
    from hpc_holstein.forces._kpm import KPMForces

    return KPMForces(options, hamiltonian, domain, ensemble)
