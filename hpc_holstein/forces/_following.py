"""The chemical potential of networks in canonical runs: along their response, and their grand potential at it.

Each state of a batch goes by itself.  From the extrapolated ``mu_0``, with ``s_i = dn_i/dmu`` and a step
``h = (filling - mean n) / mean s``,

    mu = mu_0 + h,    n_i = n_i(mu_0) + s_i h,

where the error that is estimated for it, ``_UNCERTAIN |h| rms(s)``, is small enough; else once more from ``mu``.

The solver of a network that has a grand potential ends with a linear step from its last evaluation ``mu_1`` to ``mu``.  As
``dOmega/dmu = -N``, the trapezoid ``Omega(mu) = Omega(mu_1) - (N(mu_1) + N(mu)) (mu - mu_1) / 2`` is exact to second order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hpc_holstein.domain.reduction import global_sum
from hpc_holstein.forces._canonical import CanonicalDensity
from hpc_holstein.interfaces import Domain

_UNCERTAIN = 1.0  # rms error of n_i after a step of mu along the response over the rms change: 0.2 to 0.7 along quenches
_FOLLOWING = 3  # evaluations along the response before the solver that always converges takes over
_FARTHEST = 3.0  # step along the response, in units of kT


def followed(
    network: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    mean: Callable[[Tensor], Tensor],
    filling: float,
    kT: float,
    guess: Tensor,
    error: float,
) -> tuple[CanonicalDensity, Tensor]:
    """The density near ``guess [batch]``, and the states ``[m]`` that no step comes near enough to, whose values mean nothing.

    ``network(mu [m], rows [m])``: density and response ``[m, *cells, basis]`` of the states ``rows``; ``error``: of the
    density.  Each state goes the way that it goes alone.
    """
    rows = torch.arange(len(guess))
    mu, slope, density = guess.clone(), torch.empty_like(guess), torch.empty(0)
    lost, evaluations = rows[:0], 0
    for _ in range(_FOLLOWING):
        n, response = network(mu[rows], rows)
        evaluations += len(rows)
        slope[rows] = mean(response)
        squares = mean(response.square())
        step = (filling - mean(n)) / slope[rows]
        near = step.abs() <= _FARTHEST * kT  # NaN as well: no level in the gap
        mu[rows] += step
        n = n + response * step.to(n).view(-1, *(1,) * (n.ndim - 1))
        if len(rows) == len(guess):
            density = n
        else:
            density[rows.to(n.device)] = n
        lost = torch.cat([lost, rows[~near]])
        rows = rows[near & (_UNCERTAIN * step.abs() * squares.sqrt() > error)]
        if not len(rows):
            break
    left = torch.cat([lost, rows]).sort().values
    kept = torch.ones_like(guess, dtype=torch.bool).index_fill_(0, left, False)
    residual = float((mean(density) - filling)[kept].abs().max()) if len(left) < len(guess) else 0.0
    return CanonicalDensity(density, mu, slope, residual, evaluations / len(guess)), left


def completed(found: CanonicalDensity, left: Tensor, rest: CanonicalDensity) -> CanonicalDensity:
    """``found`` with the states ``left [m]`` as in ``rest``."""
    if len(left) == len(found.slope):
        density = rest.density
    else:
        density = found.density
        density[left.to(density.device)] = rest.density
    mu, slope = (
        old.index_copy(0, left, new)
        for old, new in ((found.chemical_potential, rest.chemical_potential), (found.slope, rest.slope))
    )
    evaluations = found.evaluations + rest.evaluations * len(left) / len(slope)
    return CanonicalDensity(density, mu, slope, max(found.residual, rest.residual), evaluations)


Evaluation = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""``(mu [m], rows [m]) -> density and grand potential [m, *cells, basis]`` of the states ``rows``."""


class RecordedPotential:
    """Density of an energy network that keeps ``Omega``, ``N`` and ``mu`` of the last evaluation of each of ``states``."""

    def __init__(self, evaluate: Evaluation, domain: Domain, states: int) -> None:
        self._evaluate, self._domain = evaluate, domain
        self._mu, self._omega, self._electrons = torch.full((3, states), torch.nan, dtype=torch.float64)

    def __call__(self, mu: Tensor, rows: Tensor) -> Tensor:
        """Density ``[m, *cells, basis]`` of the states ``rows`` at ``mu``; collective."""
        density, omega = self._evaluate(mu, rows)
        sums = global_sum(torch.cat([omega, density]), self._domain)
        self._mu[rows], self._omega[rows], self._electrons[rows] = mu.double().cpu(), sums[: len(rows)], sums[len(rows) :]
        return density

    def at(self, mu: Tensor, density: Tensor) -> Tensor:
        """``Omega [states]`` of the whole lattice, at the solution of ``mu`` with its ``density``; collective."""
        electrons = global_sum(density, self._domain)
        return self._omega - 0.5 * (self._electrons + electrons) * (mu.double().cpu() - self._mu)
