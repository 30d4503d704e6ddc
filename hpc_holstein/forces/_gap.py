"""The chemical potential in a gap that is wide against ``kT``, where the mean density does not tell it to any digit.

There it follows from what thermal excitation leaves: with ``n`` whole levels below the gap, the electrons above it balance
the holes below it,

    sum_{e > gap} w f(e - mu) + max(n - N, 0) = sum_{e < gap} w (1 - f(e - mu)) + max(N - n, 0),

solved between the logarithms of both sides, as :mod:`forces._filling` does for a spectrum that one host has.  It exists and is
unique, and at ``kT = 0`` it is the middle of the gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_holstein.domain.reduction import global_sum
from hpc_holstein.forces._filling import potential_uncertainty, root
from hpc_holstein.forces._stencil import all_max
from hpc_holstein.interfaces import Domain

FLAT = 1e-6
"""``kT d(mean n)/d(mu)`` below which a provider that knows its levels takes ``mu`` from this balance."""

_TRUNCATED = 1e-6  # electrons per site by which levels of clusters may miss a whole number, and at most ...
_PART = 0.1  # ... electrons of the whole lattice
_WHOLE_NUMBER = 1e-12  # electrons per site: a filling times the number of sites is rounded
PRESENT = 1e-10
"""Weight of a level on a site above which it may bound a gap."""


@dataclass(frozen=True)
class Levels:
    """Levels of one state, spread over the ranks of ``domain``.

    energies  those of this rank, of any shape
    present   which of them have a weight on a site to speak of
    totals    ``totals(x)``, of rows ``x [m, ...]`` shaped as the energies: ``sum_k w_k x_k`` over all sites of the whole
              lattice, ``[m]``
    """

    energies: Tensor
    present: Tensor
    totals: Callable[[Tensor], Tensor]
    domain: Domain

    @classmethod
    def of_sites(cls, energies: Tensor, domain: Domain) -> Levels:
        """One level a site."""
        return cls(energies, torch.ones_like(energies, dtype=torch.bool), lambda x: global_sum(x, domain), domain)

    def total(self, of_level: Tensor) -> float:
        """``sum_k w_k x_k`` of one row."""
        return float(self.totals(of_level[None])[0])

    def highest(self, among: Tensor) -> float:
        """The highest of those levels that are present, over all ranks; minus infinity for none."""
        chosen = self.energies[among & self.present]
        return float(all_max((chosen.max() if chosen.numel() else self.energies.new_tensor(-math.inf)).cpu(), self.domain))

    def lowest(self, among: Tensor) -> float:
        """The lowest of them."""
        chosen = -self.energies[among & self.present]
        return -float(all_max((chosen.max() if chosen.numel() else self.energies.new_tensor(-math.inf)).cpu(), self.domain))


def balanced(levels: Levels, mu: float, electrons: float, kT: float) -> tuple[float, float]:
    """``mu`` in the gap that a given one lies in, for ``electrons`` on the whole lattice, and its uncertainty; collective.

    Levels of clusters are truncated, so a number of them that is whole to 1e-6 a site is taken for that.  Where none is, the
    given ``mu`` is returned.  At ``kT = 0`` the uncertainty is half of the gap.
    """
    sites = levels.domain.lattice.sites
    below = levels.energies <= mu
    counted = levels.total(below.double())
    whole = round(counted)
    excess = electrons - whole
    excess = 0.0 if abs(excess) <= _WHOLE_NUMBER * sites else excess
    top, bottom = levels.highest(below), levels.lowest(~below)
    if abs(counted - whole) <= min(_TRUNCATED * sites, _PART) and math.isfinite(bottom - top):
        if kT > 0:
            mu = root(_balance(levels, below, (top, bottom), excess, kT), 0.5 * (top + bottom), kT)
        elif excess == 0:
            mu = 0.5 * (top + bottom)
    if kT == 0:
        return mu, max(0.0, min(bottom - mu, mu - top))
    return mu, potential_uncertainty(_slope(levels, mu, kT) / sites, kT)


def _slope(levels: Levels, mu: float, kT: float) -> float:
    """``kT dN/d(mu) = sum_k w_k f_k (1 - f_k)``, counted from its largest term: sums over ranks drop what is below 2^-49."""
    x = (mu - levels.energies) / kT
    logs = _log_fermi(x) + _log_fermi(-x)
    largest = all_max((logs[levels.present].max() if levels.present.any() else logs.new_tensor(-math.inf)).cpu(), levels.domain)
    return math.exp(float(largest)) * levels.total(torch.exp(logs - largest.to(logs)))


def _balance(
    levels: Levels, below: Tensor, gap: tuple[float, float], excess: float, kT: float
) -> Callable[[float], tuple[float, float]]:
    """``mu`` -> logarithm of the electrons above the gap minus that of the holes below it, and its slope."""

    rests = (max(-excess, 0.0), max(excess, 0.0))

    def difference(mu: float) -> tuple[float, float]:
        x = (mu - levels.energies) / kT
        log_f = _log_fermi(torch.where(below, -x, x))
        nearest = _log_fermi(torch.tensor([(mu - gap[1]) / kT, (gap[0] - mu) / kT], dtype=torch.float64)).tolist()
        tops = [max(log, math.log(rest) if rest > 0 else -math.inf) for log, rest in zip(nearest, rests, strict=True)]
        f = torch.exp(log_f - log_f.new_tensor(tops)[below.long()])
        slope = -f * torch.expm1(log_f)
        rows = [torch.where(among, part, 0.0) for part in (f, slope) for among in (~below, below)]
        found = levels.totals(torch.stack(rows)).tolist()
        totals = [
            total + (math.exp(math.log(rest) - top) if rest > 0 else 0.0)
            for total, rest, top in zip(found[:2], rests, tops, strict=True)
        ]
        electrons, holes = (top + math.log(total) for top, total in zip(tops, totals, strict=True))
        return electrons - holes, found[2] / (kT * totals[0]) + found[3] / (kT * totals[1])

    return difference


def _log_fermi(x: Tensor) -> Tensor:
    """``ln(1 / (1 + exp(-x)))``."""
    return x.clamp_max(0) - torch.log1p(torch.exp(-x.abs()))
