"""The grand potential of a network that has one, at the chemical potential that is found while its density is solved for.

The solver ends with a linear step from the last evaluation ``mu_1`` to ``mu``.  Since ``dOmega/dmu = -N``, the trapezoid

    Omega(mu) = Omega(mu_1) - (N(mu_1) + N(mu)) (mu - mu_1) / 2

is exact up to the third order of that step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hpc_holstein.domain.reduction import global_sum
from hpc_holstein.interfaces import Domain

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
