"""Correlations and domain lengths of a field that is spread over ranks, or whole on one; nothing is gathered.

    phi_q by a transform over slabs,   P(q) = |sum_b phi_b,q exp(-i q.tau_b)|^2 / (N sum_i |phi_i|^2)
    C(r) = <phi_i^* . phi_j>, averaged over the pairs whose distance is in a ring of width 1 [a]

``first_zero`` and ``half_height`` of the radial ``C(r)``, and ``inverse_moment = sum_q P / sum_q |q| P`` over the first
Brillouin zone, that is of ``S(q - K)`` of the density.  Along open axes the transform is padded with zeros, so that the pairs
are those that exist; ``P(q)``, whose sum over a box with edges has no clear meaning, is left out then.  Sums over displacements
and wave vectors are exact, so that on a CPU the lengths have the same bits on any ranks.

The pairs of one snapshot leave ``C(r)`` a noise, for a field without correlations of standard deviation ``C(0) / sqrt(pairs)``,
``N N_r / 2`` pairs of ``N`` sites with ``N_r`` others in the ring.  The local order of uncorrelated densities, which holds
those of the neighbours as well, has twice as much.  The first zero is a length if four times the former moves it by less
than a third of itself.  So it is in less than 1 % of states without correlations, whose ``C(r)`` is flat; their other lengths
are known, and shorter than a bond.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.domain.reduction import global_sum, grouped_sum
from hpc_holstein.domain.slabs import SlabTransform
from hpc_holstein.domain.transport import Transport
from hpc_holstein.interfaces import Domain, Lattice
from hpc_holstein.output.geometry import box_sides, inner_radius, lengths_of, reciprocal_vectors, shortest_images
from hpc_holstein.output.observables import RESOLUTION

_NOISE = 4.0  # standard deviations of a field without correlations
_MOST_NOISE = 0.5  # of C(0): what is beyond is order, on tiny lattices too
_WIDEST = 1 / 3  # part of a length that is within the noise, at most


class DomainLengths:
    """Lengths of an order ``phi [*cells, basis, components]`` on tiles, real or complex as ``real`` says.

    Keeps 12 bytes a site where a cell has one.  Collective to make.  ``radii``: mean radius of each ring ``[ring]`` [a], out to
    half of the shortest side of the box; ring 0 is ``r = 0`` alone.
    """

    def __init__(self, domain: Domain, transport: Transport, real: bool) -> None:
        self._domain, lattice = domain, domain.lattice
        self._transform = SlabTransform(domain, transport, real)
        self._basis = len(lattice.basis)
        self._pairs = list(combinations_with_replacement(range(self._basis), 2))  # those of two sites stand for both orders
        twice = torch.tensor([1 if a == b else 2 for a, b in self._pairs])
        padded = self._transform.extent[-len(lattice.extent) :]
        rows = (self._transform.rows, *((0, cells) for cells in self._transform.extent[1:]))[-len(padded) :]
        sides, place = np.asarray(lattice.vectors) * np.array(padded)[:, None], np.asarray(lattice.basis)
        apart = [shortest_images(padded, sides, rows, (place[b] - place[a]).tolist(), lattice.periodic) for a, b in self._pairs]
        radius = torch.stack([lengths_of(vectors).expand(self._transform.row_shape).flatten() for vectors in apart])
        share = _cells_with(lattice, rows).expand(self._transform.row_shape).flatten()
        beyond = int(inner_radius(box_sides(lattice))) + 1
        ring = radius.round().long().clamp(max=beyond)
        counted = torch.stack([torch.bincount(one, share, beyond + 1).double() for one in ring])  # of no cells: whole numbers
        counts = domain.allsum((counted * twice[:, None]).sum(dim=0))[:beyond] / math.prod(lattice.extent)
        self._filled, self._groups = counts > 0, beyond + 1
        self._counts = counts[self._filled]
        self._noise = (_NOISE * (2 * self._basis / (lattice.sites * self._counts)).sqrt()).clamp(max=_MOST_NOISE)
        self._noise[0] = 0  # of C(0) itself
        self._twice = twice.tolist()
        self._ring = ring.int().to(domain.device)
        self.radii = self._ring_means(list((radius * (share / math.prod(lattice.extent))).to(domain.device)))
        self._wave_number: Tensor | None = None
        self._phase: Tensor | None = None
        if all(lattice.periodic):
            self._wave_number, self._phase = self._waves(place)

    def _waves(self, place: NDArray[np.float64]) -> tuple[Tensor, Tensor | None]:
        """``|q|`` of the columns, and ``exp(-i q.tau)`` of the sites of a cell if it has several."""
        lattice, extent = self._domain.lattice, self._transform.extent
        columns = (*((0, cells) for cells in extent[:-1]), self._transform.columns)[-len(lattice.extent) :]
        wave_vector = shortest_images(lattice.extent, reciprocal_vectors(lattice), columns)
        turns = torch.einsum("bx,x...->b...", torch.from_numpy(place), wave_vector)
        phase = torch.polar(torch.ones_like(turns), -turns).reshape(self._basis, *extent[:-1], -1)
        device = self._domain.device
        return lengths_of(wave_vector).to(device), phase.to(device) if self._basis > 1 else None

    def __call__(self, phi: Tensor) -> dict[str, Tensor]:
        """``first_zero``, ``half_height`` and, on periodic axes, ``inverse_moment`` of ``phi``, scalars on the CPU; collective.

        NaN without order, where the rms of ``phi`` is below :data:`RESOLUTION`, and for a zero that is lost in the noise of
        ``C(r)``; infinite where ``C(r)`` does not fall to the level within half of the box, and where all that differs from
        perfect order is below the resolution.
        """
        spectra, norm, mean_square = self._spectra(phi)
        names = ["first_zero", "half_height", *(["inverse_moment"] if self._wave_number is not None else [])]
        if not mean_square > RESOLUTION**2:
            return dict.fromkeys(names, torch.tensor(math.nan, dtype=torch.float64))
        averages = self._radial(spectra, norm)
        lengths = [first_crossing(self.radii, averages, 0.0, self._noise), first_crossing(self.radii, averages, 0.5)]
        if self._wave_number is not None:
            weighted = (self._structure(spectra) / norm * self._transform.weights).flatten()
            whole, moment = global_sum(torch.stack([weighted, weighted * self._wave_number.flatten()]), self._domain)
            perfect = float(moment) * mean_square <= RESOLUTION**2
            lengths.append(torch.full_like(whole, math.inf) if perfect else whole / moment)
        return dict(zip(names, lengths, strict=True))

    def correlation(self, phi: Tensor) -> Tensor:
        """Radial average of ``C(r)`` of ``phi``, ``[ring]`` on the CPU; ``C(0)`` is the mean square.  Collective."""
        spectra, norm, mean_square = self._spectra(phi)
        return mean_square * self._radial(spectra, norm)

    def _spectra(self, phi: Tensor) -> tuple[list[list[Tensor]], float, float]:
        """Spectra of each component of each site of a cell, ``[*columns]``; ``N sum |phi|^2``, or 1; the mean square."""
        squares = phi.abs().double().square()
        total, sites = float(global_sum(squares[None], self._domain)), self._domain.lattice.sites
        field = phi.to(torch.complex128 if phi.is_complex() else torch.float64)
        spectra = [[self._transform.forward(one) for one in site.unbind(-1)] for site in field.unbind(-2)]
        return spectra, total * sites or 1.0, total / sites

    def _structure(self, spectra: list[list[Tensor]]) -> Tensor:
        """``|sum_b phi_b exp(-i q.tau_b)|^2`` of all components."""
        components = zip(*spectra, strict=True)
        if self._phase is None:
            return _power(spectra[0])
        turned = [[_product(one, phase) for one, phase in zip(sites, self._phase, strict=True)] for sites in components]
        return _power([_sum_of(sites) for sites in turned])

    def _radial(self, spectra: list[list[Tensor]], norm: float) -> Tensor:
        """``C(r) / C(0)`` of each ring."""
        found = []
        for a, b in self._pairs:
            if a == b:
                power = (_power(spectra[a]) / norm).to(torch.complex128)
            else:
                power = _sum_of(_product(one.conj(), other) for one, other in zip(spectra[a], spectra[b], strict=True))
                power = torch.view_as_complex(torch.view_as_real(power) / norm)
            found.append(self._transform.inverse(power).real.flatten() * (self._domain.lattice.sites * self._basis))
        return self._ring_means(found)

    def _ring_means(self, values: list[Tensor]) -> Tensor:
        """Means over the rings of values at the displacements between each pair of sites of a cell."""
        sums = [grouped_sum(one, ring, self._groups, self._domain) for one, ring in zip(values, self._ring, strict=True)]
        return _sum_of(twice * one for twice, one in zip(self._twice, sums, strict=True))[:-1][self._filled] / self._counts


def _cells_with(lattice: Lattice, box: Sequence[tuple[int, int]]) -> Tensor:
    """Number of cells that have one at each displacement of a box, in FFT order: all cells, fewer along open axes."""
    number = torch.ones((), dtype=torch.float64)
    for cells, closed, (start, stop) in zip(lattice.extent, lattice.periodic, box, strict=True):
        step = torch.arange(start, stop)
        along = torch.full_like(step, cells) if closed else torch.where(step < cells, cells - step, step - cells + 1)
        number = number.unsqueeze(-1) * along
    return number


def _power(spectra: Sequence[Tensor]) -> Tensor:
    return _sum_of(one.real.square() + one.imag.square() for one in spectra)


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Complex products from real ones: those of a library may be rounded differently at the end of an array."""
    real = one.real * other.real - one.imag * other.imag
    return torch.complex(real, one.real * other.imag + one.imag * other.real)


def _sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """The sum, which of one tensor is that tensor."""
    return reduce(torch.add, tensors)


def first_crossing(radii: Tensor, averages: Tensor, level: float, noise: Tensor | float = 0.0) -> Tensor:
    """Radius where a radial average first falls to ``level * C(0)``, interpolated linearly, ``[*batch]``.

    ``level = 0`` gives the first zero and 0.5 the half height; infinite if there is no crossing within half of the box.  NaN if
    more than a third of the length lies between the radii where the averages first come within ``noise * C(0)`` of the level
    and where they have left it.
    """
    height, noise = averages - level * averages[..., :1], noise * averages[..., :1]
    first, crossing, last = (_first_zero(radii, shifted) for shifted in (height - noise, height, height + noise))
    known = first.isinf() | (crossing.isfinite() & (last - first <= _WIDEST * crossing))
    return torch.where(known, crossing, torch.nan)


def _first_zero(radii: Tensor, height: Tensor) -> Tensor:
    below = height <= 0
    last = torch.argmax(below.to(torch.int8), dim=-1, keepdim=True).clamp(min=1)
    before, after = height.gather(-1, last - 1), height.gather(-1, last)
    inner, outer = radii[last - 1], radii[last]
    crossing = inner + (outer - inner) * before / (before - after)
    return torch.where(below.any(dim=-1), crossing[..., 0], torch.inf)
