"""Entries of ``rho`` from shifted linear systems at the poles of the Fermi function, in either ensemble.

    rho_ij = c delta_ij + sum_p Re[w_p(mu) G_ij(z_p)],      (H - z_p) G(z_p) e_j = e_j

The weights alone depend on ``mu``: the traces of the resolvents ``G`` tell the electron number in a window of chemical
potentials, and with it the ``mu`` of a canonical ensemble, from the same solutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from hpc_holstein.domain.transport import Transport
from hpc_holstein.errors import SpectrumError
from hpc_holstein.forces._columns import Columns, Complex, LinearSystem, Rows, assemble
from hpc_holstein.forces._elements import force_scale
from hpc_holstein.forces._filling import RESOLVED, potential_uncertainty
from hpc_holstein.forces._first_guess import LocalSpectra
from hpc_holstein.forces._poles import PoleExpansion, Weights
from hpc_holstein.forces._sampled import read_for
from hpc_holstein.forces._state_by_state import Solution
from hpc_holstein.interfaces import Domain, Ensemble, Hamiltonian

_TRUNCATION = 0.02  # of the tolerance, for the poles
_OF_FILLING = 1e-3  # the same where mu follows from them: near a gap few sites answer for an error of the electron number
_ROUND_OFF = 3e-10  # error of the poles below which that is not asked for
_COARSE = 1e-3  # accuracy of rho that finds mu
_WINDOW = 0.3  # kT: how far from the centre of the poles mu may come to lie
_LONGEST = 3.0  # kT: first step to another centre
_CREDIBLE = 3 * math.pi  # kT: beside its uncertainty: how far from the first guess a previous mu may lie to be worth a look
_UNFELT = 0.02  # of the tolerance, in the density of any site
_ATTEMPTS = 20


@dataclass(frozen=True)
class _Problem:
    """One state: matrix, energies that enclose its spectrum, its trace, the ``spectra`` of the sites.

    ``tolerance``: of an entry of ``rho``, which makes an error ``scale`` times as large in a force.
    """

    rows: Rows
    low: float
    high: float
    trace: float
    spectra: LocalSpectra
    tolerance: float
    scale: float


@dataclass(frozen=True)
class _Sweep:
    """Solutions to a ``tolerance`` of ``rho``: ``values [poles, readings]`` on this rank of the team, ``traces [poles]``.

    ``residual``: the largest of the linear systems, and ``linear``, the error of ``rho`` that it leaves.
    """

    tolerance: float
    expansion: PoleExpansion
    values: Complex
    traces: Complex
    residual: float
    linear: float


class Resolvent:
    """``rho`` of one state after the other, on the whole lattice of a serial ``domain``.

    ``tolerance``: of a force; ``sites``: numbers of those whose force is asked for, None for all; ``team``: ranks that each
    hold the lattice and share the poles.
    """

    def __init__(
        self,
        hamiltonian: Hamiltonian,
        domain: Domain,
        ensemble: Ensemble,
        system: LinearSystem,
        team: Transport,
        tolerance: float,
        sites: Tensor | None,
    ) -> None:
        self.hamiltonian, self.domain, self.ensemble, self.system, self.team = hamiltonian, domain, ensemble, system, team
        self.tolerance, self.sampled = tolerance, sites is not None
        wanted = torch.arange(domain.lattice.sites) if sites is None else read_for(sites, hamiltonian, domain)
        self._columns = Columns(hamiltonian, domain, system, team, wanted)
        self._filled = ensemble.kind == "canonical" and not self.sampled

    def solve(self, q: Tensor, known: float | None, previous: float | None) -> Solution:
        """One state ``[*cells, basis, components]`` in float64 at the ``known`` mu, else at that of the filling; collective.

        ``previous``: a mu near that one, if there is one.  Raises :class:`SpectrumError` where the systems are not solved or
        no mu is found.
        """
        problem = self._problem(q)
        solved, iterations = self.system.solved, self.system.iterations
        if known is not None:
            mu, sweep = known, self._accurate(problem, known)
        else:
            start = self._start(problem, previous)
            mu, sweep = self._search(problem, start, lambda centre: self._accurate(problem, centre), near=0.0)
        spent = torch.tensor([self.system.solved - solved, self.system.iterations - iterations], dtype=torch.float64)
        cost = dict(zip(("right_hand_sides", "iterations"), self.team.allsum(spent).tolist(), strict=True))
        cost |= {"poles": float(len(sweep.expansion.heights)), "linear_residual": sweep.residual}
        return self._solution(problem, sweep, mu, cost)

    def _problem(self, q: Tensor) -> _Problem:
        rows = assemble(self.hamiltonian, self.domain, q)
        scale = float(force_scale(self.hamiltonian, self.domain, q))
        spectra = LocalSpectra.of(self.hamiltonian, self.domain, q[None], self.ensemble.kT)
        return _Problem(rows, *rows.bounds(), float(spectra.levels.sum()), spectra, self.tolerance / scale, scale)

    def _start(self, problem: _Problem, previous: float | None) -> float:
        """``mu`` to about the window of the poles: the previous one, or by blunt solutions from the first guess on."""
        kT = self.ensemble.kT
        guess, uncertain = float(problem.spectra.chemical_potential(self.ensemble.filling)), problem.spectra.uncertainty()
        if previous is not None and abs(previous - guess) < _CREDIBLE * kT + uncertain:
            return previous
        blunt = max(_COARSE, problem.tolerance)
        return self._search(problem, guess, lambda centre: self._sweep(problem, centre, blunt, _TRUNCATION), _LONGEST * kT)[0]

    def _search(self, problem: _Problem, mu: float, sweep_at: Callable[[float], _Sweep], near: float) -> tuple[float, _Sweep]:
        """Poles about one ``mu`` after the other until the filling is met, or is expected to be ``near`` one of them.

        Once some lie on either side of the solution, the next ones lie between the nearest two.
        """
        low, high = (-math.inf, 0.0), (math.inf, 0.0)  # a mu, and by how much the filling is missed there
        longest = _LONGEST * self.ensemble.kT
        for attempt in range(_ATTEMPTS):
            sweep = sweep_at(mu)
            step, excess, met = self._potential(problem, sweep)
            if met or abs(step) < near:
                return mu + step, sweep
            low, high = ((mu, excess), high) if excess < 0 else (low, (mu, excess))
            width = high[0] - low[0]
            between = 0.5 if attempt % 2 else low[1] / (low[1] - high[1])
            mu = mu + max(-longest, min(step, longest)) if math.isinf(width) else low[0] + between * width
            longest *= 2
        raise SpectrumError(
            f"the chemical potential did not settle in {_ATTEMPTS} attempts (mu = {mu:.6g}): check q and the parameters of "
            "the model, or use force kind 'exact'"
        )

    def _potential(self, problem: _Problem, sweep: _Sweep) -> tuple[float, float, bool]:
        """Distance of ``mu`` from the centre of the poles, by how much that misses the filling, and if it is met.

        It is met in the window of the poles, or at their centre if no site feels the difference, as in a gap.
        """
        centre, kT = sweep.expansion.centre, self.ensemble.kT

        def excess(step: float) -> float:
            trace = self._trace(problem, sweep, sweep.expansion.fermi(centre + step))
            return trace / self.domain.lattice.sites - self.ensemble.filling

        reach = _WINDOW * kT
        below, here, above = excess(-reach), excess(0.0), excess(reach)
        if below < 0 < above:
            return float(brentq(excess, -reach, reach, xtol=1e-14, rtol=1e-15)), here, True
        if abs(here) * self._response(sweep, centre) <= _UNFELT * sweep.tolerance:
            return 0.0, here, True
        slope = (above - below) / (2 * reach)
        return (-here / slope if slope > 0 else math.copysign(math.inf, -here)), here, False

    def _trace(self, problem: _Problem, sweep: _Sweep, weights: Weights) -> float:
        """Trace of the function of ``H`` that the weights stand for."""
        resolvents = float((weights.poles * sweep.traces).real.sum())
        return weights.constant * self.domain.lattice.sites + weights.slope * problem.trace + resolvents

    def _accurate(self, problem: _Problem, mu: float) -> _Sweep:
        """Solutions that meet the tolerance."""
        truncation = max(_OF_FILLING, min(_TRUNCATION, _ROUND_OFF / problem.tolerance)) if self._filled else _TRUNCATION
        sweep = self._sweep(problem, mu, problem.tolerance, truncation)
        if sweep.linear <= problem.tolerance:
            return sweep
        raise SpectrumError(
            f"the linear systems were solved to a residual of {sweep.residual:.1e}, which leaves an error of "
            f"{problem.scale * sweep.linear:.1e} in the force: ask for less, such as petsc = '-ksp_type gmres -ksp_rtol 1e-12'"
        )

    def _sweep(self, problem: _Problem, mu: float, tolerance: float, truncation: float) -> _Sweep:
        """Solve at all poles about ``mu``."""
        half_width = max(problem.high - mu, mu - problem.low)
        error = truncation * tolerance
        expansion = PoleExpansion(mu, half_width, self.ensemble.kT, error, 0.0 if self.sampled else _WINDOW)
        blur = float((np.abs(expansion.fermi(mu).poles) / expansion.heights).sum())  # |G(z)| <= 1 / Im z
        self.system.load(problem.rows, error / blur)
        values = self._columns.solve(expansion)
        own = torch.view_as_real(torch.from_numpy(values @ self._columns.on_site.astype(float)))
        traces = torch.view_as_complex(self.team.allsum(own)).numpy()
        residual = max(self.team.allgather(self.system.residual))
        return _Sweep(tolerance, expansion, values, traces, residual, blur * residual)

    def _entries(self, sweep: _Sweep, weights: Weights) -> Tensor:
        """``rho [cells, pattern]``, zero where nothing is read."""
        values = self.team.allsum(torch.from_numpy((weights.poles @ sweep.values).real))
        pattern = len(self.hamiltonian.pattern)
        rho = torch.zeros(math.prod(self.domain.lattice.extent) * pattern, dtype=torch.float64)
        rho[self._columns.output] = values + weights.constant * torch.from_numpy(self._columns.diagonal.astype(float))
        return rho.view(-1, pattern)

    def _density(self, sweep: _Sweep, mu: float) -> Tensor:
        return self._entries(sweep, sweep.expansion.fermi(mu))[:, : len(self.domain.lattice.basis)]

    def _solution(self, problem: _Problem, sweep: _Sweep, mu: float, cost: dict[str, float]) -> Solution:
        """``rho`` at ``mu``; the mean density of a canonical ensemble, off by errors of the sites, is set to the filling."""
        weights = sweep.expansion.fermi(mu)
        rho, omega, residual = self._entries(sweep, weights), math.nan, 0.0
        error = weights.error + sweep.linear
        if not self.sampled:
            omega = self._trace(problem, sweep, sweep.expansion.grand_potential(mu))
        if self._filled:
            density = rho[:, : len(self.domain.lattice.basis)]
            excess = float(density.mean()) - self.ensemble.filling
            density -= excess
            residual = abs(excess)
            error += residual + self._response(sweep, mu) * weights.error / math.sqrt(self.domain.lattice.sites)
            cost = {**cost, "mu_uncertainty": self._uncertainty(problem, sweep)}
        return Solution(rho, mu, omega, {"error_estimate": problem.scale * error, "residual": residual, **cost})

    def _uncertainty(self, problem: _Problem, sweep: _Sweep) -> float:
        """Uncertainty of ``mu`` [t_nn], which in a gap is where the search for it ended."""
        centre, reach = sweep.expansion.centre, _WINDOW * self.ensemble.kT
        electrons = [self._trace(problem, sweep, sweep.expansion.fermi(centre + step)) for step in (-reach, reach)]
        chi = (electrons[1] - electrons[0]) / (2 * _WINDOW * self.domain.lattice.sites)
        return potential_uncertainty(chi, self.ensemble.kT, max(problem.tolerance, RESOLVED))

    def _response(self, sweep: _Sweep, mu: float) -> float:
        """Largest change of a density with ``mu`` over that of the mean density: the effect of an error of the filling."""
        reach = _WINDOW * self.ensemble.kT
        moved = self._density(sweep, mu + reach) - self._density(sweep, mu - reach)
        mean = abs(float(moved.mean()))
        return min(float(moved.abs().max()) / mean, self.domain.lattice.sites) if mean else 0.0
