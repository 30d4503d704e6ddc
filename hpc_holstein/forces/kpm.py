"""Forces by a Chebyshev expansion of the Fermi operator (KPM): cost linear in the number of sites, on any number of ranks.

    rho = f(H - mu) = sum_m c_m(mu) T_m((H - a) / b),    n_i = sum_k z_k[i] (rho z_k)[i],    F = -Tr[rho dH/dq] - dV/dq

At ``kT > 0`` the coefficients fall exponentially, so there is no damping kernel.  The probe vectors ``z_k`` are +-1 on the
sites of one colour; how many colours the ``tolerance`` asks for is read off the columns of ``rho`` at a few sites.  In the
canonical ensemble one sweep evaluates ``rho`` at several ``mu`` about the last one and records the trace of every ``T_m``,
from which ``mu`` follows.  Use ``exact`` below some 3,000 sites.  Source: arXiv cond-mat/0504627, arXiv 1711.10570.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hpc_holstein.errors import ConfigError, SpectrumError
from hpc_holstein.forces import _probing
from hpc_holstein.forces._canonical import atomic_limit, on_site_energies, require_filling, site_mean
from hpc_holstein.forces._chebyshev import DensityOfStates, Interval, PotentialNodes, fermi_order
from hpc_holstein.forces._pilot import pilot
from hpc_holstein.forces._probing import Colouring, Readings, Sites
from hpc_holstein.forces._stencil import Stencil, all_max
from hpc_holstein.forces._sweep import Problem, Swept, sweep
from hpc_holstein.interfaces import Domain, Ensemble, ForceResult, Hamiltonian, State

_TRUNCATION = 1e-3  # of the tolerance, for |f - f_M|: a single level at mu amplifies that of the electron number by all sites
_UNSEEN = 20.0  # probing errors of all sites against those of the pilot sites: 1 to 20 as a rule, seldom 100
_ATTEMPTS = 8
_SMALL = 256  # sites of a lattice on which each is a probe of its own
_FLOAT32 = 1e-4  # tolerance that single precision reaches
_COLD, _WARM = 3 * math.pi, 1.0  # kT: how far mu may lie from that of the atomic limit, and of the forces before
_NUMBERS = {"cpu": 1 << 18, "cuda": 1 << 26}  # in a block of vectors: enough to hide what one operation costs to start
_FEWEST = 8  # vectors in a block, which keeps messages few


@dataclass(frozen=True)
class Options:
    """What accuracy, and with which probe vectors.

    tolerance  max |dF| against exact diagonalization; in float32 it is at least 1e-4
    probing    ``"colours"``: deterministic, meets the tolerance; ``"random"``: signs on all sites, with an error bar instead
    vectors    number of random vectors
    seed       of the signs
    block      vectors held at once, which bounds the memory; 0 chooses what is fast
    """

    tolerance: float = 1e-6
    probing: Literal["colours", "random"] = "colours"
    vectors: int = 64
    seed: int = 0
    block: int = 0


@dataclass(frozen=True)
class _Solution:
    """One state: ``rho [cells, pattern]``, ``mu``, ``Omega`` and what they cost."""

    rho: Tensor
    chemical_potential: float
    grand_potential: float
    info: dict[str, float]


class KPMForces:
    """Adiabatic forces by KPM; implements :class:`interfaces.ForceProvider`, batches included (state by state).

    The result is a function of ``q`` and, below the tolerance, of ``state.forces.chemical_potential``; beyond round-off it does
    not depend on the ranks.  ``info``, each the largest of the batch: ``error_estimate`` of max |dF|, ``order``, ``colours``
    (vectors), ``vector_moments`` (vectors times orders, all sweeps), ``residual`` of the filling before it was corrected.
    Raises :class:`SpectrumError` where ``q`` holds NaN or kT asks for an absurd order.
    """

    reach = None

    def __init__(self, options: Options, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> None:
        _check(options, ensemble)
        domain.require_halo(hamiltonian.reach)
        self.options, self.hamiltonian, self.domain, self.ensemble = options, hamiltonian, domain, ensemble
        self.tolerance = options.tolerance if options.probing == "colours" else None
        self._entries = _probing.needed_entries(hamiltonian, domain)

    @torch.no_grad()
    def __call__(self, state: State) -> ForceResult:
        """Force, density, chemical and grand potential of ``state.q``; collective over the ranks of the domain."""
        axes = len(self.domain.local_extent) + 2
        batch = state.q.shape[: state.q.ndim - axes]
        q = state.q.reshape(-1, *state.q.shape[state.q.ndim - axes :])
        solved = [self._solve(one, mu) for one, mu in zip(q, _previous(state, len(q)), strict=True)]
        q64 = q.double()
        rho = torch.stack([one.rho for one in solved]).reshape(*q.shape[:-2], -1)
        halo = self.hamiltonian.reach
        force = self.hamiltonian.pull_back(q64, rho) + self.hamiltonian.classical(self.domain.pad(q64, halo), halo)[1]
        return ForceResult(
            force=force.to(q.dtype).reshape(state.q.shape),
            density=rho[..., : q.shape[-2]].to(q.dtype).reshape(state.q.shape[:-1]),
            chemical_potential=q64.new_tensor([one.chemical_potential for one in solved]).reshape(batch),
            grand_potential=q64.new_tensor([one.grand_potential for one in solved]).reshape(batch),
            info={key: max(one.info[key] for one in solved) for key in solved[0].info},
        )

    def _solve(self, q: Tensor, previous: float | None) -> _Solution:
        """One state ``[*cells, basis, components]``."""
        problem = self._problem(q)
        if self.options.probing == "random":
            return self._solve_random(problem)
        return self._solve_coloured(problem, q, self._first_nodes(problem, q, previous))

    def _problem(self, q: Tensor) -> Problem:
        """Operator, expansion and accuracy of one state."""
        stencil = Stencil(self.hamiltonian, self.domain, q)
        interval = Interval.enclosing(*stencil.bounds())
        ones = torch.ones(*q.shape[:-2], len(self.hamiltonian.pattern), dtype=torch.float64, device=q.device)
        scale = float(all_max(self.hamiltonian.pull_back(q.double(), ones).abs().amax().cpu(), self.domain))
        tolerance = max(self.options.tolerance, _FLOAT32 if q.dtype == torch.float32 else 0.0) / scale
        bonds = [(entry, self.hamiltonian.pattern[entry]) for entry in self._entries]
        return Problem(
            stencil=stencil,
            interval=interval,
            kT=self.ensemble.kT,
            terms=fermi_order(interval, self.ensemble.kT, _TRUNCATION * tolerance),
            tolerance=tolerance,
            error=_TRUNCATION * tolerance,
            scale=scale,
            dtype=q.dtype,
            sites=Sites.of(self.domain, stencil.owned_cells()),
            shifts=[(k, b.source, stencil.shift(b) * stencil.basis + b.target - b.source) for k, b in bonds],
            block=self.options.block or _block(self.domain, self.hamiltonian.reach),
        )

    def _first_nodes(self, problem: Problem, q: Tensor, previous: float | None) -> PotentialNodes:
        """Chemical potentials of the first sweep."""
        kT = self.ensemble.kT
        if self.ensemble.kind == "grand-canonical":
            return PotentialNodes.around(self.ensemble.chemical_potential, 0.0, kT, problem.error)
        if previous is not None:
            return PotentialNodes.around(previous, _WARM * kT, kT, problem.error)
        guess = atomic_limit(q[None], self.hamiltonian, self.domain, self.ensemble.filling, kT).chemical_potential
        return PotentialNodes.around(float(guess), _COLD * kT, kT, problem.error)

    def _solve_coloured(self, problem: Problem, q: Tensor, nodes: PotentialNodes) -> _Solution:
        """Sweep until ``mu`` lies among the nodes and the pilot sites are right, which the first sweep does as a rule."""
        energies = on_site_energies(q[None].double(), self.hamiltonian)[0].reshape(-1)
        tolerance, cost = problem.tolerance, 0.0
        for _ in range(_ATTEMPTS):
            look = None if self.domain.lattice.sites <= _SMALL else pilot(problem, energies, nodes)
            colouring = Colouring.complete(self.domain.lattice.extent) if look is None else look.choose(tolerance)
            readings = self._readings(problem, colouring)
            swept = sweep(problem, readings, problem.fermi(nodes.values))
            cost += problem.terms * (readings.vectors + (0 if look is None else look.readings.vectors))
            states, mu = self._filled(problem, swept, readings.vectors)
            if self.ensemble.kind == "canonical" and not nodes.hold(mu):
                nodes = PotentialNodes.around(mu, _WARM * self.ensemble.kT, self.ensemble.kT, problem.error)
                continue
            weights = torch.from_numpy(nodes.weights(mu)).to(swept.values)
            rho = self._collected(readings, weights @ swept.values)
            probing = 0.0 if look is None else _UNSEEN * look.deviation(self._density(rho).reshape(-1), weights)
            if colouring.exact or probing <= problem.tolerance:
                cost_info = {"colours": float(readings.vectors), "vector_moments": float(cost)}
                return self._solution(problem, rho, mu, states, probing, cost_info)
            tolerance *= 0.1
        raise SpectrumError(
            f"the chemical potential or the probing error did not settle in {_ATTEMPTS} sweeps (mu = {mu:.6g}): "
            "raise the tolerance, or use force kind 'exact'"
        )

    def _solve_random(self, problem: Problem) -> _Solution:
        """Mean over random vectors, and the largest standard error of a site as the estimate."""
        count = self.options.vectors
        pattern = len(self.hamiltonian.pattern)
        readings = _probing.random(count, self.options.seed, problem.sites, problem.shifts, pattern)
        cost = problem.terms * count
        if self.ensemble.kind == "canonical":
            states, mu = self._filled(problem, sweep(problem, readings, np.empty((0, problem.terms))), count)
            cost *= 2
        else:
            mu = self.ensemble.chemical_potential
        swept = sweep(problem, readings, problem.fermi(np.array([mu])))
        states, _ = self._filled(problem, swept, count)
        samples = swept.values[0]
        rho = self._collected(readings, samples) / count
        variance = self._collected(readings, (samples - rho.reshape(-1)[readings.output]).square()) / (count - 1)
        error = float(all_max(self._density(variance / count).sqrt().amax().cpu(), self.domain))
        return self._solution(problem, rho, mu, states, error, {"colours": float(count), "vector_moments": float(cost)})

    def _readings(self, problem: Problem, colouring: Colouring) -> Readings:
        colours = colouring.of(self.domain.owned, self.domain.device).reshape(-1)
        signs = _probing.site_signs(self.options.seed, problem.sites.number)
        pattern = len(self.hamiltonian.pattern)
        return _probing.coloured(colours, colouring.colours, problem.sites, signs, problem.shifts, pattern)

    def _filled(self, problem: Problem, swept: Swept, vectors: int) -> tuple[DensityOfStates, float]:
        """Density of states from the trace, and the ``mu`` of the ensemble."""
        sites = self.domain.lattice.sites
        copies = vectors if self.options.probing == "random" else 1
        states = DensityOfStates(problem.interval, swept.trace.numpy() / (sites * copies), self.ensemble.kT)
        if self.ensemble.kind == "grand-canonical":
            return states, self.ensemble.chemical_potential
        probing = 0.1 * problem.tolerance / math.sqrt(sites)  # of the mean density: errors of sites have random signs
        noise = problem.error + probing + 30 * torch.finfo(problem.dtype).eps
        return states, states.chemical_potential(self.ensemble.filling, noise)

    def _collected(self, readings: Readings, values: Tensor) -> Tensor:
        """Sum of the readings of each entry, ``[owned cells, pattern]``."""
        entries = values.new_zeros(math.prod(self.domain.local_extent) * len(self.hamiltonian.pattern))
        return entries.index_add_(0, readings.output, values).view(-1, len(self.hamiltonian.pattern))

    def _density(self, rho: Tensor) -> Tensor:
        return rho[:, : len(self.domain.lattice.basis)]

    def _solution(
        self, problem: Problem, rho: Tensor, mu: float, states: DensityOfStates, probing: float, cost: dict[str, float]
    ) -> _Solution:
        """The outcome; in the canonical ensemble the mean density, off by the errors of the sites, is set to the filling."""
        residual = 0.0
        if self.ensemble.kind == "canonical":
            density = self._density(rho)
            excess = float(site_mean(density[None], self.domain)) - self.ensemble.filling
            density -= excess
            residual = abs(excess)
        estimate = problem.scale * (probing + residual + problem.error)
        info = {"error_estimate": estimate, "order": float(problem.terms), "residual": residual, **cost}
        return _Solution(rho, mu, states.grand_potential(mu) * self.domain.lattice.sites, info)


def build(options: Options, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> KPMForces:
    """KPM forces of ``hamiltonian`` on the lattice of ``domain``.

    Raises :class:`SpectrumError` for kT = 0 or a filling outside (0, 1), :class:`ConfigError` for options out of range.
    """
    return KPMForces(options, hamiltonian, domain, ensemble)


def _check(options: Options, ensemble: Ensemble) -> None:
    require_filling(ensemble)
    if ensemble.kT == 0:
        raise SpectrumError(
            "kT = 0 makes the Fermi function a step, whose Chebyshev expansion does not converge: give kT > 0, "
            "or use force kind 'exact'"
        )
    if not 0 < options.tolerance < 1:
        raise ConfigError(f"tolerance = {options.tolerance} is not a force error: give a number between 0 and 1, such as 1e-6")
    if options.probing not in ("colours", "random"):
        raise ConfigError(f"probing = '{options.probing}' is not known: use 'colours' or 'random'")
    if options.vectors < 2:
        raise ConfigError(f"vectors = {options.vectors} random vectors have no error bar: give 2 or more")
    if not 0 <= options.seed < 1 << 64:
        raise ConfigError(f"seed = {options.seed} is not an unsigned 64-bit number: give an integer from 0 to 2^64 - 1")
    if options.block < 0:
        raise ConfigError(f"block = {options.block} is not a number of vectors: give 1 or more, or 0 for what is fast")


def _previous(state: State, states: int) -> list[float | None]:
    """``mu`` of the forces that the state carries; None where there is none."""
    if state.forces is None:
        return [None] * states
    return [mu if math.isfinite(mu) else None for mu in state.forces.chemical_potential.reshape(-1).tolist()]


def _block(domain: Domain, halo: int) -> int:
    """Vectors at once, from the largest tile, so that all ranks choose alike."""
    tile = math.prod(-(-cells // parts) + 2 * halo for cells, parts in zip(domain.lattice.extent, domain.grid, strict=True))
    return max(_FEWEST, _NUMBERS[domain.device.type] // (tile * len(domain.lattice.basis)))
