"""Correlations and domain lengths of a field that is spread over ranks, or whole on one; nothing is gathered.

    phi_q by a transform over slabs,   P(q) = |phi_q|^2 / (N sum_i |phi_i|^2)
    C(r) = <phi_i^* phi_{i+r}> = <|phi|^2> sum_q P(q) exp(i q.r),   averaged over directions in rings of width 1

``first_zero`` and ``half_height`` of the radial ``C(r)``, and ``inverse_moment = sum_q P / sum_q |q| P``, that is of
``S(q - K)`` of the density.  Sums over displacements and wave vectors are exact, so that on a CPU the lengths have the same
bits on any ranks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hpc_holstein.domain.reduction import global_sum, grouped_sum
from hpc_holstein.domain.slabs import SlabTransform
from hpc_holstein.domain.transport import Transport
from hpc_holstein.interfaces import Domain
from hpc_holstein.output.observables import RESOLUTION, box_sides, first_crossing, reciprocal_vectors, shortest_image

_NAMES = ("first_zero", "half_height", "inverse_moment")


class DomainLengths:
    """Lengths of an order ``phi`` on tiles, real or complex as ``real`` says; keeps 12 bytes a site.  Collective to make.

    ``radii``: mean radius of each ring ``[ring]`` [a], out to half of the shortest axis; ring 0 is ``r = 0`` alone.
    """

    def __init__(self, domain: Domain, transport: Transport, real: bool) -> None:
        self._domain, extent, vectors = domain, domain.lattice.extent, domain.lattice.vectors
        self._transform = SlabTransform(domain, transport, real)
        rows = (self._transform.rows, *((0, cells) for cells in extent[1:]))
        radius = shortest_image(extent, box_sides(extent, vectors), rows).flatten()
        beyond = min(extent) // 2 + 1
        ring = radius.round().long().clamp(max=beyond)
        counts = domain.allsum(torch.bincount(ring, minlength=beyond + 1))[:beyond]
        self._filled, self._groups = counts > 0, beyond + 1
        self._counts = counts[self._filled].double()
        self._ring = ring.int().to(domain.device)
        self.radii = self._ring_means(radius.to(domain.device))
        columns = (*((0, cells) for cells in extent[:-1]), self._transform.columns)
        self._wave_number = shortest_image(extent, reciprocal_vectors(vectors), columns).to(domain.device)

    def __call__(self, phi: Tensor) -> dict[str, Tensor]:
        """``first_zero``, ``half_height`` and ``inverse_moment`` of ``phi [*cells]``, scalars on the CPU; collective.

        NaN without order, where the rms of ``phi`` is below :data:`RESOLUTION`; infinite where ``C(r)`` does not fall to the
        level within half of the box, and where all that differs from perfect order is below the resolution.
        """
        power, mean_square = self._power(phi)
        if not mean_square > RESOLUTION**2:
            return dict.fromkeys(_NAMES, torch.tensor(math.nan, dtype=torch.float64))
        weighted = (power * self._transform.weights).flatten()
        whole, moment = global_sum(torch.stack([weighted, weighted * self._wave_number.flatten()]), self._domain)
        averages = self._radial(power)
        perfect = float(moment) * mean_square <= RESOLUTION**2
        lengths = (
            first_crossing(self.radii, averages, 0.0),
            first_crossing(self.radii, averages, 0.5),
            torch.full_like(whole, math.inf) if perfect else whole / moment,
        )
        return dict(zip(_NAMES, lengths, strict=True))

    def correlation(self, phi: Tensor) -> Tensor:
        """Radial average of ``C(r)`` of ``phi [*cells]``, ``[ring]`` on the CPU; ``C(0)`` is the mean square.  Collective."""
        power, mean_square = self._power(phi)
        return mean_square * self._radial(power)

    def _power(self, phi: Tensor) -> tuple[Tensor, float]:
        """``P(q)`` in the slab of this rank, of sum 1 if there is any order, and the mean square of ``phi``."""
        squares = phi.abs().double().square()
        total, sites = float(global_sum(squares[None], self._domain)), self._domain.lattice.sites
        spectrum = self._transform.forward(phi.to(torch.complex128 if phi.is_complex() else torch.float64))
        return (spectrum.real.square() + spectrum.imag.square()) / (total * sites or 1.0), total / sites

    def _radial(self, power: Tensor) -> Tensor:
        correlation = self._transform.inverse(power.to(torch.complex128)).real * self._domain.lattice.sites
        return self._ring_means(correlation.flatten())

    def _ring_means(self, values: Tensor) -> Tensor:
        sums = grouped_sum(values, self._ring, self._groups, self._domain)[:-1]
        return sums[self._filled] / self._counts
