"""Finite point groups from their integer matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpc_holstein.errors import ConfigError

_LARGEST_ORDER = 1000  # a set of matrices that generates more is taken for infinite


@dataclass(frozen=True)
class PointGroup:
    """A finite group of integer matrices acting on lattice offsets, ``r -> M_g r``; element 0 is the identity.

    ``matrices[g]`` is a nested tuple of integers, in the order of the array axes of the lattice.
    """

    matrices: tuple[tuple[tuple[int, ...], ...], ...]

    @classmethod
    def from_generators(cls, generators: Sequence[Sequence[Sequence[int]]]) -> PointGroup:
        """Close ``generators`` under products, breadth first from the identity, so that the order is reproducible."""
        arrays = [np.asarray(g, dtype=np.int64) for g in generators]
        dimension = arrays[0].shape[0]
        found = [np.eye(dimension, dtype=np.int64)]
        seen = {found[0].tobytes()}
        for element in found:  # grows while it is walked: breadth first
            for generator in arrays:
                product = generator @ element
                if product.tobytes() not in seen:
                    seen.add(product.tobytes())
                    found.append(product)
            if len(found) > _LARGEST_ORDER:
                raise ConfigError(
                    f"the matrices generate more than {_LARGEST_ORDER} elements: give those of a finite point group"
                )
        return cls(tuple(tuple(tuple(int(x) for x in row) for row in m) for m in found))

    @property
    def order(self) -> int:
        """Number of elements."""
        return len(self.matrices)

    @cached_property
    def array(self) -> NDArray[np.int64]:
        """Matrices as an array ``[g, d, d]``."""
        return np.asarray(self.matrices, dtype=np.int64)

    @cached_property
    def product_table(self) -> NDArray[np.int64]:
        """``product_table[g, h]`` is the index of ``M_g M_h``."""
        index = {m.tobytes(): g for g, m in enumerate(self.array)}
        products = np.einsum("gij,hjk->ghik", self.array, self.array)
        flat = [index[np.ascontiguousarray(m).tobytes()] for m in products.reshape(-1, *self.array.shape[1:])]
        return np.asarray(flat, dtype=np.int64).reshape(self.order, self.order)

    @cached_property
    def inverse(self) -> NDArray[np.int64]:
        """``inverse[g]`` is the index of ``M_g^-1``."""
        return np.argmax(self.product_table == 0, axis=1)

    @cached_property
    def conjugacy_classes(self) -> tuple[tuple[int, ...], ...]:
        """Classes ``{h g h^-1}`` as tuples of element indices, in the order of their first elements."""
        conjugates = self.product_table[self.product_table, self.inverse[:, None]]  # [h, g] -> h g h^-1
        classes = {tuple(sorted(set(conjugates[:, g].tolist()))) for g in range(self.order)}
        return tuple(sorted(classes))

    def site_permutations(self, offsets: ArrayLike) -> NDArray[np.int64]:
        """Permutation of a set of lattice offsets, closed under the group, by every element.

        ``offsets`` is an integer array ``[n, d]`` without repeats; the result ``perm[g, n]`` satisfies
        ``M_g offset_i = offset_perm[g, i]``, so that ``f'(r) = f(M_g^-1 r)`` reads ``f'[perm[g]] = f``.
        Raises ConfigError if an element leaves the set.
        """
        sites = np.asarray(offsets, dtype=np.int64)
        index = {site.tobytes(): i for i, site in enumerate(sites)}
        images = np.einsum("gij,nj->gni", self.array, sites)
        try:
            flat = [index[np.ascontiguousarray(image).tobytes()] for image in images.reshape(-1, sites.shape[1])]
        except KeyError as missing:
            stray = tuple(np.frombuffer(missing.args[0], dtype=np.int64).tolist())
            raise ConfigError(
                f"the offsets are not closed under the point group, {stray} is missing: give whole neighbour shells"
            ) from None
        return np.asarray(flat, dtype=np.int64).reshape(self.order, len(sites))
