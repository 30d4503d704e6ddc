"""A look at a few columns of ``rho``: how far it reaches in this state, and the exact value on its diagonal.

Sites whose level lies nearest to ``mu`` have the longest columns.  Each starts in a vector of its own, which has no probing
error; the columns tell which colouring meets the tolerance, and the diagonal how well that one did.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hpc_holstein.forces._chebyshev import PotentialNodes
from hpc_holstein.forces._probing import Colouring, Readings, single
from hpc_holstein.forces._sampled import lowest_sites
from hpc_holstein.forces._stencil import all_max
from hpc_holstein.forces._sweep import Problem, sweep
from hpc_holstein.interfaces import Domain

PILOTS = 32
_HONEST = 6.0  # times the mean of a bound that may be too low and one that is too high: see probing_error
_SAFETY = 0.02  # of the tolerance: columns of sites that were not looked at weighed at most 48 times more in 736 hot cases


@dataclass(frozen=True)
class Pilot:
    """The colouring that the pilot sites ask for, and what they know of its error.

    leak      largest sum of ``|rho_ij|`` over the other sites ``i`` of the colour of a pilot site ``j``
    readings  of the pilot sites that this rank owns
    diagonal  ``[nodes, readings]``, without probing error
    """

    domain: Domain
    colouring: Colouring
    leak: float
    readings: Readings
    diagonal: Tensor

    def deviation(self, density: Tensor, weights: Tensor) -> float:
        """Largest difference to ``density [owned sites]`` of what the nodes interpolate to, over all ranks."""
        here = (weights @ self.diagonal - density[self.readings.output]).abs()
        largest = torch.cat([here.cpu(), torch.zeros(1, dtype=torch.float64)]).max()
        return float(all_max(largest, self.domain))


def pilot(problem: Problem, energies: Tensor, nodes: PotentialNodes, tolerance: float) -> Pilot:
    """Sweep the columns of the sites whose on-site ``energies [owned sites]`` are nearest to the middle of the nodes.

    The colouring is that of fewest colours whose probing error stays well below ``tolerance`` at these sites.
    """
    domain, sites = problem.stencil.domain, problem.sites
    distance = (energies - nodes.centre).abs().view(sites.number.shape)
    chosen = lowest_sites(distance, domain, PILOTS).to(energies.device)
    basis = sites.number.shape[1]
    readings = single(chosen, sites, [(b, b, 0) for b in range(basis)], basis)
    swept = sweep(problem, [(readings, problem.fermi(nodes.values))], problem.fermi(np.array([nodes.centre]))[0])
    columns = swept.columns.abs_()
    columns[readings.output, readings.vector] = 0
    candidates = Colouring.candidates(domain.lattice.extent)
    leaks = ((_leak(colouring, columns, readings, domain), colouring) for colouring in candidates)
    leak, colouring = next(found for found in leaks if found[1].exact or found[0] <= _SAFETY * tolerance)
    lanes = problem.layout.lanes
    room = -(-colouring.colours * basis // lanes) * lanes // basis  # more colours that cost nothing
    more = ((_leak(one, columns, readings, domain), one) for one in candidates if colouring.colours < one.colours <= room)
    leak, colouring = min([(leak, colouring), *more], key=lambda found: found[0])
    return Pilot(domain, colouring, leak, readings, swept.values[0])


def _leak(colouring: Colouring, columns: Tensor, readings: Readings, domain: Domain) -> float:
    """Largest sum of ``columns [owned sites, pilot sites]`` over the sites of the colour of a pilot site."""
    basis = len(domain.lattice.basis)
    cell = colouring.of(domain.owned, domain.device).reshape(-1, 1)
    vector = (cell * basis + torch.arange(basis, device=cell.device)).reshape(-1)
    sums = columns.new_zeros(colouring.colours * basis, columns.shape[1]).index_add_(0, vector, columns).double()
    own = torch.zeros(columns.shape[1], dtype=torch.float64)
    own[readings.vector.cpu()] = vector[readings.output].double().cpu()
    own_colour = domain.allsum(own).long()
    return float(domain.allsum(sums.cpu())[own_colour, torch.arange(len(own))].max())


def probing_error(leak: float, checks: Tensor, response: float, problem: Problem) -> float:
    """Estimate of the largest error of a density: of the probing, and of ``mu`` where it is solved for.

    ``leak`` bounds the error at a few sites, where it is large as a rule but may be larger elsewhere (30 times was seen);
    ``checks [owned sites]`` are sums over the sites of a colour half a segment away, which are known at every site but
    exceed the error (by up to 1,600 times).  Their geometric mean takes something of both.  Errors of sites have random signs,
    so that of the electron number is ``sqrt(N)`` times their rms; ``response`` is the largest part of it that the shift of
    ``mu`` puts on one site.

    In 1,700 comparisons with exact diagonalization (hot, quenched, ordered and random states of up to 40x40 sites, several
    seeds, tolerances 1e-6 to 1e-3, both precisions) the estimate was never below the largest force error: 1.4 to 1,000 times
    as large, 30 to 40 times in the middle.
    """
    domain, sites = problem.stencil.domain, problem.stencil.domain.lattice.sites
    largest = float(all_max(checks.abs().amax().cpu(), domain))
    rms = math.sqrt(float(domain.allsum(checks.square().sum().cpu())) / sites)
    at_site = math.sqrt(largest * leak)
    typical = at_site * rms / largest if largest > 0 else 0.0
    return _HONEST * (at_site + math.sqrt(sites) * typical * response)
