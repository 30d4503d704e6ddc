"""The Chebyshev expansion of the Fermi operator; :mod:`hpc_holstein.forces.kpm` says what it computes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hpc_holstein.errors import ConfigError, SpectrumError
from hpc_holstein.forces import _probing
from hpc_holstein.forces._canonical import site_mean
from hpc_holstein.forces._chebyshev import DensityOfStates, Interval, PotentialNodes, fermi_order
from hpc_holstein.forces._elements import force_scale, matrix_elements, needed_entries
from hpc_holstein.forces._filling import potential_uncertainty
from hpc_holstein.forces._first_guess import LocalSpectra
from hpc_holstein.forces._kernel_layout import Layout, SweepMemory
from hpc_holstein.forces._memory import fair_bytes
from hpc_holstein.forces._pilot import PILOTS, pilot, probing_error
from hpc_holstein.forces._probing import Colouring, Readings, Sites
from hpc_holstein.forces._sampled import read_for
from hpc_holstein.forces._state_by_state import Solution, StateByState
from hpc_holstein.forces._stencil import Stencil, all_max
from hpc_holstein.forces._sweep import Problem, Swept, sweep
from hpc_holstein.forces.kpm import Options
from hpc_holstein.interfaces import Domain, Ensemble, Hamiltonian

_TRUNCATION = 1e-3  # of the tolerance, for |f - f_M|: a single level at mu amplifies that of the electron number by all sites
_CHECKED = 4  # every so many chemical potentials the error is looked at
_ATTEMPTS = 8
_COLOURS = 36  # as few as a tolerance asks for, as a rule
_MEMORY = 0.8  # part of the memory that can be used
_SMALL = 256  # sites of a lattice on which each is a probe of its own
_FLOAT32 = 1e-4  # tolerance that single precision reaches
_FLOAT64 = 1e-12  # ... and double precision: recurrences of some hundred steps on energies of some ten
_COLD, _WARM = 3 * math.pi, 1.0  # kT: how far mu may lie from the first guess, and from that of the forces before


class KPMForces(StateByState):
    """Adiabatic forces by KPM; implements :class:`interfaces.ForceProvider`, batches included (state by state).

    The result is a function of ``q`` and, below the tolerance, of ``state.forces.chemical_potential``; beyond round-off it does
    not depend on the ranks.  ``info``, each the largest of the batch: ``error_estimate`` of max |dF|, ``order``, ``colours``
    (vectors), ``vector_moments`` (vectors times orders, all sweeps), ``residual`` of the filling before it was corrected.
    Raises :class:`SpectrumError` where ``q`` holds NaN or kT asks for an absurd order.
    """

    reach = None

    def __init__(self, options: Options, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> None:
        super().__init__(hamiltonian, domain, ensemble, options.sites, options.seed)
        _check(options, ensemble)
        domain.require_halo(hamiltonian.reach)
        self.options = options
        self.tolerance = options.tolerance if options.probing == "colours" else None
        self._entries = needed_entries(hamiltonian, domain)
        self._read = torch.arange(0) if self._chosen is None else read_for(self._chosen, hamiltonian, domain)
        self._beyond = max(abs(step) for entry in self._entries for step in hamiltonian.pattern[entry].offset)

    def memory_bytes(self, dtype: torch.dtype = torch.float64, block: int = 0) -> float:
        """Bytes of one evaluation on the rank of the largest tile, coordinates of ``dtype``; ``block`` as in the options."""
        layout = Layout.of(self.domain, self.hamiltonian.reach, self._beyond, dtype)
        return self._demand().bytes(self.domain, layout, dtype, block or self.options.block or layout.fast)

    def _demand(self) -> SweepMemory:
        """Upper bounds: a cold start, and as few colours as a tolerance asks for."""
        sites, entries = self.domain.lattice.sites, len(self._entries)
        if self.options.sites:
            return SweepMemory(0, 1, 0, 0, len(self._read))
        if self.options.probing == "random":
            return SweepMemory(entries * self.options.vectors, 1, 0, 0, self.options.vectors)
        radius = _COLD * self.ensemble.kT if self.ensemble.kind == "canonical" else 0.0
        nodes = PotentialNodes.around(0.0, radius, self.ensemble.kT, _TRUNCATION * self.options.tolerance).values.size
        small = sites <= _SMALL
        return SweepMemory(entries, nodes, -(-nodes // _CHECKED), 0 if small else PILOTS, sites if small else _COLOURS)

    def _block(self, layout: Layout, dtype: torch.dtype) -> int:
        """Vectors held at once: the number asked for, or the fast one, or as many as the memory holds."""
        block, least = self.options.block or layout.fast, self.options.block or layout.lanes
        available, demand = _MEMORY * fair_bytes(self.domain), self._demand()
        while demand.bytes(self.domain, layout, dtype, block) > available:
            if block <= least:
                needed = demand.bytes(self.domain, layout, dtype, block)
                raise ConfigError(
                    f"the KPM forces need {needed / 2**30:.3g} GiB of memory on each rank "
                    f"and {available / 2**30:.3g} GiB can be used: use more nodes, a smaller lattice or block, or float32"
                )
            block = max(least, block // 2 // layout.lanes * layout.lanes)
        return block

    def _solve(self, q: Tensor, known: float | None, previous: float | None) -> Solution:
        problem = self._problem(q)
        if self.options.sites:
            return self._solve_sampled(problem, known)
        if self.options.probing == "random":
            return self._solve_random(problem)
        return self._solve_coloured(problem, q, self._first_nodes(problem, q, previous))

    def _problem(self, q: Tensor) -> Problem:
        """Operator, expansion and accuracy of one state."""
        layout = Layout.of(self.domain, self.hamiltonian.reach, self._beyond, q.dtype)
        stencil = Stencil(self.hamiltonian, self.domain, q, layout.widths)
        interval = Interval.enclosing(*stencil.bounds())
        scale = float(all_max(force_scale(self.hamiltonian, self.domain, q.double()), self.domain))
        tolerance = max(self.options.tolerance, _FLOAT32 if q.dtype == torch.float32 else 0.0) / scale
        bonds = [(entry, self.hamiltonian.pattern[entry]) for entry in self._entries]
        return Problem(
            stencil=stencil,
            layout=layout,
            interval=interval,
            kT=self.ensemble.kT,
            terms=fermi_order(interval, self.ensemble.kT, _TRUNCATION * tolerance),
            tolerance=tolerance,
            error=_TRUNCATION * tolerance,
            scale=scale,
            dtype=q.dtype,
            sites=Sites.of(self.domain, stencil.owned_cells()),
            shifts=[(k, b.source, stencil.shift(b) * stencil.basis + b.target - b.source) for k, b in bonds],
            block=self._block(layout, q.dtype),
        )

    def _first_nodes(self, problem: Problem, q: Tensor, previous: float | None) -> PotentialNodes:
        """Chemical potentials of the first sweep."""
        kT = self.ensemble.kT
        if self.ensemble.kind == "grand-canonical":
            return PotentialNodes.around(self.ensemble.chemical_potential, 0.0, kT, problem.error)
        if previous is not None:
            return PotentialNodes.around(previous, _WARM * kT, kT, problem.error)
        spectra = LocalSpectra.of(self.hamiltonian, self.domain, q[None], kT)
        guess = float(spectra.chemical_potential(self.ensemble.filling))
        return PotentialNodes.around(guess, _COLD * kT, kT, problem.error)

    def _solve_coloured(self, problem: Problem, q: Tensor, nodes: PotentialNodes) -> Solution:
        """Sweep until ``mu`` lies among the nodes and the error is small enough, which the first sweep does as a rule."""
        energies = matrix_elements(self.hamiltonian, self.domain, q.double())[..., : self.hamiltonian.states].reshape(-1)
        tolerance, cost = problem.tolerance, 0.0
        for _ in range(_ATTEMPTS):
            solution, settled = self._attempt(problem, energies, nodes, tolerance)
            cost += solution.info["vector_moments"]
            if not nodes.hold(solution.chemical_potential) and self.ensemble.kind == "canonical":
                kT = self.ensemble.kT
                nodes = PotentialNodes.around(solution.chemical_potential, _WARM * kT, kT, problem.error)
            elif settled:
                return replace(solution, info={**solution.info, "vector_moments": cost})
            else:
                tolerance *= 0.1
        raise SpectrumError(
            f"the chemical potential or the probing error did not settle in {_ATTEMPTS} sweeps "
            f"(mu = {solution.chemical_potential:.6g}): raise the tolerance, or use force kind 'exact'"
        )

    def _attempt(self, problem: Problem, energies: Tensor, nodes: PotentialNodes, tolerance: float) -> tuple[Solution, bool]:
        """One sweep, with the colours that the pilot sites ask for, and if the probing is as good as asked."""
        look = None if self.domain.lattice.sites <= _SMALL else pilot(problem, energies, nodes, tolerance)
        colouring = Colouring.complete(self.domain.lattice.extent) if look is None else look.colouring
        readings = self._readings(problem, colouring)
        checks = _probing.between(self._colours(colouring, opposite=True), colouring.colours, problem.sites)
        checked = nodes.values[::_CHECKED]
        swept = sweep(problem, [(readings, problem.fermi(nodes.values)), (checks, problem.fermi(checked))])
        states, mu = self._filled(problem, swept, readings.vectors)
        weights = torch.from_numpy(nodes.weights(mu)).to(swept.values[0])
        rho = self._collected(readings, weights @ swept.values[0])
        response, probing = self._response(problem, readings, swept.values[0], nodes, mu), 0.0
        if look is not None:
            at_mu = swept.values[1][int(np.abs(checked - mu).argmin())].clone()
            probing = probing_error(look.leak, at_mu, response, problem)
            probing = max(probing, look.deviation(self._density(rho).reshape(-1), weights))
        truncation = self._truncation(problem, response)
        settled = colouring.exact or probing + min(truncation, 0.5 * problem.tolerance) <= problem.tolerance
        moments = float(problem.terms * (readings.vectors + (0 if look is None else look.readings.vectors)))
        cost = {"colours": float(readings.vectors), "vector_moments": moments}
        return self._solution(problem, rho, mu, states, probing + truncation, cost), settled

    def _response(self, problem: Problem, readings: Readings, values: Tensor, nodes: PotentialNodes, mu: float) -> float:
        """``max_i (dn_i/dmu) / sum_i dn_i/dmu``: the largest part of an electron that a shift of ``mu`` adds to one site.

        In a gap, where the derivatives are lost in the errors and ``mu`` does not matter, it tends to 0.
        """
        if self.ensemble.kind == "grand-canonical":
            return 0.0
        step = 0.1 * self.ensemble.kT
        weights = torch.from_numpy(nodes.weights(mu + step) - nodes.weights(mu - step)).to(values)
        change = self._density(self._collected(readings, weights @ values)).clamp_min(0)
        noise = 0.1 * problem.tolerance * math.sqrt(self.domain.lattice.sites)
        return float(all_max(change.amax().cpu(), self.domain)) / (float(self.domain.allsum(change.sum().cpu())) + noise)

    def _truncation(self, problem: Problem, response: float) -> float:
        """Largest error of a density by the order, the interpolation in ``mu`` and round-off, and by their error of ``mu``."""
        round_off = 0.3 * torch.finfo(problem.dtype).eps * math.sqrt(problem.terms)
        return (2 * problem.error + round_off) * (1 + math.sqrt(self.domain.lattice.sites) * response)

    def _solve_random(self, problem: Problem) -> Solution:
        """Mean over random vectors; the estimate is what the largest of as many normal errors is expected to be."""
        count, sites = self.options.vectors, self.domain.lattice.sites
        pattern = len(self.hamiltonian.pattern)
        readings = _probing.random(count, self.options.seed, problem.sites, problem.shifts, pattern)
        cost = problem.terms * count
        if self.ensemble.kind == "canonical":
            states, mu = self._filled(problem, sweep(problem, [(readings, np.empty((0, problem.terms)))]), count)
            cost *= 2
        else:
            mu = self.ensemble.chemical_potential
        swept = sweep(problem, [(readings, problem.fermi(np.array([mu])))])
        states, _ = self._filled(problem, swept, count)
        samples = swept.values[0][0]
        rho = self._collected(readings, samples) / count
        variance = self._collected(readings, (samples - rho.reshape(-1)[readings.output]).square()) / (count - 1)
        squares = self._density(variance / count)
        error = math.sqrt(2 * math.log(2 * sites) * float(all_max(squares.amax().cpu(), self.domain)))
        typical = problem.scale * math.sqrt(float(site_mean(squares[None], self.domain)))
        info = {"colours": float(count), "vector_moments": float(cost), "standard_error": typical}
        return self._solution(problem, rho, mu, states, error + self._truncation(problem, 0.0), info)

    def _solve_sampled(self, problem: Problem, mu: float | None) -> Solution:
        """A vector for each of the chosen sites: no probing error, at a ``mu`` that is known."""
        assert mu is not None
        pattern = len(self.hamiltonian.pattern)
        starts = self._read.to(self.domain.device)
        readings = _probing.single(starts, problem.sites, problem.shifts, pattern)
        swept = sweep(problem, [(readings, problem.fermi(np.array([mu])))])
        rho = self._collected(readings, swept.values[0][0])
        cost = {"colours": float(readings.vectors), "vector_moments": float(problem.terms * readings.vectors)}
        info = {"error_estimate": problem.scale * self._truncation(problem, 0.0), "order": float(problem.terms)}
        return Solution(rho, mu, math.nan, {**info, "residual": 0.0, **cost})

    def _readings(self, problem: Problem, colouring: Colouring) -> Readings:
        signs = _probing.site_signs(self.options.seed, problem.sites.number)
        pattern = len(self.hamiltonian.pattern)
        return _probing.coloured(self._colours(colouring), colouring.colours, problem.sites, signs, problem.shifts, pattern)

    def _colours(self, colouring: Colouring, opposite: bool = False) -> Tensor:
        """Colour of each owned cell, ``[cells]``."""
        return colouring.of(self.domain.owned, self.domain.device, opposite).reshape(-1)

    def _filled(self, problem: Problem, swept: Swept, vectors: int) -> tuple[DensityOfStates, float]:
        """Density of states from the trace, and the ``mu`` of the ensemble."""
        sites = self.domain.lattice.sites
        copies = vectors if self.options.probing == "random" else 1
        states = DensityOfStates(problem.interval, swept.trace.numpy() / (sites * copies), self.ensemble.kT)
        if self.ensemble.kind == "grand-canonical":
            return states, self.ensemble.chemical_potential
        probing = 0.1 * problem.tolerance / math.sqrt(sites)  # of the mean density: errors of sites have random signs
        noise = problem.error + probing + 2 * torch.finfo(problem.dtype).eps / math.sqrt(sites)
        return states, states.chemical_potential(self.ensemble.filling, noise)

    def _collected(self, readings: Readings, values: Tensor) -> Tensor:
        """Sum of the readings of each entry, ``[owned cells, pattern]``."""
        entries = values.new_zeros(math.prod(self.domain.local_extent) * len(self.hamiltonian.pattern))
        return entries.index_add_(0, readings.output, values).view(-1, len(self.hamiltonian.pattern))

    def _density(self, rho: Tensor) -> Tensor:
        return rho[:, : len(self.domain.lattice.basis)]

    def _solution(
        self,
        problem: Problem,
        rho: Tensor,
        mu: float,
        states: DensityOfStates,
        error: float,
        cost: dict[str, float],
    ) -> Solution:
        """The outcome; in the canonical ensemble the mean density, off by the errors of the sites, is set to the filling."""
        residual = 0.0
        if self.ensemble.kind == "canonical":
            density = self._density(rho)
            excess = float(site_mean(density[None], self.domain)) - self.ensemble.filling
            density -= excess
            residual = abs(excess)
            cost = {**cost, "mu_uncertainty": potential_uncertainty(states.response(mu), self.ensemble.kT)}
        estimate = problem.scale * (error + residual)
        info = {"error_estimate": estimate, "order": float(problem.terms), "residual": residual, **cost}
        return Solution(rho, mu, states.grand_potential(mu) * self.domain.lattice.sites, info)


def _check(options: Options, ensemble: Ensemble) -> None:
    if ensemble.kT == 0:
        raise SpectrumError(
            "kT = 0 makes the Fermi function a step, whose Chebyshev expansion does not converge: give kT > 0, "
            "or use force kind 'exact'"
        )
    if not _FLOAT64 <= options.tolerance < 1:
        raise ConfigError(
            f"tolerance = {options.tolerance} is not a force error that float64 reaches: give {_FLOAT64:g} to 1, such as 1e-6"
        )
    if options.probing not in ("colours", "random"):
        raise ConfigError(f"probing = '{options.probing}' is not known: use 'colours' or 'random'")
    if options.sites and options.probing == "random":
        raise ConfigError(
            f"sites = {options.sites} are computed one by one, without probing = 'random': leave one of the two out"
        )
    if options.vectors < 2:
        raise ConfigError(f"vectors = {options.vectors} random vectors have no error bar: give 2 or more")
    if not 0 <= options.seed < 1 << 64:
        raise ConfigError(f"seed = {options.seed} is not an unsigned 64-bit number: give an integer from 0 to 2^64 - 1")
    if options.block < 0:
        raise ConfigError(f"block = {options.block} is not a number of vectors: give 1 or more, or 0 for what is fast")
