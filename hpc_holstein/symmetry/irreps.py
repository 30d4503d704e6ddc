"""Real irreducible representations of a finite group, and symmetry-adapted bases by projection.

The irreps are cut out of the real regular representation: a random symmetric matrix that commutes with it has one
eigenspace per irreducible subspace (J. D. Dixon, Math. Comp. 24, 707 (1970)).  A real irrep is of real, complex or
quaternionic type: its commutant has dimension 1, 2 or 4 (Frobenius and Schur); C4, for one, has a two-dimensional
irrep of complex type.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.symmetry.point_group import PointGroup

Matrix = NDArray[np.float64]
FrobeniusSchur = Literal["real", "complex", "quaternionic"]

_TYPES: dict[int, FrobeniusSchur] = {1: "real", 2: "complex", 4: "quaternionic"}
_SEED = 20260104  # of the random commuting matrix; the irreps do not depend on it
_SAME = 1e-7  # eigenvalues of O(1) nearer than this are one
_ZERO = 1e-5  # a projected vector shorter than this vanishes


@dataclass(frozen=True, eq=False)
class Irrep:
    """A real irreducible representation: orthogonal ``matrices[g, d, d]`` with ``D(g) D(h) = D(gh)``.

    A phase convention makes the matrices reproducible: the basis vectors are eigenvectors of as many commuting involutions as
    possible, taken in order of class size and element index, with eigenvalues +1 first, and ``D(g)_k0 > 0`` for the first
    element ``g`` where it is not zero.
    """

    matrices: Matrix
    type: FrobeniusSchur

    @property
    def dimension(self) -> int:
        """Dimension over the real numbers."""
        return self.matrices.shape[1]

    @property
    def character(self) -> Matrix:
        """``chi(g) = Tr D(g)``, ``[g]``."""
        return np.trace(self.matrices, axis1=1, axis2=2)

    @property
    def commutant_dimension(self) -> int:
        """Dimension of the matrices that commute with all ``D(g)``; also ``<chi, chi>``."""
        return {kind: dimension for dimension, kind in _TYPES.items()}[self.type]


@lru_cache(maxsize=32)
def real_irreps(group: PointGroup) -> tuple[Irrep, ...]:
    """All real irreps of ``group`` by dimension and characters, the trivial one first: A1, A2, B1, B2, E of the square.

    They satisfy ``sum_irreps d^2 / (commutant dimension) = |G|`` and ``<chi_a, chi_b> = delta_ab (commutant dimension)``
    with ``<x, y> = sum_g x(g) y(g) / |G|``.
    """
    found = [_canonical(matrices, group) for matrices in _split_regular(group)]
    found.sort(key=lambda m: (m.shape[1], tuple(-np.round(np.trace(m, axis1=1, axis2=2), 6))))
    characters = [np.trace(m, axis1=1, axis2=2) for m in found]
    return tuple(
        Irrep(matrices, _TYPES[round(float(chi @ chi) / group.order)]) for matrices, chi in zip(found, characters, strict=True)
    )


def symmetry_adapted_basis(permutations: NDArray[np.int64], irrep: Irrep) -> Matrix:
    """Orthonormal functions on permuted sites that transform as the partners of ``irrep``: ``[copies, d, sites]``.

    ``permutations[g, i]`` is the site that element ``g`` takes site ``i`` to, so ``(P_g f)(g i) = f(i)``.  The result ``b``
    satisfies ``P_g b_j = sum_k D_kj(g) b_k`` and its components ``y_j = <b_j, f>`` transform as ``y(P_g f) = D(g) y(f)``.
    They follow from the projection ``b_j ~ sum_g D_j0(g) P_g e_i`` of single sites ``i`` in their order; the overlap of
    ``b_0`` with that site is positive.  A copy lives on one orbit (neighbour shell) alone.
    """
    order, sites = permutations.shape
    fixed = np.count_nonzero(permutations == np.arange(sites), axis=1)
    copies = round(float(fixed @ irrep.character) / order / irrep.commutant_dimension)

    def projected(site: int) -> Matrix:
        partners = np.zeros((sites, irrep.dimension))
        np.add.at(partners, permutations[:, site], irrep.matrices[:, :, 0] / order)
        return partners

    return orthonormal_copies((projected(site) for site in range(sites)), copies).transpose(0, 2, 1)


def orthonormal_copies(candidates: Iterable[Matrix], copies: int) -> Matrix:
    """Gram-Schmidt on intertwiners ``[n, d]`` until ``copies`` of them span orthogonal subspaces: ``[copies, n, d]``.

    An intertwiner of an irrep has orthogonal columns of one length, and ``B - A (A^T B)`` is one again: ``A^T B`` commutes
    with the irrep.
    """
    basis: list[Matrix] = []
    for candidate in candidates:
        if len(basis) == copies:
            break
        for _ in range(2):  # the second pass removes what round-off left
            for known in basis:
                candidate = candidate - known @ (known.T @ candidate)
        length = np.linalg.norm(candidate[:, 0])
        if length > _ZERO:
            basis.append(_rounded(candidate / length))
    return np.array(basis).reshape(copies, *candidate.shape)


def _split_regular(group: PointGroup) -> list[Matrix]:
    """One matrix representation ``[g, d, d]``, in an arbitrary basis, per real irrep."""
    weights = np.random.default_rng(_SEED).standard_normal(group.order)
    weights = (weights + weights[group.inverse]) / np.sqrt(group.order)
    commuting = weights[group.product_table[group.inverse]]  # A[x, y] = w(x^-1 y), invariant under (x, y) -> (gx, gy)
    found: dict[bytes, Matrix] = {}
    for space in _eigenspaces(commuting):
        character = np.einsum("gxi,xi->g", space[group.product_table], space)  # Tr of (L_g f)(gx) = f(x)
        key = (np.round(character, 4) + 0.0).tobytes()
        if key not in found:
            found[key] = np.einsum("gxi,xj->gij", space[group.product_table], space)
    return list(found.values())


def _canonical(matrices: Matrix, group: PointGroup) -> Matrix:
    """The same irrep in the basis of the phase convention, see :class:`Irrep`.

    ``e_0`` is any unit vector of the first line (joint eigenspace); two of them differ by a unit of the commutant, under
    which the matrices do not change.  All other vectors are images ``D(g) e_0`` projected on the lines.
    """
    lines = _eigenspaces(_line_operator(matrices, group))
    first = lines[-1][:, 0]
    basis = [first]
    for line in reversed(lines):  # the largest eigenvalue first
        filled = len(basis) - 1 if line is lines[-1] else len(basis)
        for element in matrices:
            if len(basis) - filled == line.shape[1]:
                break
            image = line @ (line.T @ (element @ first))
            image = image - np.array(basis).T @ (np.array(basis) @ image)
            length = np.linalg.norm(image)
            if length > _ZERO:
                basis.append(image / length)
    change = np.array(basis)
    return _rounded(np.einsum("ia,gab,jb->gij", change, matrices, change))


def _line_operator(matrices: Matrix, group: PointGroup) -> Matrix:
    """A symmetric matrix whose eigenspaces are fixed by the group alone, as small as the commutant allows."""
    dimension = matrices.shape[1]
    size = {g: len(members) for members in group.conjugacy_classes for g in members}
    operator = np.zeros((dimension, dimension))
    lines, scale = 1, 1.0
    for g in sorted(range(group.order), key=lambda g: (size[g], g)):
        candidate = matrices[g]
        if not np.allclose(candidate, candidate.T) or not np.allclose(candidate @ operator, operator @ candidate):
            continue
        if len(_eigenspaces(operator + scale * candidate)) > lines:
            operator = operator + scale * candidate
            lines, scale = len(_eigenspaces(operator)), scale / 4  # powers keep sign tuples apart and in order
    weights = np.cos(1.0 + np.arange(group.order) ** 2)  # no two lines of a real irrep have the same mean
    generic = np.einsum("g,gij->ij", weights, matrices) / np.abs(weights).sum()
    projectors = [line @ line.T for line in _eigenspaces(operator)]
    return operator + scale * sum(p @ (generic + generic.T) @ p for p in projectors) / 8


def _eigenspaces(symmetric: Matrix) -> list[Matrix]:
    """Orthonormal bases of the eigenspaces, by rising eigenvalue."""
    values, vectors = np.linalg.eigh(symmetric)
    starts = np.flatnonzero(np.diff(values) > _SAME) + 1
    return [np.asarray(space) for space in np.split(vectors, starts, axis=1)]


def _rounded(values: Matrix) -> Matrix:
    """Removes the round-off of the entries 0, +-1/2 and +-1, which most entries are."""
    halves = np.round(2 * values) / 2
    return np.where(np.abs(values - halves) < 1e-12, halves, values) + 0.0
