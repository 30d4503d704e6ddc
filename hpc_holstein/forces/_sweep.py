"""One sweep of the Chebyshev recurrence: functions of ``H`` at the entries that are read, for many functions at once.

The moments ``z[j] (T_m z)[i]`` are a number per reading and order, so a linear combination of them costs little beside the
recurrence: ``f(H - mu)`` is evaluated at many ``mu`` in the same sweep, and the trace of ``T_m`` is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.errors import SpectrumError
from hpc_holstein.forces._chebyshev import Interval, fermi_coefficients
from hpc_holstein.forces._kernel_fused import FusedRecurrence
from hpc_holstein.forces._kernel_layout import Layout
from hpc_holstein.forces._kernel_torch import TorchRecurrence
from hpc_holstein.forces._probing import Readings, Sites
from hpc_holstein.forces._stencil import Stencil

Array = NDArray[np.float64]
Recurrence = FusedRecurrence | TorchRecurrence
Asked = tuple[Readings, Array]  # what is read, and the coefficients of the functions that are wanted there


@dataclass(frozen=True)
class Problem:
    """One state on one rank: its operator and expansion, and the accuracy that is asked of it.

    terms      of the expansion, which leave ``|f - f_M| <= error``
    tolerance  of an entry of ``rho``; ``scale`` times as large for a force
    shifts     what is read: (entry of the pattern, basis site that it starts from, ghosted sites to its end)
    block      vectors at once
    """

    stencil: Stencil
    layout: Layout
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

    def fermi(self, mu: Array) -> Array:
        """Coefficients ``[len(mu), terms]`` of the Fermi function."""
        return fermi_coefficients(self.interval, mu, self.kT, self.terms)

    def recurrence(self, parts: Sequence[Readings], column: list[float]) -> Recurrence:
        """The recurrence on the vectors that the first of ``parts`` starts, as suits the device."""
        if self.stencil.domain.device.type == "cpu":
            return FusedRecurrence(self.stencil, self.layout, self.interval, self.dtype, parts, column)
        return TorchRecurrence(self.stencil, self.interval, self.dtype, parts, column)


@dataclass(frozen=True)
class Swept:
    """``values``, one ``[functions, readings]`` for each set of readings; ``trace [terms]`` over all ranks; ``columns``.

    ``columns [owned sites, vectors]`` is one more function applied to whole vectors, without vectors if none was asked for.
    """

    values: list[Tensor]
    trace: Tensor
    columns: Tensor


def sweep(problem: Problem, asked: Sequence[Asked], column: Array | None = None) -> Swept:
    """Apply the functions with Chebyshev ``coefficients [functions, terms]`` at the readings that go with them.

    The first of the readings tell where the vectors start.  ``column [terms]``: one function for whole vectors.

    Collective; sums over orders are taken in float64 whatever the ``dtype`` of the vectors.  Raises :class:`SpectrumError`
    where a moment exceeds what its vectors allow, as it does when the spectrum leaves its bounds.
    """
    device, terms, vectors = problem.stencil.domain.device, problem.terms, asked[0][0].vectors
    weights = [torch.from_numpy(coefficients).to(device) for _, coefficients in asked]
    values = [
        torch.zeros(len(rows), len(readings.vector), dtype=torch.float64, device=device)
        for rows, (readings, _) in zip(weights, asked, strict=True)
    ]
    trace = torch.zeros(terms, dtype=torch.float64, device=device)
    whole = [] if column is None else column.tolist()
    columns = torch.empty(problem.sites.number.numel(), vectors if whole else 0, dtype=problem.dtype, device=device)
    for first in range(0, vectors, problem.block):
        count = min(problem.block, vectors - first)
        parts = [readings.part(first, count) for readings, _ in asked]
        sums = [value[:, readings.span(first, count)] for value, (readings, _) in zip(values, asked, strict=True)]
        trace += _summed(problem, parts, weights, sums, whole, columns[:, first : first + count])
    total = problem.stencil.domain.allsum(trace.cpu())
    if not float(total.abs().max()) <= 1.01 * float(total[0]) + 1e-6:  # NaN as well
        raise SpectrumError(
            f"the Chebyshev moments grow to {float(total.abs().max()):.1e} on [{problem.interval.low:.4g}, "
            f"{problem.interval.high:.4g}], which the spectrum leaves: check that the parameters of the Hamiltonian are finite"
        )
    return Swept(values, total, columns)


def _summed(
    problem: Problem, parts: list[Readings], weights: list[Tensor], sums: list[Tensor], whole: list[float], columns: Tensor
) -> Tensor:
    """Vectors held at once: ``sums += sum_m weights[:, m]`` times their moments, ``columns``, and their part of the trace."""
    run = problem.recurrence(parts, whole)
    signs = [part.sign[order] for part, order in zip(parts, run.orders, strict=True)]
    diagonals = [sign * part.trace[order] for sign, part, order in zip(signs, parts, run.orders, strict=True)]
    of_parts, trace = run.sums(weights, diagonals, problem.terms)
    for total, one, sign, order in zip(sums, of_parts, signs, run.orders, strict=True):
        total.index_copy_(1, order, one * sign)
    if whole:
        columns.copy_(run.columns())
    return trace
