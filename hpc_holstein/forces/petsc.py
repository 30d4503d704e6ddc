"""Forces by PETSc: the Fermi operator as a sum over poles, each one a sparse linear system.

    f(H - mu) = c + sum_p Re[w_p (H - z_p)^-1],     (H - x - iy)(u + iv) = b   <=>   | H - x    y   | |u|   |b|
                                                                                    |  -y    H - x | |v| = |0|

It judges: nothing is shared with ``kpm`` but the Hamiltonian, so that each checks the other.  Each site is a right-hand side
of its own, so it is for a sample of the sites of a large lattice, or all of up to 2,048.  Every rank holds the whole matrix and
takes some of the poles: it iterates (GMRES, incomplete LU), or factorizes (nested dissection) small lattices and where the
iteration is slow, as in a metal.  For forces of a large lattice use ``kpm`` instead.
Options of PETSc are taken from ``petsc = "-ksp_type bcgs -ksp_monitor"``, or with the prefix ``holstein_`` from the
environment, ``PETSC_OPTIONS="-holstein_ksp_type bcgs"``; of a configuration only those of the solver that name no file
(:mod:`hpc_holstein.forces._petsc_options`), of ``.petscrc`` none.  Installed by ``pip install 'hpc_holstein[petsc]'``; a build
with real numbers, as is usual, is what it takes.  Source: Lin, Lu, Ying, E, Commun. Math. Sci. 7, 755 (2009).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from hpc_holstein.interfaces import Domain, Ensemble, Hamiltonian
from hpc_holstein.keys import key

if TYPE_CHECKING:
    from hpc_holstein.domain.halo import CartesianDomain
    from hpc_holstein.forces._petsc import PETScForces


@dataclass(frozen=True)
class Options:
    """Accuracy, sites, and solvers of PETSc."""

    tolerance: Annotated[
        float, key("largest error of the force against exact diagonalization [t_nn/a]", "tol", "accuracy", "error")
    ] = 1e-6
    sites: Annotated[
        int,
        key("number of sampled sites at which the force is computed, NaN at the others; 0: all, up to 2,048"),
    ] = 0
    seed: Annotated[int, key("of the choice of these sites", "random_seed", "rng_seed")] = 0
    petsc: Annotated[
        str, key('options of PETSc, such as "-ksp_type bcgs -ksp_monitor -pc_type bjacobi"', "options", "petsc_options")
    ] = ""


def build(options: Options, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> PETScForces:
    """PETSc forces of ``hamiltonian`` on the lattice of ``domain``; collective.

    Raises :class:`SpectrumError` for kT = 0 or a filling outside (0, 1), :class:`ConfigError` for options out of range or
    where there is no PETSc of real double precision.
    """
    from hpc_holstein.forces._petsc import PETScForces

    return PETScForces(options, hamiltonian, cast("CartesianDomain", domain), ensemble)
