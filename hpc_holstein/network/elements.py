"""Matrix elements of ``H`` as a network reads them: on the sites of a cell and on the directed pairs that start there.

Site ``i`` and each ``j`` of its nearest shells give ``(H_ii - mu) / t`` and ``H_ij / t``, with the hopping ``t`` as the unit of
energy; of several orbitals on a site, ``i`` and ``j`` are states, and those of one site are joined too.  The set is closed
under the symmetry of the lattice, which permutes it, up to signs of the orbitals, so that one network reads every Hamiltonian
of such orbitals whose pattern lies within.  Where the bonds of nearest neighbours join two sublattices, ``S H S`` with
``S = +1`` on one and -1 on the other turns the sign of the entries that join them, so that

    rho(-S H S) = 1 - S rho(H) S:

under the exchange of particles and holes entries of one sublattice, those of sites among them, are odd, and entries that join
the two are even; ``n - 1/2`` and ``rho_ij`` alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.errors import ModelError
from hpc_holstein.fields import displaced
from hpc_holstein.interfaces import Bond, Hamiltonian, Lattice
from hpc_holstein.symmetry.internal import is_bipartite
from hpc_holstein.symmetry.orbitals import ORBITALS
from hpc_holstein.symmetry.pairs import Pairs

SHELL = "H/t of shell "
"""Beginning of the names of the parts of shells, which cards record."""


@dataclass(frozen=True, eq=False)
class Elements:
    """The diagonal of a cell, elements between orbitals of a site, and directed ones of the nearest ``shells``, in this order.

    parts         of the diagonal, of orbitals of a site if it has several, and of each shell
    odd           of each part: sign changes under the exchange of particles and holes; all False where there is none
    orbital_kind  symmetry of the states of a site
    """

    parts: tuple[Pairs, ...]
    odd: tuple[bool, ...]
    orbital_kind: str = "s"

    @classmethod
    def of(cls, lattice: Lattice, shells: int, orbital_kind: str = "s") -> Elements:
        """The elements of ``lattice``."""
        near, orbitals, here = lattice.bonds(1), range(ORBITALS[orbital_kind]), (0,) * len(lattice.extent)
        exchanged = is_bipartite(near)
        sites = [Bond(site, site, here) for site in range(len(lattice.basis))]

        def part(bonds: Sequence[Bond], pairs: Sequence[tuple[int, int]]) -> Pairs:
            """Both directions of each pair of orbitals of each bond, one behind the other; of the diagonal the one there is."""
            of_states = [
                Bond(bond.source * len(orbitals) + a, bond.target * len(orbitals) + b, bond.offset)
                for bond, (a, b) in product(bonds, pairs)
            ]
            both = [one for bond in of_states for one in dict.fromkeys((bond, reverse(bond)))]
            array = np.array([(bond.source, bond.target, *bond.offset) for bond in both], dtype=np.int64)
            return Pairs.of_states(lattice, orbital_kind, array)

        parts, odd = [part(sites, [(a, a) for a in orbitals])], [exchanged]
        if len(orbitals) > 1:
            parts.append(part(sites, list(combinations(orbitals, 2))))
            odd.append(exchanged)
        for shell in range(1, shells + 1):
            bonds = lattice.bonds(shell)
            parts.append(part(bonds, list(product(orbitals, orbitals))))
            # two sites of one sublattice close a walk of an odd number of bonds
            odd.append(exchanged and not is_bipartite([*near, *bonds]))
        return cls(tuple(parts), tuple(odd), orbital_kind)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def states(self) -> int:
        """States of a cell."""
        return len(self.parts[0])

    @property
    def orbitals(self) -> int:
        """States of a site."""
        return ORBITALS[self.orbital_kind]

    @property
    def first_shell(self) -> int:
        """Number of the part of the nearest neighbours."""
        return 1 + (self.orbitals > 1)

    @property
    def reach(self) -> int:
        """Cells that a pair extends over."""
        return max(part.radius for part in self.parts)

    @cached_property
    def bonds(self) -> tuple[Bond, ...]:
        """Every element as a directed bond, on-site ones first."""
        return tuple(
            Bond(int(here), int(there), tuple(map(int, offset))) for part in self.parts for here, there, *offset in part.array
        )

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Place of each part among the elements."""
        ends = np.cumsum([0, *(len(part) for part in self.parts)]).tolist()
        return tuple(slice(*both) for both in pairwise(ends))


class ElementReader:
    """``(H - mu) / t`` of a Hamiltonian on ``elements``, and the way back from these to its pattern.

    ModelError for a Hamiltonian with entries beyond them.
    """

    def __init__(self, hamiltonian: Hamiltonian, elements: Elements) -> None:
        self.hamiltonian, self.elements = hamiltonian, elements
        self._halo = hamiltonian.reach
        self.margin = 2 * self._halo  # bonds of cells that begin one reach further out
        number = {bond: index for index, bond in enumerate(elements.bonds)}
        places = [(number.get(bond), number.get(reverse(bond))) for bond in hamiltonian.pattern]
        beyond = [bond for bond, (place, _) in zip(hamiltonian.pattern, places, strict=True) if place is None]
        if beyond:
            raise ModelError(
                f"the {hamiltonian.name} Hamiltonian joins sites that are {list(beyond[0].offset)} cells apart, and the "
                "network reads no such pairs: set more model.shells in its training, or use force kind 'exact' or 'kpm'"
            )
        self._places = [(one, other) for one, other in places if one is not None and other is not None]
        column = {place: k for k, (place, _) in enumerate(self._places)}
        column |= {place: k for k, (_, place) in enumerate(self._places) if place not in column}
        self._column = column

    def __call__(self, ghosted_q: Tensor, chemical_potential: Tensor) -> Tensor:
        """``[batch, *cells + 2 margin, basis, components]`` and ``mu [batch]`` -> ``[batch, *cells, elements]``."""
        halo, axes = self._halo, len(self.hamiltonian.lattice.extent)
        entries = self.hamiltonian.matrix(ghosted_q, halo)  # of the cells within halo
        spare = self.margin - halo
        ghosted = entries.unsqueeze(-2)
        found: list[Tensor | None] = []
        for index, bond in enumerate(self.elements.bonds):
            k = self._column.get(index)
            if k is None:
                found.append(None)
                continue
            direct = self._places[k][0] == index
            shift = (0,) * axes if direct else bond.offset
            found.append(displaced(ghosted, spare, shift)[..., 0, k])
        like = next(one for one in found if one is not None)
        unit = self.hamiltonian.hopping
        mu = chemical_potential.to(like).view(-1, *(1,) * axes)
        values = [
            like.new_zeros(like.shape) if one is None else (one - mu if index < self.elements.states else one) / unit
            for index, one in enumerate(found)
        ]
        return torch.stack(values, dim=-1)

    def on_pattern(self, rho: Tensor, outputs: NDArray[np.int64]) -> Tensor:
        """``rho [..., outputs]`` of these elements -> on the pattern of the Hamiltonian, zero where there is none."""
        found = rho.new_zeros((*rho.shape[:-1], len(self.hamiltonian.pattern)))
        of = {int(element): column for column, element in enumerate(outputs)}
        pairs = [(k, of[place]) for k, (place, _) in enumerate(self._places) if place in of]
        found[..., [k for k, _ in pairs]] = rho[..., [column for _, column in pairs]]
        return found


def fixed_parts(hamiltonian: Hamiltonian, elements: Elements) -> dict[str, tuple[float, float] | None]:
    """Lowest and highest ``H_ij/t`` of each part of the elements, None if one of them moves with the coordinates.

    By names such as ``H/t on sites`` and ``H/t of shell 1``; what the Hamiltonian does not join is 0.
    """
    halo, lattice = hamiltonian.reach, hamiltonian.lattice
    reader = ElementReader(hamiltonian, elements)
    shape = (2, *[1 + 2 * reader.margin] * len(lattice.extent), len(lattice.basis), hamiltonian.components)
    q = torch.randn(shape, generator=torch.Generator().manual_seed(halo), dtype=torch.float64)
    first, second = reader(q, torch.zeros(2, dtype=torch.float64)).reshape(2, -1).unbind()
    found: dict[str, tuple[float, float] | None] = {}
    for name, part in _named(elements):
        own = first[part]
        found[name] = (float(own.min()), float(own.max())) if torch.equal(own, second[part]) else None
    return found


def element_ranges(elements: Tensor, chemical_potential: Tensor, of: Elements) -> dict[str, tuple[float, float]]:
    """Lowest and highest ``H_ij/t`` of each part in ``(H - mu)/t [snapshot, *cells, elements]`` at ``mu/t [snapshot]``."""
    found = {}
    for name, part in _named(of):
        own = elements[..., part].double()
        if part.start == 0:
            own = own + chemical_potential.to(own).view(-1, *(1,) * (own.ndim - 1))
        found[name] = (float(own.min()), float(own.max()))
    return found


def _named(elements: Elements) -> list[tuple[str, slice]]:
    names = ["H/t on sites", *(["H/t between orbitals of a site"] if elements.orbitals > 1 else [])]
    names += [f"{SHELL}{shell}" for shell in range(1, 1 + len(elements.parts) - elements.first_shell)]
    return list(zip(names, elements.slices, strict=True))


def strength(elements: Tensor, of: Elements) -> Tensor:
    """Distance of the elements that start at a site from those of free electrons, ``[..., elements]`` -> ``[..., basis]``.

    ``x_i = [ h_ii^2 + sum_j (h_ij - h^0_ij)^2 ]^(1/2)``, ``h = (H - mu)/t``; ``h^0 = -1`` between nearest neighbours, else 0,
    and 0 everywhere for several orbitals on a site, whose hopping counts too.
    """
    squares = elements.square()
    if of.orbitals == 1:
        near = of.slices[of.first_shell]
        squares[..., near] = (elements[..., near] + 1).square()
    sites = np.concatenate([part.site for part in of.parts])
    total = squares.new_zeros((*squares.shape[:-1], of.states // of.orbitals))
    return total.index_add(-1, torch.from_numpy(sites).to(total.device), squares).sqrt()


def reverse(bond: Bond) -> Bond:
    """The bond from its other end."""
    return Bond(bond.target, bond.source, tuple(-step for step in bond.offset))
