"""A look at a few columns of ``rho``: how far it reaches in this state, and the exact value on its diagonal.

Sites whose level lies nearest to ``mu`` have the longest columns.  Each starts in a vector of its own, which has no probing
error; the columns tell which colouring meets the tolerance, and the diagonal how well that one did.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hpc_holstein.forces._chebyshev import PotentialNodes
from hpc_holstein.forces._probing import Colouring, Readings
from hpc_holstein.forces._stencil import all_max
from hpc_holstein.forces._sweep import Problem, sweep
from hpc_holstein.interfaces import Domain

_SITES = 32
_SAFETY = 0.02  # of the tolerance: columns of sites that were not looked at weighed at most 48 times more in 736 hot cases


@dataclass(frozen=True)
class Pilot:
    """Columns of ``rho`` at the ``mu`` in the middle of the nodes, and diagonal entries at all of them.

    readings  of the pilot sites that this rank owns
    diagonal  ``[nodes, readings]``
    columns   magnitudes ``[owned sites, pilot sites]``, zero on the diagonal
    """

    domain: Domain
    readings: Readings
    diagonal: Tensor
    columns: Tensor

    def choose(self, tolerance: float) -> Colouring:
        """The colouring of fewest colours whose probing error stays well below the tolerance at the pilot sites."""
        candidates = Colouring.candidates(self.domain.lattice.extent)
        return next(c for c in candidates if c.exact or self._leak(c) <= _SAFETY * tolerance)

    def _leak(self, colouring: Colouring) -> float:
        """Largest sum of ``|rho_ij|`` over the other sites ``i`` of the colour of a pilot site ``j``."""
        basis = len(self.domain.lattice.basis)
        cell = colouring.of(self.domain.owned, self.domain.device).reshape(-1, 1)
        vector = (cell * basis + torch.arange(basis, device=cell.device)).reshape(-1)
        own = torch.zeros(self.columns.shape[1], dtype=torch.float64, device=cell.device)
        own[self.readings.vector] = vector[self.readings.output].double()
        pilot = self.domain.allsum(own.cpu()).to(vector.device)
        same = (vector[:, None] == pilot).to(self.columns)
        return float(self.domain.allsum((same * self.columns).sum(dim=0).double().cpu()).max())

    def deviation(self, density: Tensor, weights: Tensor) -> float:
        """Largest difference to ``density [owned sites]`` of what the nodes interpolate to, over all ranks."""
        here = (weights @ self.diagonal - density[self.readings.output]).abs()
        largest = torch.cat([here.cpu(), torch.zeros(1, dtype=torch.float64)]).max()
        return float(all_max(largest, self.domain))


def pilot(problem: Problem, energies: Tensor, nodes: PotentialNodes) -> Pilot:
    """Sweep the columns of the sites whose on-site ``energies [owned sites]`` are nearest to the middle of the nodes."""
    domain, sites = problem.stencil.domain, problem.sites
    ghosted, number = sites.ghosted.reshape(-1), sites.number.reshape(-1)
    chosen = _nearest((energies - nodes.centre).abs(), number, domain)
    site, vector = torch.nonzero(number[:, None] == chosen, as_tuple=True)
    order = torch.argsort(vector)
    site, vector = site[order], vector[order]
    ones = torch.ones(len(site), dtype=torch.float64, device=site.device)
    readings = Readings(len(chosen), vector, ghosted[site], ghosted[site], ones, site, ones)
    swept = sweep(problem, readings, problem.fermi(nodes.values), problem.fermi(np.array([nodes.centre]))[0])
    columns = swept.columns[ghosted].abs()
    columns[site, vector] = 0
    return Pilot(domain, readings, swept.values, columns)


def _nearest(distance: Tensor, number: Tensor, domain: Domain) -> Tensor:
    """Global numbers of the sites of smallest distance on the whole lattice, the same on all ranks."""
    count = min(_SITES, domain.lattice.sites)
    mine = min(count, len(distance))
    best = torch.topk(distance, mine, largest=False, sorted=True)
    table = torch.zeros(domain.size, count, 2, dtype=torch.float64)
    table[domain.rank, :, 0] = torch.finfo(torch.float64).max
    table[domain.rank, :mine, 0] = best.values.cpu()
    table[domain.rank, :mine, 1] = number[best.indices].double().cpu()
    every = domain.allsum(table).reshape(-1, 2).numpy()
    order = np.lexsort((every[:, 1], every[:, 0]))[:count]
    return torch.from_numpy(every[order, 1]).long().to(distance.device)
