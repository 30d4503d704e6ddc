"""One sweep of the Chebyshev recurrence: functions of ``H`` at the entries that are read, for many functions at once.

The moments ``z[j] (T_m z)[i]`` are a number per reading and order, so a linear combination of them costs next to nothing
beside the recurrence: ``f(H - mu)`` is evaluated at many ``mu`` in the same sweep, and the trace of ``T_m`` is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.errors import SpectrumError
from hpc_holstein.forces._chebyshev import Interval, fermi_coefficients
from hpc_holstein.forces._probing import Readings, Sites
from hpc_holstein.forces._stencil import Stencil, signs

_ORDERS = 64  # moments that are combined by one matrix product


@dataclass(frozen=True)
class Problem:
    """One state on one rank: its operator and expansion, and the accuracy that is asked of it.

    terms      of the expansion, which leave ``|f - f_M| <= error``
    tolerance  of an entry of ``rho``; ``scale`` times as large for a force
    shifts     what is read: (entry of the pattern, basis site that it starts from, ghosted sites to its end)
    block      vectors at once
    """

    stencil: Stencil
    interval: Interval
    kT: float
    terms: int
    tolerance: float
    error: float
    scale: float
    dtype: torch.dtype
    sites: Sites
    shifts: list[tuple[int, int, int]]
    block: int

    def fermi(self, mu: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coefficients ``[len(mu), terms]`` of the Fermi function."""
        return fermi_coefficients(self.interval, mu, self.kT, self.terms)


@dataclass(frozen=True)
class Swept:
    """``values [functions, readings]``, ``trace [terms]`` summed over the readings of this rank, and ``columns``.

    ``columns [ghosted sites, vectors]`` is one more function applied to whole vectors, empty if none was asked for.
    """

    values: Tensor
    trace: Tensor
    columns: Tensor


def sweep(
    problem: Problem, readings: Readings, coefficients: NDArray[np.float64], column: NDArray[np.float64] | None = None
) -> Swept:
    """Apply the functions with Chebyshev ``coefficients [functions, terms]``, and ``column [terms]`` to whole vectors.

    Collective; sums over orders are taken in float64 whatever the ``dtype`` of the vectors.  Raises :class:`SpectrumError`
    where a moment exceeds what its vectors allow, as it does when the spectrum leaves its bounds.
    """
    sign = signs(problem.terms)
    weights = (torch.from_numpy(coefficients) * sign).to(problem.stencil.domain.device)
    axpy = [] if column is None else (torch.from_numpy(column) * sign).tolist()
    values, columns = [], []
    trace = torch.zeros(problem.terms, dtype=torch.float64, device=weights.device)
    for part in readings.blocks(problem.block):
        swept = _sweep_block(problem, part, weights, axpy)
        values.append(swept.values * part.sign)
        trace += swept.trace
        columns.append(swept.columns)
    total = problem.stencil.domain.allsum(trace.cpu()) * sign
    if not float(total.abs().max()) <= 1.01 * float(total[0]) + 1e-6:  # NaN as well
        raise SpectrumError(
            f"the Chebyshev moments grow to {float(total.abs().max()):.1e} on [{problem.interval.low:.4g}, "
            f"{problem.interval.high:.4g}], which the spectrum leaves: check that the parameters of the Hamiltonian are finite"
        )
    return Swept(torch.cat(values, dim=1), total, torch.cat(columns, dim=1))


def _sweep_block(problem: Problem, part: Readings, weights: Tensor, axpy: list[float]) -> Swept:
    """:func:`sweep` for vectors that are held at once, without the signs of the readings and of the recurrence."""
    stencil, dtype, terms, readings = problem.stencil, problem.dtype, problem.terms, len(part.vector)
    start = torch.zeros(stencil.sites, part.vectors, dtype=dtype, device=weights.device)
    start[part.source, part.vector] = part.sign.to(dtype)
    index = part.target * part.vectors + part.vector
    diagonal = part.sign * part.trace
    kept = torch.empty(_ORDERS, readings, dtype=dtype, device=weights.device)
    values = torch.zeros(len(weights), readings, dtype=torch.float64, device=weights.device)
    trace = torch.empty(terms, dtype=torch.float64, device=weights.device)
    columns = torch.zeros_like(start) if axpy else start.new_empty((stencil.sites, 0))
    interval = problem.interval
    for m, block in enumerate(stencil.recurrence(start, interval.centre, interval.half_width, terms)):
        torch.index_select(block.view(-1), 0, index, out=kept[m % _ORDERS])
        if axpy:
            columns.add_(block, alpha=axpy[m])
        if (m + 1) % _ORDERS == 0 or m + 1 == terms:
            first = m - m % _ORDERS
            moments = kept[: m + 1 - first].double()
            values.addmm_(weights[:, first : m + 1], moments)
            trace[first : m + 1] = moments @ diagonal
    return Swept(values, trace, columns)
