"""Layers of group convolutions as compiled code computes them: in the irreducible representations of the point group G.

The value of element ``g`` at a site is a sum over inputs ``m``, numbers on cells around it which G permutes,

    y_g = sum_m w[g^-1 m] f_m.

The stabiliser K of the site cuts the inputs into orbits.  With one input ``m`` of each, of stabiliser S in K,

    y_g = sum_m sum_{k in K/S} c_m[g^-1 k] f_km,    c_m[a] = w[a m],

which the irreps D of G make block-diagonal:

    Y = sum_m V_m C_m,   V_m = sum_k f_km D(k),   C_m = sum_a c_m[a] D(a)^T,   y_g = sum_D d_D / (|G| n_D) tr(D(g)^T Y),

``n_D``: dimension of the commutant of D.  For D4 that is 12 multiplications instead of 64, for D6 20 instead of 144.  ``C_m``
is ``P C_m`` for the mean P of D over S, so ``V_m U`` and ``U^+ C_m`` do, where the columns of U span the image of P.  Other
sites of a cell see what an element of G that takes the first one to them makes of its inputs.  Source: Fourier transforms on
finite groups, Diaconis and Rockmore, doi:10.1090/S0894-0347-1990-1030655-4.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.compiled.programs import Combinations, Part, Program
from hpc_holstein.symmetry.irreps import Irrep, real_irreps
from hpc_holstein.symmetry.pairs import Pairs
from hpc_holstein.symmetry.space_group import SpaceGroup

Matrix = NDArray[np.float64]
Integers = NDArray[np.int64]

_SAME = 1e-9


class Kind(NamedTuple):
    """Inputs that are treated alike: of one stabiliser, and so many channels in turn that are so far from each other."""

    stabiliser: tuple[int, ...]
    turn: int
    apart: int


class Source(NamedTuple):
    """Inputs of one kind, a few on each cell, which the group permutes.

    sites     ``[n]``: site of the cell that each is at
    images    ``[g, n]``
    columns   ``[n, inner]``, of the dense kernel; several that the group treats alike
    channels  ``[n, inner]``: where they are
    turn      so many of these at most are computed in turn: the fewer, the more networks share a program
    """

    sites: Integers
    images: Integers
    columns: Integers
    channels: Integers
    turn: int


class Orbits(NamedTuple):
    """Inputs of a layer of one kind.

    images   ``[items, site of the cell, image, (channel, *offset)]`` of the first input of each turn
    weights  of each irrep the matrices ``C_m``, ``[items, turn, copies, d, d]``
    """

    images: Integers
    weights: list[Matrix]


class Symmetry:
    """The symmetry of a lattice as layers use it; see :meth:`is_one_orbit`."""

    def __init__(self, group: SpaceGroup, together: int, registers: int) -> None:
        """``together``: copies that are computed at once; ``registers``: for the sums of a pass."""
        self.group, self.irreps, self.together = group, real_irreps(group.point_group), together
        self._passes: list[list[int]] = []  # irreps of each
        used = registers
        for number, irrep in enumerate(self.irreps):
            if used + together * irrep.dimension**2 > registers:
                self._passes.append([])
                used = 0
            used += together * irrep.dimension**2
            self._passes[-1].append(number)
        self.stabiliser = np.flatnonzero(group.site[:, 0] == 0)
        self.to_site = np.argmax(group.site[:, 0][:, None] == np.arange(group.site.shape[1]), axis=0)
        """Element that takes the first site to each."""

    @staticmethod
    def is_one_orbit(group: SpaceGroup) -> bool:
        """True if the group takes the first site of a cell to all others."""
        return len(np.unique(group.site[:, 0])) == group.site.shape[1]

    def regular(self, copies: int) -> Source:
        """``copies`` of the regular representation on each site, with channels ``(site, copy, element)``.

        Elements of a site are relative to what takes the first site there, as :attr:`Program.back` makes them.
        """
        order, sites = self.group.site.shape
        table, inverse = self.group.point_group.product_table, self.group.point_group.inverse
        images = self.group.site[:, :, None] * order + table[:, None, :]  # [g, site, h]
        first = (np.arange(sites)[:, None, None] * copies + np.arange(copies)) * order
        columns, channels = first + np.arange(order)[:, None], first + table[inverse[self.to_site]][..., None]
        shape = sites * order, copies
        at = np.repeat(np.arange(sites), order)
        return Source(at, images.reshape(order, -1), columns.reshape(shape), channels.reshape(shape), 4)

    def elements(self, pairs: Pairs, first: int, inner: int) -> Source:
        """``inner`` numbers of each of the ``pairs``, channels ``(pair, inner)`` from ``first`` on."""
        images = pairs.moved_back[self.group.point_group.inverse]
        columns = np.arange(first, first + len(pairs) * inner).reshape(-1, inner)
        return Source(pairs.here, images, columns, columns, 2)

    def orbits(self, sources: Iterable[Source], seen: Pairs, kernel: Matrix) -> dict[Kind, Orbits]:
        """All inputs of a layer, with weights from its dense kernel."""
        order = self.group.point_group.order
        first = kernel.reshape(self.group.site.shape[1], -1, order, *kernel.shape[1:])[0]
        found: dict[Kind, list[tuple[Integers, list[Matrix]]]] = {}
        for source in sources:
            inner = source.channels.shape[1]
            turn = next(count for count in (4, 2, 1) if inner % count == 0 and count <= source.turn)
            apart = int(source.channels[0, 1] - source.channels[0, 0]) if turn > 1 else 0
            for stabiliser, number, offset in self._representatives(source, seen):
                elements = self.group.point_group.product_table[self.to_site[:, None], self._cosets(stabiliser)]
                numbers, offsets = self._moved(source, number, offset, elements)
                at = tuple(offset + seen.radius)
                for start in range(0, inner, turn):
                    images = np.concatenate([source.channels[numbers, start][..., None], offsets], axis=-1)
                    columns = source.columns[number, start : start + turn]
                    dense = first[(slice(None), slice(None), columns, *at)]  # [o, g, turn]
                    weights = [
                        np.einsum("ogt,gij->toij", dense, irrep.matrices) * _factor(irrep, order) for irrep in self.irreps
                    ]
                    found.setdefault(Kind(stabiliser, turn, apart), []).append((images, weights))
        return {
            kind: Orbits(
                np.array([images for images, _ in items]), [np.array(part) for part in zip(*(w for _, w in items), strict=True)]
            )
            for kind, items in found.items()
        }

    def _moved(self, source: Source, number: int, offset: Integers, elements: Integers) -> tuple[Integers, Integers]:
        """Images of an input at an offset from the first site, relative to the site that this goes to."""
        group, site = self.group, source.sites[number]
        turned = group.point_group.array[elements] @ offset + group.cell[elements, site] - group.cell[elements, 0]
        return source.images[elements, number], turned

    def _representatives(self, source: Source, seen: Pairs) -> list[tuple[tuple[int, ...], int, Integers]]:
        """Stabiliser, number and offset of one input of each orbit: of its members that of the least stabiliser."""
        done: set[tuple[int, ...]] = set()
        found = []
        for _, there, *offset in seen.array[seen.here == 0]:
            for number in np.flatnonzero(source.sites == there):
                if (int(number), *map(int, offset)) in done:
                    continue
                orbit = {}
                for n, d in zip(*self._moved(source, int(number), np.array(offset), self.stabiliser), strict=True):
                    member = (int(n), *map(int, d))
                    if member not in orbit:
                        numbers, offsets = self._moved(source, n, d, self.stabiliser)
                        orbit[member] = tuple(self.stabiliser[(numbers == n) & (offsets == d).all(axis=1)].tolist())
                done |= set(orbit)
                stabiliser, (n, *d) = min((of, member) for member, of in orbit.items())
                found.append((stabiliser, n, np.array(d)))
        return found

    def _cosets(self, stabiliser: tuple[int, ...]) -> Integers:
        """The first element of each coset ``k S`` in the stabiliser of the first site."""
        members = self.group.point_group.product_table[self.stabiliser][:, list(stabiliser)]
        return np.unique(members.min(axis=1))

    def _image(self, irrep: Irrep, stabiliser: tuple[int, ...]) -> Matrix:
        """U, whose columns span what the stabiliser leaves as it is."""
        mean = irrep.matrices[list(stabiliser)].mean(axis=0)
        rank = round(float(np.trace(mean)))
        if rank == irrep.dimension:
            return np.eye(rank)
        span = np.linalg.svd(mean)[0][:, :rank]
        largest = span[np.abs(span).argmax(axis=0), np.arange(rank)]
        return np.asarray(span / largest) if rank else span

    def program(self, kinds: Sequence[Kind], exchanged: bool) -> Program:
        """The program for inputs of these kinds."""
        parts = [
            (sum(self.irreps[n].dimension ** 2 for n in irreps), tuple(self._part(irreps, one) for one in kinds))
            for irreps in self._passes
        ]
        rows = np.concatenate([irrep.matrices.reshape(len(irrep.matrices), -1) for irrep in self.irreps], axis=1)
        return Program(len(rows), self.together, exchanged, tuple(parts), combined(rows))

    def _part(self, irreps: Sequence[int], kind: Kind) -> Part:
        cosets = self._cosets(kind.stabiliser)
        rows: list[Matrix] = []
        products: list[tuple[int, int, int]] = []
        weight = total = 0
        for irrep in (self.irreps[number] for number in irreps):
            d, span = irrep.dimension, self._image(irrep, kind.stabiliser)
            rank = span.shape[1]
            for j in range(rank):
                for k in range(d):
                    products += [(len(rows) + i * rank + j, weight + j * d + k, total + i * d + k) for i in range(d)]
            rows += list((irrep.matrices[cosets] @ span).transpose(1, 2, 0).reshape(d * rank, len(cosets)))
            weight, total = weight + rank * d, total + d * d
        values = combined(np.array(rows).reshape(len(rows), len(cosets)))
        used = tuple(one for one in products if values.results[one[0]][1])
        return Part(len(cosets), kind.turn, kind.apart, values, used, weight)

    def packed(self, orbits: Mapping[Kind, Orbits], kinds: Sequence[Kind]) -> Matrix:
        """Weights of a layer in the order in which :meth:`program` reads them, ``[blocks of copies, weights]``."""
        found = list[Matrix]()
        for irreps, kind in product(self._passes, [one for one in kinds if one in orbits]):
            parts: list[Matrix] = []
            for number in irreps:
                onto = np.linalg.pinv(self._image(self.irreps[number], kind.stabiliser))
                whole = np.einsum("rj,ntojk->ntork", onto, orbits[kind].weights[number])
                parts.append(whole.reshape(*whole.shape[:3], math.prod(whole.shape[3:])))
            items, turn, copies, size = (flat := np.concatenate(parts, axis=3)).shape
            blocks = flat.reshape(items * turn, copies // self.together, self.together, size).transpose(1, 0, 3, 2)
            found.append(blocks.reshape(len(blocks), items * turn * size * self.together))
        return np.concatenate(found, axis=1)


def _factor(irrep: Irrep, order: int) -> float:
    return irrep.dimension / (order * irrep.commutant_dimension)


def combined(matrix: Matrix) -> Combinations:
    """``matrix x`` in few operations: what most rows share is computed first, again and again (Paar's algorithm)."""
    rows = [{j: float(c) for j, c in enumerate(row) if abs(c) > _SAME} for row in matrix]
    steps: list[tuple[int, int, float]] = []
    while True:
        shared = Counter((i, j, round(row[j] / row[i], 9)) for row in rows for i, j in combinations(sorted(row), 2))
        if not shared:
            break
        most = max(shared.values())
        i, j, near = min(pair for pair, count in shared.items() if count == most)
        users = [row for row in rows if i in row and j in row and round(row[j] / row[i], 9) == near]
        factor = users[0][j] / users[0][i]
        if near == -1 and sum(row[j] for row in users) > 0:  # x_j - x_i, which fewer rows take with another sign
            i, j = j, i
        new = matrix.shape[1] + len(steps)
        for row in users:
            row[new] = row.pop(i)
            del row[j]
        steps.append((i, j, factor))
    return Combinations(tuple(steps), tuple(next(iter(row.items()), (0, 0.0)) for row in rows))
