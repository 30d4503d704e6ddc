"""Sums over poles with PETSc; :mod:`hpc_holstein.forces.petsc` says what it computes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from threading import Lock
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ConfigError, SpectrumError
from hpc_holstein.forces._columns import Rows
from hpc_holstein.forces._elements import electron_domain, require_finite
from hpc_holstein.forces._memory import usable_bytes
from hpc_holstein.forces._petsc_options import is_name, require_solver_options
from hpc_holstein.forces._resolvent import Resolvent
from hpc_holstein.forces._state_by_state import Solution, StateByState
from hpc_holstein.forces.petsc import Options
from hpc_holstein.interfaces import Domain, Ensemble, Hamiltonian

_PREFIX = "holstein_"
_FACTORIZE = "-ksp_type preonly -pc_type lu -pc_factor_mat_ordering_type nd"
_ITERATE = "-ksp_type gmres -ksp_pc_side right -ksp_gmres_restart 60 -pc_type ilu -pc_factor_levels 2 -ksp_max_it "
_FEW, _MANY = "60", "2000"  # iterations: 3 are enough in hot, quenched and ordered states, where levels are localized
_SMALL = 4096  # sites whose factors cost less than the iterations
_MOST = 2048  # sites of a lattice whose forces are all computed, each by a right-hand side of its own
_FACTORS = 15 * 8  # bytes of the factors for each of N log2 N sites of a plane lattice, measured
_MATRIX = 2500  # bytes of everything else for a site
_DATABASE = Lock()  # on that of the options, which PETSc has one of: ranks may be threads
_LEAST_TOLERANCE = 1e-9
_LEAST_RESIDUAL = 1e-13


class PETScForces(StateByState):
    """Adiabatic forces by PETSc; implements :class:`interfaces.ForceProvider`, batches included (state by state).

    The result is a function of ``q`` and, below the tolerance, of ``state.forces.chemical_potential`` and the ranks.
    ``info``, each the largest of the batch: ``error_estimate`` of max |dF|, ``poles``, ``right_hand_sides`` at all poles and
    ``iterations`` together, ``linear_residual``, and ``residual``, of the filling before it was corrected.
    Raises :class:`SpectrumError` where ``q`` holds NaN, where no ``mu`` is found, or where a solver does not converge.
    """

    reach = None

    def __init__(self, options: Options, hamiltonian: Hamiltonian, domain: CartesianDomain, ensemble: Ensemble) -> None:
        super().__init__(hamiltonian, domain, ensemble, options.sites, options.seed)
        _check(options, ensemble)
        domain.require_halo(hamiltonian.reach)
        self.tolerance, self._transport, lattice = options.tolerance, domain.transport, self.domain.lattice
        _require_size(self.domain, self._chosen is not None)
        plane = len(lattice.extent) <= 2 and _hold(domain, _FACTORS * lattice.sites * math.log2(max(lattice.sites, 2)))
        system = BlockSystem(options.petsc, _alone(lattice.sites, plane))
        whole = electron_domain(hamiltonian, CartesianDomain(domain.lattice, SerialTransport()))
        self._resolvent = Resolvent(hamiltonian, whole, ensemble, system, domain.transport, options.tolerance, self._chosen)

    def _refuse(self, q: Tensor, step: int) -> None:
        require_finite(q, step, self.domain)

    def _solve(self, q: Tensor, known: float | None, previous: float | None) -> Solution:
        everywhere = self._transport.bcast(self.domain.gather(q.double()))
        solution = self._resolvent.solve(cast(Tensor, everywhere).cpu(), known, previous)
        tile = tuple(slice(start, stop) for start, stop in self.domain.owned)
        rho = solution.rho.view(*self.domain.lattice.extent, -1)[tile]
        return replace(solution, rho=rho.flatten(0, -2))


class BlockSystem:
    """:class:`_columns.LinearSystem` by PETSc in this process: real and imaginary part of a site as a block of two rows.

    ``options`` that were given override ``defaults``; of these, the next ones are tried where a solver gives up.
    """

    def __init__(self, options: str, defaults: Sequence[str]) -> None:
        self._PETSc = _petsc()
        self._defaults, self._given = list(defaults), options
        self._matrix: Any = None
        self._tuned = False
        self.solved, self.iterations, self.residual = 0, 0, 0.0

    def load(self, rows: Rows, residual: float) -> None:
        """Take the matrix, whose pattern must stay the same, and the relative residual that is asked for."""
        if self._matrix is None:
            with self._explained():
                self._create(rows)
        self._rows, self._wanted = rows, max(residual, _LEAST_RESIDUAL)
        self._tuned, self.residual = False, 0.0

    def _create(self, rows: Rows) -> None:
        PETSc = self._PETSc
        own = 2 * len(rows.diagonal)
        self._matrix = PETSc.Mat().create(PETSc.COMM_SELF)
        self._matrix.setSizes(((own, own), (own, own)), bsize=2)
        self._matrix.setOptionsPrefix(_PREFIX)
        self._matrix.setType(PETSc.Mat.Type.BAIJ)
        self._starts, self._blocks = rows.starts.astype(PETSc.IntType), rows.columns.astype(PETSc.IntType)
        self._create_solver()

    def _create_solver(self) -> None:
        self._solver = self._PETSc.KSP().create(self._PETSc.COMM_SELF)
        self._solver.setOptionsPrefix(_PREFIX)
        self._solver.setOperators(self._matrix)
        self._tuned = False

    def shift(self, z: complex) -> None:
        """Fill in ``H - z`` and make the preconditioner."""
        rows, self._z = self._rows, z
        values = rows.values[:, None, None] * np.eye(2)
        values[rows.diagonal] += [[-z.real, z.imag], [-z.imag, -z.real]]
        with self._explained():
            if self._tuned:
                self._fill(values)
            else:
                with _DATABASE, self._options():
                    self._tune(values)
        self._tuned = True

    def _fill(self, values: NDArray[np.float64]) -> None:
        self._matrix.setValuesBlockedCSR(self._starts, self._blocks, values)
        self._matrix.assemble()
        self._solver.setOperators(self._matrix)
        self._solver.setUp()
        self._solver.setUpOnBlocks()

    def _tune(self, values: NDArray[np.float64]) -> None:
        """The same with what the options say, which are read here and when the preconditioner is first made."""
        self._matrix.setFromOptions()
        self._matrix.setUp()
        self._solver.setTolerances(rtol=self._wanted)
        self._solver.setFromOptions()
        self._fill(values)
        self._x, self._b = self._matrix.createVecs()
        self._rest = self._b.duplicate()

    def solve(self, b: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Solution at all sites; raises :class:`SpectrumError` where the solver gives up."""
        with self._b as right:
            right[0::2], right[1::2] = b, 0.0
        with self._explained():
            self._solver.solve(self._b, self._x)
            self._matrix.mult(self._x, self._rest)
            self._rest.axpy(-1.0, self._b)
            residual = self._rest.norm() / self._b.norm()
        reason, steps = self._solver.getConvergedReason(), self._solver.getIterationNumber()
        self.iterations += steps
        if reason < 0 or not math.isfinite(residual):
            if len(self._defaults) > 1:
                self._defaults.pop(0)
                self._create_solver()
                self.shift(self._z)
                return self.solve(b)
            raise SpectrumError(
                f"PETSc gave up on a linear system ({self._reason(reason)} after {steps} iterations, residual {residual:.1e}): "
                "give other options, such as petsc = '-ksp_max_it 10000 -pc_factor_levels 4', or none"
            )
        self.solved, self.residual = self.solved + 1, max(self.residual, residual)
        return self._x.getArray().copy().view(np.complex128)

    def _reason(self, reason: int) -> str:
        names = vars(self._PETSc.KSP.ConvergedReason)
        return next((name for name, value in names.items() if value == reason and name.startswith("DIVERGED")), str(reason))

    @contextmanager
    def _options(self) -> Iterator[None]:
        """The options of this solver in the database of PETSc: defaults, then the environment, then those that were given."""
        database = self._PETSc.Options()
        before = database.getAll()
        names = [_PREFIX + word[1:] for text in (self._defaults[0], self._given) for word in text.split() if is_name(word)]
        database.prefixPush(_PREFIX)
        database.insertString(self._defaults[0])
        database.prefixPop()
        for name, value in before.items():
            database.setValue(name, value)
        database.prefixPush(_PREFIX)
        database.insertString(self._given)
        database.prefixPop()
        try:
            yield
            self._require_used(database)
        finally:
            for name in names:
                database.delValue(name)
            for name, value in before.items():
                database.setValue(name, value)

    def _require_used(self, database: Any) -> None:
        unused = [word for word in self._given.split() if is_name(word) and not database.used(_PREFIX + word[1:])]
        if unused:
            raise ConfigError(
                f"petsc option '{unused[0]}' means nothing to the solver: check its spelling, or give it in the environment "
                "variable PETSC_OPTIONS if it is one of PETSc as a whole"
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an error of PETSc into one sentence."""
        try:
            yield
        except self._PETSc.Error as error:
            told = " ".join(str(error).splitlines()[-2:])
            raise ConfigError(
                f"PETSc refuses to solve with petsc = '{self._given}' ({told}): give other options, or none"
            ) from None


def _check(options: Options, ensemble: Ensemble) -> None:
    if ensemble.kT == 0:
        raise SpectrumError(
            "kT = 0 makes the Fermi function a step, which no number of poles represents: give kT > 0, "
            "or use force kind 'exact'"
        )
    if not _LEAST_TOLERANCE <= options.tolerance < 1:
        raise ConfigError(
            f"tolerance = {options.tolerance} is not a force error that poles in double precision reach: "
            f"give a number from {_LEAST_TOLERANCE:g} to 1, such as 1e-6"
        )
    require_solver_options(options.petsc)


@cache
def _petsc() -> Any:
    """The PETSc module; starts PETSc, after MPI and the BLAS of the Makefile, which a cached build seeks where it was made."""
    try:
        with suppress(ImportError):
            import scipy_openblas32  # noqa: F401
        import mpi4py.MPI  # noqa: F401
        import petsc4py

        # Signals are for checkpoints; a file in the folder where a run starts decides nothing.
        petsc4py.init(["hpc_holstein", "-no_signal_handler", "-skip_petscrc"])
        from petsc4py import PETSc
    except ImportError as error:
        raise ConfigError(
            f"force kind 'petsc' needs petsc4py, which cannot be imported ({error}): pip install 'hpc_holstein[petsc]' with a "
            "C compiler, a BLAS library and MPICC set to the compiler of the MPI in use, or use another force kind"
        ) from None
    if PETSc.ScalarType != np.float64:
        raise ConfigError(
            f"this PETSc computes with {np.dtype(PETSc.ScalarType).name}: install one of real double precision "
            "(configured with --with-scalar-type=real --with-precision=double), or use another force kind"
        )
    return PETSc


def _require_size(domain: Domain, sampled: bool) -> None:
    """Raise ConfigError, on all ranks, for more sites than are computed, or than the matrix of each rank has memory for."""
    sites = domain.lattice.sites
    if not sampled and sites > _MOST:
        raise ConfigError(
            f"PETSc computes the forces of up to {_MOST} states and this lattice has {sites}: give sites = 64, or another "
            "number of sampled sites, or use force kind 'kpm'"
        )
    if not _hold(domain, _MATRIX * sites):
        raise ConfigError(
            f"each rank holds the matrix of all {sites} states, {_MATRIX * sites / 2**30:.3g} GiB, and there is too little "
            "memory for that: start fewer ranks on a host, or use force kind 'kpm'"
        )


def _hold(domain: Domain, needed: float) -> bool:
    """True if each rank can hold ``needed`` bytes, though all may share a host; the same answer on all of them."""
    short = domain.size * needed > 0.5 * usable_bytes(torch.device("cpu"))
    return float(domain.allsum(torch.tensor(float(short), dtype=torch.float64))) == 0


def _alone(sites: int, factorize: bool) -> tuple[str, ...]:
    """Options of a rank that solves by itself; factors are sparse on chains and plane lattices."""
    if not factorize:
        return (_ITERATE + _MANY,)
    return (_FACTORIZE,) if sites <= _SMALL else (_ITERATE + _FEW, _FACTORIZE)
