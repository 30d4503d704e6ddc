"""Columns of the resolvent ``G(z) = (H - z)^-1``: right-hand sides, and what is read of the solutions.

A right-hand side is one site, which has no probing error, or the sites of one colour ``k`` with signs,

    (G b_k)_i s_j = G_ij + sum_{j' != j} s_j s_j' G_ij',      b_k = sum_{j of colour k} s_j e_j.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.domain.transport import Transport, agreed
from hpc_holstein.forces._elements import needed_entries
from hpc_holstein.forces._poles import PoleExpansion
from hpc_holstein.forces._probing import Colouring, site_signs
from hpc_holstein.forces._rows import Rows
from hpc_holstein.forces._sampled import lowest_sites, owned_sites, read_for
from hpc_holstein.interfaces import Domain, Hamiltonian

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
Index = NDArray[np.int64]

_PILOTS = 32
_SAFETY = 0.02  # of the tolerance: columns of sites that were not looked at weigh more


class LinearSystem(Protocol):
    """``(H - z) x = b`` on all ranks together.

    ``solved`` right-hand sides and ``iterations`` since it was made; largest ``residual`` ``|b - (H - z) x| / |b|`` since the
    matrix was loaded.
    """

    solved: int
    iterations: int
    residual: float

    def load(self, rows: Rows, residual: float) -> None:
        """Take the matrix, and the residual that is asked for."""

    def shift(self, z: complex) -> None:
        """Get ready to solve at ``z``."""

    def solve(self, b: Array) -> Complex:
        """``x`` on the owned sites for a real ``b`` there, both ``[sites]``."""
        ...


@dataclass(frozen=True)
class RightHandSides:
    """On the tile of one rank, each member in the order of the vectors: where they start, and what is read of the solutions.

    start_vector, start_site, start_sign  vector, owned site, and the number there
    vector, target, sign                  vector, ghosted site at which it is read, factor
    output                                index in the owned entries of the pattern, flattened ``[cells, pattern]``
    diagonal                              1 where the reading is on the diagonal, else 0
    """

    vectors: int
    start_vector: Index
    start_site: Index
    start_sign: Array
    vector: Index
    target: Index
    sign: Array
    output: Index
    diagonal: Array


@dataclass(frozen=True)
class Pilots:
    """Columns of ``rho`` at the sites whose level is nearest to the centre of the poles: the longest ones.

    site, vector  owned site and vector of those on this rank
    diagonal      ``[poles, sites]`` of the resolvents there, without probing error
    columns       ``|rho| [owned sites, vectors]``, zero on the diagonal
    """

    site: Index
    vector: Index
    diagonal: Complex
    columns: Tensor

    def choose(self, domain: Domain, tolerance: float) -> Colouring:
        """The colouring of fewest colours whose probing error stays well below the tolerance at the pilot sites."""
        candidates = Colouring.candidates(domain.lattice.extent)
        return next(c for c in candidates if c.exact or self._leak(domain, c) <= _SAFETY * tolerance)

    def _leak(self, domain: Domain, colouring: Colouring) -> float:
        """Largest sum of ``|rho_ij|`` over the other sites ``i`` of the colour of a pilot site ``j``."""
        colour = _colours(domain, colouring)
        own = torch.zeros(self.columns.shape[1], dtype=torch.float64)
        own[self.vector] = colour[self.site].double()
        same = (colour[:, None] == domain.allsum(own)).double()
        return float(domain.allsum((same * self.columns).sum(dim=0)).max())


class Columns:
    """What is solved for and read on the tile of one rank; ``wanted``: the sites whose force is asked for, None for all.

    ``team``: ranks that hold the same tile and share the poles, and the vectors where there are more ranks than poles.
    """

    def __init__(
        self,
        hamiltonian: Hamiltonian,
        domain: Domain,
        system: LinearSystem,
        team: Transport,
        wanted: Tensor | None,
        seed: int,
    ) -> None:
        self.domain, self.system, self.team = domain, system, team
        self._pattern, self._seed, self._basis = len(hamiltonian.pattern), seed, len(domain.lattice.basis)
        bonds = [(entry, hamiltonian.pattern[entry]) for entry in needed_entries(hamiltonian, domain)]
        on_site = all(bond.source == bond.target and not any(bond.offset) for _, bond in bonds)
        self._width = 0 if on_site else hamiltonian.reach
        cells = [n + 2 * self._width for n in domain.local_extent]
        first = domain.crop(torch.arange(math.prod(cells)).view(*cells, 1, 1), self._width) * self._basis
        basis = torch.arange(self._basis)
        self._ghosted = (first[..., 0] + basis).reshape(-1)
        self._number = owned_sites(domain).reshape(-1)
        self._shifts = [
            (entry, bond.source, self._basis * _distance(bond.offset, cells) + bond.target - bond.source)
            for entry, bond in bonds
        ]
        self._wanted = None if wanted is None else read_for(wanted, hamiltonian, domain)

    def one_by_one(self) -> RightHandSides:
        """A right-hand side for each site, or for each that the forces at the wanted sites take."""
        return self._single(torch.arange(self.domain.lattice.sites) if self._wanted is None else self._wanted)

    def coloured(self, colouring: Colouring) -> RightHandSides:
        """A right-hand side for each colour of the cells and each site of a cell."""
        signs = site_signs(self._seed, self._number)
        return self._right_hand_sides(colouring.colours * self._basis, _colours(self.domain, colouring), signs)

    def pilots(self, expansion: PoleExpansion, levels: Tensor) -> Pilots:
        """Solve for the sites whose ``levels [*cells, basis]`` are nearest to the centre."""
        sides = self._single(lowest_sites((levels - expansion.centre).abs(), self.domain, _PILOTS).sort().values)
        columns = np.zeros((len(self._number), sides.vectors))
        values = self.solve(expansion, sides, (expansion.fermi(expansion.centre).poles, columns))
        diagonal = torch.view_as_real(torch.from_numpy(values[:, sides.diagonal == 1]))
        rho = self.team.allsum(torch.from_numpy(columns)).abs()
        rho[sides.start_site, sides.start_vector] = 0
        exact = torch.view_as_complex(self.team.allsum(diagonal)).numpy()
        return Pilots(sides.start_site, sides.start_vector, exact, rho)

    def solve(self, expansion: PoleExpansion, sides: RightHandSides, add: tuple[Complex, Array] | None = None) -> Complex:
        """Resolvents at the poles, ``[poles, readings]``; ``add = (w, columns)``: ``columns [sites, vectors] += Re w_p x``.

        Zero where another rank of the team solves.  Raises on all ranks what the linear system raises on one.
        """
        values = np.zeros((len(expansion.heights), len(sides.target)), dtype=np.complex128)
        with agreed(self.team):
            for pole, vectors in self._share(len(expansion.heights), sides.vectors):
                self.system.shift(complex(expansion.centre, expansion.heights[pole]))
                self._solve(sides, vectors, values[pole], None if add is None else (add[0][pole], add[1]))
        return values

    def _share(self, poles: int, vectors: int) -> Iterator[tuple[int, range]]:
        """Poles and vectors of this rank of the team."""
        rank, size = self.team.rank, self.team.size
        if size <= poles:
            yield from ((pole, range(vectors)) for pole in range(rank, poles, size))
        else:
            pole = rank % poles
            yield pole, range(rank // poles, vectors, len(range(pole, size, poles)))

    def _solve(self, sides: RightHandSides, vectors: range, values: Complex, add: tuple[complex, Array] | None) -> None:
        """Some vectors at the pole to which the linear system is shifted."""
        starts, readings = (np.searchsorted(v, np.arange(sides.vectors + 1)) for v in (sides.start_vector, sides.vector))
        for vector in vectors:
            start, read = (slice(cut[vector], cut[vector + 1]) for cut in (starts, readings))
            b = np.zeros(len(self._number))
            b[sides.start_site[start]] = sides.start_sign[start]
            x = self.system.solve(b)
            values[read] = self._spread(x)[sides.target[read]] * sides.sign[read]
            if add is not None:
                add[1][:, vector] += (add[0] * x).real

    def _single(self, sites: Tensor) -> RightHandSides:
        """One for each of the sorted ``sites``."""
        position = torch.searchsorted(sites, self._number).clamp_max(len(sites) - 1)
        vector = torch.where(sites[position] == self._number, position, -1)
        return self._right_hand_sides(len(sites), vector, torch.ones(len(vector), dtype=torch.float64))

    def _right_hand_sides(self, vectors: int, vector: Tensor, sign: Tensor) -> RightHandSides:
        """From the ``vector [owned sites]`` in which each site starts, -1 for none, and its ``sign``."""
        site = torch.nonzero(vector >= 0)[:, 0]
        site = site[torch.argsort(vector[site], stable=True)]
        parts = []
        for entry, source, shift in self._shifts:
            mine = site[site % self._basis == source]
            output, diagonal = mine // self._basis * self._pattern + entry, torch.full_like(sign[mine], float(shift == 0))
            parts.append((vector[mine], self._ghosted[mine] + shift, sign[mine], output, diagonal))
        readings = [torch.cat(part) for part in zip(*parts, strict=True)]
        order = torch.argsort(readings[0], stable=True)
        starts = (vector[site].numpy(), site.numpy(), sign[site].numpy())
        return RightHandSides(vectors, *starts, *(part[order].numpy() for part in readings))

    def _spread(self, x: Complex) -> Complex:
        """From the owned to the ghosted sites."""
        if self._width == 0:
            return x
        field = torch.from_numpy(x.view(np.float64)).view(*self.domain.local_extent, self._basis, 2)
        return self.domain.pad(field, self._width).numpy().reshape(-1).view(np.complex128)


def _colours(domain: Domain, colouring: Colouring) -> Tensor:
    """Colour of each owned site, ``[sites]``: those of the cells, apart for the sites of a cell."""
    basis = len(domain.lattice.basis)
    return (colouring.of(domain.owned, domain.device).unsqueeze(-1) * basis + torch.arange(basis)).reshape(-1)


def _distance(offset: Sequence[int], cells: Sequence[int]) -> int:
    """Row-major distance of two of ``cells`` that are ``offset`` apart."""
    return sum(step * math.prod(cells[axis + 1 :]) for axis, step in enumerate(offset))
