"""Probe vectors: which sites start in which vector, with which sign, and where the vectors are read.

    rho_ij = z_k[j] (f(H) z_k)[i] - sum_{j' != j} s_j s_j' rho_ij',     z_k = sum_{j of colour k} s_j e_j

Sites of one colour lie at least a spacing apart along every axis, so the second term falls as ``rho`` does with distance.
Signs are functions of (seed, global site).  Source: arXiv 1711.10570; Tang and Saad, doi:10.1002/nla.779.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod

import torch
from torch import Tensor

from hpc_holstein.domain.noise import philox
from hpc_holstein.interfaces import Domain

_STREAM = 0x6B706D  # of the noise: apart from those of the dynamics
_BITS = 64  # signs in one word of a Philox block


@dataclass(frozen=True)
class Colouring:
    """Colours of the cells of a lattice, ``repeats`` times the same ones along each axis.

    An axis that the spacing does not divide is cut into segments whose lengths differ by one: cell ``i`` of each has colour
    ``i``, so equal colours lie a short segment or more apart, also through a periodic boundary.
    """

    extent: tuple[int, ...]
    repeats: tuple[int, ...]

    @classmethod
    def candidates(cls, extent: tuple[int, ...]) -> list[Colouring]:
        """All that a spacing makes which differs by a step at most between the axes, in the order of their colours."""
        alike = sorted({tuple(max(1, cells // spacing) for cells in extent) for spacing in range(2, max(extent) + 1)})
        alike = [(1,) * len(extent), *alike]
        mixed = {repeats for steps in pairwise(alike) for repeats in product(*zip(*steps, strict=True))}
        return sorted((cls(extent, repeats) for repeats in {*alike, *mixed}), key=lambda one: (one.colours, one.repeats))

    @classmethod
    def complete(cls, extent: tuple[int, ...]) -> Colouring:
        """Each cell a colour of its own."""
        return cls(extent, (1,) * len(extent))

    @property
    def colours(self) -> int:
        """Number of colours."""
        return prod(-(-cells // repeats) for cells, repeats in zip(self.extent, self.repeats, strict=True))

    @property
    def exact(self) -> bool:
        """True if no two cells share a colour."""
        return max(self.repeats) == 1

    def of(self, owned: Sequence[tuple[int, int]], device: torch.device, opposite: bool = False) -> Tensor:
        """Colour of each owned cell, int64 ``[*local_extent]``; ``opposite``: of cells half a segment away on each axis."""
        colour = torch.zeros((), dtype=torch.int64, device=device)
        for cells, repeats, (start, stop) in zip(self.extent, self.repeats, owned, strict=True):
            cuts, longest = [cells * part // repeats for part in range(repeats + 1)], -(-cells // repeats)
            along = torch.cat([torch.arange(end - begin) for begin, end in pairwise(cuts)])[start:stop]
            along = (along + longest // 2) % longest if opposite else along
            colour = colour.unsqueeze(-1) * longest + along.to(device)
        return colour


@dataclass(frozen=True)
class Readings:
    """Readings of the vectors on one rank; every member ``[readings]``, in the order of ``vector``.

    vector    in which the reading is
    source    ghosted site that starts in it, with ``sign``
    target    ghosted site at which it is read: the two indices of ``rho``
    output    index in the owned entries of the pattern, flattened ``[cells, pattern]``, or in the owned sites
    trace     1 for the diagonal, else 0
    """

    vectors: int
    vector: Tensor
    source: Tensor
    target: Tensor
    sign: Tensor
    output: Tensor
    trace: Tensor

    def span(self, first: int, count: int) -> slice:
        """Readings of the vectors ``first ... first + count - 1``."""
        ends = torch.tensor([first, first + count], device=self.vector.device)
        return slice(*torch.searchsorted(self.vector, ends).tolist())

    def part(self, first: int, count: int) -> Readings:
        """These, with the vectors numbered from 0."""
        span = self.span(first, count)
        members = (self.source, self.target, self.sign, self.output, self.trace)
        return Readings(count, self.vector[span] - first, *(member[span] for member in members))


@dataclass(frozen=True)
class Sites:
    """Owned sites of one rank, ``[cells, basis]`` each: ghosted number and global number."""

    ghosted: Tensor
    number: Tensor

    @classmethod
    def of(cls, domain: Domain, owned_cells: Tensor) -> Sites:
        basis = torch.arange(len(domain.lattice.basis), device=domain.device)
        each = (cells.reshape(-1, 1) * len(basis) + basis for cells in (owned_cells, domain.global_cells()))
        return cls(*each)


def coloured(
    colours: Tensor, count: int, sites: Sites, sign: Tensor, shifts: Sequence[tuple[int, int, int]], pattern: int
) -> Readings:
    """One vector for each of ``count`` colours and each basis site; ``colours [cells]``, ``sign [cells, basis]``.

    ``shifts``: (entry of the pattern, basis site that it starts from, ghosted sites from there to its end).
    """
    cells, basis = sites.ghosted.shape
    index = torch.arange(cells, device=colours.device)
    parts = []
    for entry, source, shift in shifts:
        start = sites.ghosted[:, source]
        diagonal = torch.full((cells,), float(shift == 0), dtype=torch.float64, device=colours.device)
        parts.append((colours * basis + source, start, start + shift, sign[:, source], index * pattern + entry, diagonal))
    return _sorted(count * basis, parts)


def between(opposite: Tensor, count: int, sites: Sites) -> Readings:
    """Every site read in the vector of another colour, ``opposite [cells]`` of ``count``: an error as such.

    What is read is ``sum_j s_j rho_ij`` over the sites j of that colour.
    """
    basis, site = sites.ghosted.shape[1], sites.ghosted.reshape(-1)
    vector = (opposite[:, None] * basis + torch.arange(basis, device=site.device)).reshape(-1)
    ones = torch.ones(len(site), dtype=torch.float64, device=site.device)
    index = torch.arange(len(site), device=site.device)
    return _sorted(count * basis, [(vector, site, site, ones, index, torch.zeros_like(ones))])


def single(chosen: Tensor, sites: Sites, shifts: Sequence[tuple[int, int, int]], pattern: int) -> Readings:
    """A vector for each of the sites ``chosen`` (global numbers), read at the entries that start there: no probing error."""
    basis, number = sites.number.shape[1], sites.number.reshape(-1)
    site, vector = torch.nonzero(number[:, None] == chosen, as_tuple=True)
    parts = []
    for entry, source, shift in shifts:
        mine = site[site % basis == source]
        start = sites.ghosted.reshape(-1)[mine]
        ones = torch.ones(len(mine), dtype=torch.float64, device=mine.device)
        output = mine // basis * pattern + entry
        parts.append((vector[site % basis == source], start, start + shift, ones, output, ones * float(shift == 0)))
    return _sorted(len(chosen), parts)


def random(vectors: int, seed: int, sites: Sites, shifts: Sequence[tuple[int, int, int]], pattern: int) -> Readings:
    """``vectors`` of random signs on all sites, each read at every site."""
    zeros = torch.zeros(len(sites.ghosted), dtype=torch.int64, device=sites.ghosted.device)
    parts = []
    for number in range(vectors):
        full = coloured(zeros, 1, sites, site_signs(seed, sites.number, number + 1), shifts, pattern)
        parts.append((torch.full_like(full.vector, number), full.source, full.target, full.sign, full.output, full.trace))
    return Readings(vectors, *(torch.cat(member) for member in zip(*parts, strict=True)))


def _sorted(vectors: int, parts: Sequence[Sequence[Tensor]]) -> Readings:
    """Readings in the order of their vectors; members of each part as those of :class:`Readings`."""
    vector, *rest = (torch.cat(member) for member in zip(*parts, strict=True))
    order = torch.argsort(vector, stable=True)
    return Readings(vectors, vector[order], *(member[order] for member in rest))


def site_signs(seed: int, global_sites: Tensor, number: int = 0) -> Tensor:
    """Signs +-1 of sites in float64, a function of (seed, number, site)."""
    word = philox((global_sites, number // _BITS, 0, 0), (seed, _STREAM))[0]
    return ((word >> (number % _BITS)) & 1).double() * 2 - 1
