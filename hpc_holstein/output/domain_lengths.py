"""Domain lengths of a field that is spread over ranks: the definitions of :func:`observables.domain_length`, nothing gathered.

    phi_q by a transform over slabs,   P(q) = |phi_q|^2 / (N sum_i |phi_i|^2),   C(r) ~ sum_q P(q) exp(i q.r)

Sums over displacements and wave vectors are exact, so that on a CPU the lengths have the same bits on any ranks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hpc_holstein.domain.reduction import global_sum, grouped_sum
from hpc_holstein.domain.slabs import SlabTransform
from hpc_holstein.domain.transport import Transport
from hpc_holstein.interfaces import Domain
from hpc_holstein.output.observables import box_sides, first_crossing, reciprocal_vectors, shortest_image


class DomainLengths:
    """Lengths of an order ``phi`` on tiles, real or complex as ``real`` says; keeps 12 bytes a site.  Collective to make."""

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
        self._radii = self._ring_means(radius.to(domain.device))
        columns = (*((0, cells) for cells in extent[:-1]), self._transform.columns)
        self._wave_number = shortest_image(extent, reciprocal_vectors(vectors), columns).to(domain.device)

    def __call__(self, phi: Tensor) -> dict[str, Tensor]:
        """``first_zero``, ``half_height`` and ``inverse_moment`` of ``phi [*cells]``, scalars on the CPU; collective."""
        squares = phi.abs().double().square()
        total = float(global_sum(squares[None], self._domain)) * self._domain.lattice.sites
        spectrum = self._transform.forward(phi.to(torch.complex128 if phi.is_complex() else torch.float64))
        power = (spectrum.real.square() + spectrum.imag.square()) / (total or 1.0)
        weighted = (power * self._transform.weights).flatten()
        whole, moment = global_sum(torch.stack([weighted, weighted * self._wave_number.flatten()]), self._domain)
        correlation = self._transform.inverse(power.to(torch.complex128)).real * self._domain.lattice.sites
        averages = self._ring_means(correlation.flatten())
        return {
            "first_zero": first_crossing(self._radii, averages, 0.0),
            "half_height": first_crossing(self._radii, averages, 0.5),
            "inverse_moment": whole / moment if total else torch.tensor(math.nan, dtype=torch.float64),
        }

    def _ring_means(self, values: Tensor) -> Tensor:
        sums = grouped_sum(values, self._ring, self._groups, self._domain)[:-1]
        return sums[self._filled] / self._counts
